"""A causal language model of any family with what alignment asks of it: a layer's states and the loss at positions."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from alignment_train import losses
from alignment_train.losses import LazyLogits
from alignment_train.models import adapter, prefix
from alignment_train.models.chat import DATE, ChatFormat, template_of
from pipelines.errors import UserError

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Settings of generation_config.json that mean nothing without do_sample."""

disable_progress_bar()  # of loading and saving weights: our own line says what runs

Packing = Literal["positions", "mask"]
"""What keeps texts that share a row apart: positions that restart, or a mask for each query and key."""


class _EarlyExit(Exception):
    """Carries the hidden state out of a forward pass that need not go on."""

    def __init__(self, hidden: Tensor):
        self.hidden = hidden


class Model:
    """`lm` is the causal LM, `tokenizer` its tokenizer; both are the stock transformers objects.

    `adapter` is the PeftModel around `lm` where an adapter was laid into it, else None; `prefix` the hook that puts a
    prefix before all that runs, where the adapter is one.
    """

    def __init__(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase):
        self.lm: Any = lm
        self.tokenizer: Any = tokenizer
        self.body: Any = _body(self.lm)
        self.blocks = _blocks(self.body, self.lm.config.num_hidden_layers)
        self.adapter: Any = None
        self.prefix: Any = None
        self.notes: list[str] = []
        """What was changed about a base model when it was loaded."""
        self.commit: str | None = None
        """The commit of the hub that a base model was downloaded at."""
        self.chat_date = DATE
        """The date that chat templates write which write one."""
        self._chat: ChatFormat | None = None

    @property
    def chat(self) -> ChatFormat:
        """How conversations are written; UserError where the tokenizer's chat template allows no way to."""
        source = template_of(self.tokenizer)
        if self._chat is None or (self._chat.source, self._chat.today) != (source, self.chat_date):
            self._chat = ChatFormat(self.tokenizer, self.chat_date)
        return self._chat

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    def frozen(self, head: bool = True) -> "Model":
        """A copy as it is now, that is not trained and has no dropout; without a head it has states and no logits.

        It has no prefix: an untrained one is not neutral, and what is wanted is the base model.
        """
        with prefix.prefix_disabled(self):
            copy = Model(deepcopy(self.lm if head else self.body).eval().requires_grad_(False), self.tokenizer)
        if head:
            copy.__dict__["head_kind"] = self.head_kind
        return copy

    def hidden(self, input_ids: Tensor, mask: Tensor, layer: int, positions: Tensor | None = None) -> Tensor:
        """[N, T, H]: `hidden_states[layer]`, computed without the blocks above it.

        layer: 0 to the number of blocks; the top one is normed, as in transformers. positions: [N, T] where several
        texts share a row, 0 at the first token of each (`data.pack`); no text sees another then, and `mask` is unused.
        """
        given = self._forward_kwargs(input_ids, mask, positions)
        if layer == len(self.blocks):
            return self.body(**given).last_hidden_state

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _EarlyExit(args[0] if args else kwargs["hidden_states"])

        hook = self.blocks[layer].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)  # before FSDP gathers
        try:
            self.body(**given)
        except _EarlyExit as reached:
            return reached.hidden
        finally:
            hook.remove()
        raise AssertionError(f"{type(self.lm).__name__} never ran block {layer}")

    def hidden_states(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """All of `hidden_states`, each [N, T, H], in one forward pass: the same as those of `hidden`.

        Those that transformers returns are other states in some families (Mamba and RWKV: after the block).
        """
        layers = range(len(self.blocks) + 1)
        with self.recording(layers) as states:
            self.body(input_ids=input_ids, attention_mask=mask, use_cache=False)
        return tuple(states[layer] for layer in layers)

    @contextmanager
    def recording(self, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Fills what it gives with `hidden_states[layer]`, [N, T, H] each, of the last forward pass made within.

        So one pass serves a loss at logits and one at states. layers: 0 to the number of blocks.
        """
        states: dict[int, Tensor] = {}

        def block(layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[layer] = args[0] if args else kwargs["hidden_states"]

        def top(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            states[len(self.blocks)] = output[0]

        hooks = [
            self.blocks[layer].register_forward_pre_hook(partial(block, layer), with_kwargs=True)
            for layer in set(layers) - {len(self.blocks)}
        ]
        if len(self.blocks) in layers:
            hooks.append(self.body.register_forward_hook(top))
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def logits(self, input_ids: Tensor, mask: Tensor, wanted: Tensor, positions: Tensor | None = None) -> LazyLogits:
        """[P, V]: the logits at the P positions where the bool [N, T] `wanted` is true, and nowhere else.

        positions: as of `hidden`.
        """
        return self.logits_of(wanted, **self._forward_kwargs(input_ids, mask, positions))

    def logits_of(self, wanted: Tensor, **inputs: Any) -> LazyLogits:
        """[P, V]: the logits at the P positions where the bool [N, T] `wanted` is true of a forward pass."""
        return self._forward(wanted, inputs)[0]

    def score(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        where: tuple[Tensor, Tensor],
        labels: Tensor,
        cache: Any = None,
        keep: bool = False,
    ) -> tuple[Tensor, Tensor, Any]:
        """ln p, float64 [P], of each of `labels` [P] after row, place `where`; is it the likeliest; and, to `keep`, the
        cache of keys and values.

        input_ids: [N, T], padded right, or left where they are kept. mask: [N, C + T] with a cache of C positions, None
        where padding on the right is all that it would say.
        """
        inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache}
        if mask is not None and "position_ids" in signature(self.body.forward).parameters:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        inputs |= {"input_ids": input_ids, "use_cache": keep or cache is not None}
        logits, out = self._forward(where, inputs)
        return *losses.token_logprobs(logits, labels), out.past_key_values if keep else None

    def _forward(self, where: Tensor | tuple[Tensor, Tensor], inputs: dict[str, Any]) -> tuple[LazyLogits, Any]:
        """Logits at the positions `where`, and the output of the model, or of its body where that is all that runs."""
        if self.head_kind is None:
            out = self.lm(**inputs)
            return LazyLogits(out.logits[where], lambda logits: logits, out.logits.shape[-1]), out
        out = self.body(**inputs)
        return LazyLogits(out.last_hidden_state[where], self._head(type(out)), self.lm.config.vocab_size), out

    def _head(self, output: type) -> Callable[[Tensor], Tensor]:
        """States [P, H] of the body to logits [P, V], by the weights that the model has now.

        A recomputation in the backward pass needs the same ones, also where `functional_call` has put others in the
        place of the model's own for the forward pass alone. output: the class of what the body returns.
        """
        if self.head_kind == "linear":
            head = self.lm.get_output_embeddings()
            weights = dict(head.named_parameters())
            return lambda states: functional_call(head, weights, (states,))
        with _body_gives(self, None):
            weights = dict(self.lm.named_parameters())

        def run(states: Tensor) -> Tensor:
            with _body_gives(self, output(last_hidden_state=states[None])):
                inputs = {"inputs_embeds": states[None], "use_cache": False}
                return functional_call(self.lm, weights, kwargs=inputs).logits[0]

        return run

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with self.measuring():
            return tuple(state.shape[-1] for state in self.hidden_states(ids, torch.ones_like(ids)))

    def width(self, layer: int) -> int:
        """H of `hidden_states[layer]`. Not the same everywhere: OPT-350M projects its last state down."""
        return self._widths[layer]

    @property
    def positions(self) -> int | None:
        """Most tokens of a text, after a prefix where there is one; None where there is no limit."""
        limit = positions(self.lm.config)
        length = 0 if self.prefix is None else self.adapter.active_peft_config.num_virtual_tokens
        return limit and limit - length

    @cached_property
    def head_kind(self) -> Literal["linear", "forward"] | None:
        """What makes logits of the body's last states; None where they are no function of each state by itself.

        `linear`: the output embedding and nothing more. `forward`: what the model's own forward pass does after its
        body (Gemma 2 caps, Cohere and Granite scale, Electra projects).
        """
        ids = torch.arange(8, device=self.device)[None]
        ones = torch.ones_like(ids)
        with self.measuring():
            whole = self.lm(input_ids=ids, attention_mask=ones, use_cache=False).logits[0]
            out = self.body(input_ids=ids, attention_mask=ones, use_cache=False)
            for kind in ("linear", "forward"):
                self.__dict__["head_kind"] = kind
                try:
                    logits = self._head(type(out))(out.last_hidden_state[0].flip(0)).flip(0)  # each state by itself
                except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):  # its states do not fit
                    continue
                if logits.shape == whole.shape and torch.allclose(whole, logits, atol=1e-5, rtol=1e-5):
                    return kind
        return None

    @cached_property
    def packing(self) -> Packing | None:
        """How texts that share a row are kept apart in this model; None where they cannot be (BLOOM).

        Asked of the model itself: two texts in one row must give the states that they give alone, up to a hundredth of
        what the second changes by where it does see the first.
        """
        ids = torch.arange(5, 17, device=self.device)[None] % self.lm.config.vocab_size  # texts of 5 and 7 tokens
        positions = torch.tensor([[*range(5), *range(7)]], device=self.device)
        ones, top = torch.ones_like(ids), len(self.blocks)
        with self.measuring():
            alone = torch.cat([self.hidden(part, torch.ones_like(part), top) for part in ids.split([5, 7], 1)], 1)
            leak = (self.hidden(ids, ones, top) - alone).abs().max()
            for way in ("positions", "mask"):
                try:
                    apart = self.body(**self._forward_kwargs(ids, ones, positions, way)).last_hidden_state
                except (TypeError, ValueError, RuntimeError):  # it takes no such argument, or none of this shape
                    continue
                if (apart - alone).abs().max() < leak / 100:
                    return way
        return None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Run the model without gradients and dropout, which would blur a measurement and move the random state."""
        training = self.lm.training
        self.lm.eval()
        try:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            self.lm.train(training)

    def _forward_kwargs(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor | None, way: Packing | None = None
    ) -> dict[str, Any]:
        """What a forward pass is called with."""
        if positions is None:
            return {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}
        way = way or self.packing
        if way is None:
            raise AssertionError(f"{type(self.lm).__name__} takes no packed rows")
        # transformers finds the texts of a row by their positions only where there is no mask, not even one of ones
        isolated = {"attention_mask": _isolated(positions, self.lm.dtype)} if way == "mask" else {}
        return {"input_ids": input_ids, "position_ids": positions, "use_cache": False, **isolated}

    def encode(self, texts: list[str], max_length: int) -> tuple[dict[str, Tensor], int]:
        """input_ids, attention_mask and text_mask, [N, T] each, padded right on the model's device; how many were cut.

        text_mask: see `text_mask`.
        """
        ids = self.tokenizer(texts, add_special_tokens=True)["input_ids"]
        cut = sum(len(row) > max_length for row in ids)
        batch = self.pad([row[:max_length] or [self.tokenizer.eos_token_id] for row in ids])
        return {**batch, "text_mask": self.text_mask(batch["input_ids"], batch["attention_mask"])}, cut

    def text_mask(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """0/1 [N, T], 1 at tokens that are text: not padding, not special. Padding on either side.

        A row of special tokens alone keeps them all, so that each row has a 1. The unknown token stands for text.
        """
        special = torch.tensor(self._special_ids, dtype=input_ids.dtype, device=input_ids.device)
        text = mask * ~torch.isin(input_ids, special)
        return torch.where(text.any(1, keepdim=True), text, mask)

    @property
    def _special_ids(self) -> list[int]:
        tokenizer = self.tokenizer
        named = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        unknown = {tokenizer.unk_token_id} - set(named)  # GPT-2 has one token for all four
        return sorted(set(tokenizer.all_special_ids) - unknown)

    def pad(self, ids: list[list[int]], labels: list[list[int]] | None = None) -> dict[str, Tensor]:
        """input_ids, attention_mask and, where given, labels (-100 where padded), [N, T] each, padded right."""
        longest = max(map(len, ids))
        out = {
            "input_ids": [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in ids],
        }
        if labels is not None:
            out["labels"] = [row + [-100] * (longest - len(row)) for row in labels]
        return {name: torch.tensor(rows, device=self.device) for name, rows in out.items()}

    def predictions(self, batch: dict[str, Tensor]) -> tuple[LazyLogits, Tensor, Tensor]:
        """Logits [P, V] and labels [P] of the labelled positions of a batch, and the row of each [P].

        The batch is from `pad`, or from `data.pack` with its `position_ids`. A label is predicted from the position
        before it.
        """
        labels = batch["labels"][:, 1:]
        wanted = torch.zeros_like(batch["labels"], dtype=torch.bool)
        wanted[:, :-1] = labels != -100
        logits = self.logits(batch["input_ids"], batch["attention_mask"], wanted, batch.get("position_ids"))
        return logits, labels[labels != -100], wanted.nonzero()[:, 0]

    def language_model_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean nats over the labels of a batch from `pad` or `data.pack`."""
        logits, labels, _ = self.predictions(batch)
        return losses.token_loss(logits, labels)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, tokenizer and configuration, for `from_pretrained`; of an adapter, its own alone.

        generation_config.json says that generation also stops where the chat template ends an assistant's turn.
        """
        stops_at_end_of_turn(self)
        if self.adapter is None:
            # of quantised weights transformers cannot undo what it did to read them; they are saved as they are
            as_they_are = {"save_original_format": False} if getattr(self.lm, "is_quantized", False) else {}
            self.lm.save_pretrained(folder, **as_they_are)
        else:
            adapter.save(self.adapter, folder)
            if self.tokenizer.chat_template:
                self.lm.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def stops_at_end_of_turn(model: Model) -> None:
    """Add the token that ends an assistant's turn to those at which the model's `generate` stops."""
    config = getattr(model.lm, "generation_config", None)
    if config is None or not model.tokenizer.chat_template:
        return
    try:
        end = model.chat.end_id
    except UserError:  # no conversation can be written, so none was
        return
    named = config.eos_token_id
    stops = [named] if isinstance(named, int) else list(named or [])
    if end in stops:
        return
    config.eos_token_id = [*stops, end] if stops else end
    config._from_model_config = False  # or it may be made anew from config.json
    if not config.do_sample and any(getattr(config, name) is not None for name in SAMPLING):
        config.do_sample = True  # what the model's authors meant; transformers saves no such contradiction


POSITIONS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
ROBERTA = ("roberta", "camembert", "xlm-roberta", "data2vec-text", "xmod")  # their positions begin after that of pad


def positions(config: Any) -> int | None:
    """Most tokens that a model of this configuration takes; None where it has no limit: ALiBi, state-space models.

    Positions that are learned or tabulated end there; rotary ones can be computed beyond, but were not trained.
    """
    kind, attention = str(config.model_type), getattr(config, "attn_config", None)
    is_alibi = any(getattr(part, "alibi", False) for part in (config, attention))
    if kind in ("bloom", "mpt") or is_alibi or getattr(config, "position_embedding_type", None) == "alibi":
        return None
    found = next((limit for name in POSITIONS if (limit := getattr(config, name, None))), None)
    if not isinstance(found, int) or found <= 0:
        return None
    if kind.startswith(ROBERTA):
        return found - 1 - (config.pad_token_id or 0)
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = [
        part["factor"] * part["original_max_position_embeddings"]
        for part in (rope, *rope.values())
        if isinstance(part, dict) and part.get("factor") and part.get("original_max_position_embeddings")
    ]
    if rope.get("rope_type") in ("linear", "dynamic"):  # its configuration names the positions before scaling
        scaled.append(found * rope.get("factor", 1))
    return int(max([found, *scaled]))


def _isolated(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, 1, T, T], to be added to the logits of attention: 0 where a token may look, the least number elsewhere."""
    text = (positions == 0).cumsum(1)  # [N, T]
    seen = (text[:, :, None] == text[:, None]).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class _Output(nn.Module):
    """Stands for the body of a language model, with an output that is there already."""

    def __init__(self, output: Any):
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output


@contextmanager
def _body_gives(model: Model, output: Any) -> Iterator[None]:
    """Within, the language model has no body: where it would run it, it gets `output`."""
    name = next(name for name, child in model.lm.named_children() if child is model.body)
    model.lm._modules[name] = _Output(output)
    try:
        yield
    finally:
        model.lm._modules[name] = model.body


def _body(lm: Any) -> Any:
    """The model without its head; `base_model` is the whole one where a class names no such part (Llama 4)."""
    head = lm.get_output_embeddings()
    if lm.base_model is not lm or head is None:
        return lm.base_model
    return next(child for child in lm.children() if child is not head)


def _blocks(body: nn.Module, count: int) -> nn.ModuleList:
    """The transformer blocks of any decoder: its one list of `count` modules that is not inside another."""
    found = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not found:
        raise UserError(
            f"{type(body).__name__}: no list of {count} blocks in it. Allowed: decoder models of transformers."
        )
    return found[0]


def choose_device(asked: str | None) -> torch.device:
    """`asked` (`cpu`, `cuda`, `cuda:1`), or the GPU where there is one; ValueError where it is not there."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this machine has no usable GPU. Allowed: cpu, or a machine with one. Leave the flag out."
        )
    device = torch.device(asked)
    if device.index is not None and device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"--device {asked}: this machine has {torch.cuda.device_count()} GPUs, counted from 0. Allowed: cuda:0 "
                f"to cuda:{torch.cuda.device_count() - 1}. Name one of them."
            )
        torch.cuda.set_device(device)  # accelerate takes the current one
    return device
