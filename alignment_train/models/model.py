"""A causal language model of any family, with the states, logits and losses that alignment needs."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from alignment_train import losses
from alignment_train.losses import LazyLogits
from alignment_train.models.chat import DATE, ChatFormat, template_of
from alignment_train.models.generation import add_stop_token
from alignment_train.models.positions import max_positions
from alignment_train.models.structure import find_blocks, find_body, forward_head, linear_head
from pipelines.errors import UserError

disable_progress_bar()  # transformers', while loading and saving; ours shows the step that runs

Packing = Literal["positions", "mask"]
"""How texts that share a row are isolated: by restarting positions, or by a mask over queries and keys."""


class AttachedAdapter(Protocol):
    """The part of `adapter.Adapter` that `Model` uses; that module imports this one."""

    @property
    def num_virtual_tokens(self) -> int: ...

    def save(self, folder: Path) -> None: ...

    def suspended(self) -> AbstractContextManager[None]: ...


class _EarlyExit(Exception):
    """Carries a hidden state out of a forward pass that needs no further blocks."""

    def __init__(self, hidden: Tensor):
        self.hidden = hidden


class Model:
    """A transformers causal LM and its tokenizer, both unmodified.

    Attributes:
        lm: The causal LM.
        tokenizer: Its tokenizer.
        body: The LM without its head.
        blocks: The transformer blocks of the body.
        adapter: The adapter attached to `lm`, if any.
        notes: What was changed about a base model when it was loaded.
        commit: The hub commit from which a base model was downloaded.
        chat_date: The current date, for chat templates that write it.
    """

    def __init__(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase):
        self.lm: Any = lm
        self.tokenizer: Any = tokenizer
        self.body: Any = find_body(self.lm)
        self.blocks = find_blocks(self.body, self.lm.config.num_hidden_layers)
        self.adapter: AttachedAdapter | None = None
        self.notes: list[str] = []
        self.commit: str | None = None
        self.chat_date = DATE
        self._chat: ChatFormat | None = None

    @property
    def chat(self) -> ChatFormat:
        """The format of conversations; raises a UserError if the tokenizer's chat template cannot be used."""
        source = template_of(self.tokenizer)
        if self._chat is None or (self._chat.source, self._chat.today) != (source, self.chat_date):
            self._chat = ChatFormat(self.tokenizer, self.chat_date)
        return self._chat

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    def frozen(self, head: bool = True) -> "Model":
        """A copy of the model without its adapter, in evaluation mode and without gradients.

        Args:
            head: Whether to copy the head; without it the copy has states but no logits.
        """
        with nullcontext() if self.adapter is None else self.adapter.suspended():
            copy = Model(deepcopy(self.lm if head else self.body).eval().requires_grad_(False), self.tokenizer)
        if head:
            copy.__dict__["head_kind"] = self.head_kind
        return copy

    def hidden(self, input_ids: Tensor, mask: Tensor, layer: int, positions: Tensor | None = None) -> Tensor:
        """Compute `hidden_states[layer]`, [N, T, H], without running the blocks above it.

        Args:
            input_ids: [N, T].
            mask: 0/1 [N, T]; unused with `positions`.
            layer: 0 to the number of blocks; the last state is normalised, as in transformers.
            positions: [N, T] if several texts share a row (`data.pack`): 0 at the first token of each text. Texts do
                not see each other then.
        """
        inputs = self._forward_kwargs(input_ids, mask, positions)
        if layer == len(self.blocks):
            return self.body(**inputs).last_hidden_state

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _EarlyExit(args[0] if args else kwargs["hidden_states"])

        # prepended, to run before FSDP gathers the block's weights
        hook = self.blocks[layer].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
        try:
            self.body(**inputs)
        except _EarlyExit as early_exit:
            return early_exit.hidden
        finally:
            hook.remove()
        raise AssertionError(f"{type(self.lm).__name__} never ran block {layer}")

    def hidden_states(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """All of `hidden_states`, [N, T, H] each, from one forward pass; equal to those of `hidden`.

        Those that transformers returns differ in some families (Mamba and RWKV: after the block).
        """
        layers = range(len(self.blocks) + 1)
        with self.recording(layers) as states:
            self.body(input_ids=input_ids, attention_mask=mask, use_cache=False)
        return tuple(states[layer] for layer in layers)

    @contextmanager
    def recording(self, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Context that records `hidden_states[layer]`, [N, T, H] each, of the last forward pass in it.

        One pass then serves a loss on logits and one on states.

        Args:
            layers: 0 to the number of blocks.
        """
        states: dict[int, Tensor] = {}

        def before_block(layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[layer] = args[0] if args else kwargs["hidden_states"]

        def after_body(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            states[len(self.blocks)] = output[0]

        hooks = [
            self.blocks[layer].register_forward_pre_hook(partial(before_block, layer), with_kwargs=True)
            for layer in set(layers) - {len(self.blocks)}
        ]
        if len(self.blocks) in layers:
            hooks.append(self.body.register_forward_hook(after_body))
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def logits(self, input_ids: Tensor, mask: Tensor, select: Tensor, positions: Tensor | None = None) -> LazyLogits:
        """Logits [P, V] at the P positions where `select`, bool [N, T], is true.

        The other arguments are those of `hidden`.
        """
        return self.logits_of(select, **self._forward_kwargs(input_ids, mask, positions))

    def logits_of(self, select: Tensor, **inputs: Any) -> LazyLogits:
        """Logits [P, V] of a forward pass with `inputs` at the P positions where `select`, bool [N, T], is true."""
        return self._forward(select, inputs)[0]

    def token_logprobs(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        where: tuple[Tensor, Tensor],
        labels: Tensor,
        cache: Any = None,
        return_cache: bool = False,
    ) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of tokens at chosen positions, optionally after a cached prefix.

        Args:
            input_ids: [N, T], padded right; padded left if the cache is returned.
            mask: 0/1 [N, C + T] with C cached positions; None if there is only padding on the right.
            where: Row and position [P] of the states that predict the labels.
            labels: [P].
            cache: Keys and values of an earlier call.

        Returns:
            ln p of each label, float64 [P]; whether it is the most likely token, bool [P]; the cache if requested.
        """
        inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache}
        if mask is not None and "position_ids" in signature(self.body.forward).parameters:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        inputs |= {"input_ids": input_ids, "use_cache": return_cache or cache is not None}
        logits, out = self._forward(where, inputs)
        return *losses.token_logprobs(logits, labels), out.past_key_values if return_cache else None

    def _forward(self, where: Tensor | tuple[Tensor, Tensor], inputs: dict[str, Any]) -> tuple[LazyLogits, Any]:
        """Logits at the positions `where`, and the output of the body, or of the model if it has no separable head."""
        if self.head_kind is None:
            out = self.lm(**inputs)
            return LazyLogits(out.logits[where], lambda logits: logits, out.logits.shape[-1]), out
        out = self.body(**inputs)
        return LazyLogits(out.last_hidden_state[where], self._head(type(out)), self.lm.config.vocab_size), out

    def _head(self, output: type) -> Callable[[Tensor], Tensor]:
        """The function from states [P, H] of the body to logits [P, V], with the current weights.

        A recomputation in the backward pass uses the same weights, even if `functional_call` has replaced the model's
        own for the forward pass alone.

        Args:
            output: Class of what the body returns.
        """
        return linear_head(self.lm) if self.has_linear_head else forward_head(self.lm, self.body, output)

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with self.measuring():
            return tuple(state.shape[-1] for state in self.hidden_states(ids, torch.ones_like(ids)))

    def width(self, layer: int) -> int:
        """Size H of `hidden_states[layer]`, which varies in some models: OPT-350M projects its last state down."""
        return self._widths[layer]

    @property
    def positions(self) -> int | None:
        """Maximum number of tokens of a text, after a prefix if there is one; None without a limit."""
        limit = max_positions(self.lm.config)
        return limit and limit - (self.adapter.num_virtual_tokens if self.adapter else 0)

    @cached_property
    def head_kind(self) -> Literal["linear", "forward"] | None:
        """What computes logits from the body's last states; None if they do not depend on each state alone.

        `linear`: the output embedding. `forward`: all that the model's forward pass does after its body (Gemma 2 caps
        logits, Cohere and Granite scale them, Electra projects states).
        """
        ids = torch.arange(8, device=self.device)[None]
        ones = torch.ones_like(ids)
        with self.measuring():
            expected = self.lm(input_ids=ids, attention_mask=ones, use_cache=False).logits[0]
            out = self.body(input_ids=ids, attention_mask=ones, use_cache=False)
            for kind in ("linear", "forward"):
                self.__dict__["head_kind"] = kind
                try:
                    logits = self._head(type(out))(out.last_hidden_state[0].flip(0)).flip(0)  # each state by itself
                except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):  # states of another shape
                    continue
                if logits.shape == expected.shape and torch.allclose(expected, logits, atol=1e-5, rtol=1e-5):
                    return kind
        return None

    @property
    def has_linear_head(self) -> bool:
        """Whether logits are the output embedding of the last states and nothing more."""
        return self.head_kind == "linear"

    @cached_property
    def packing(self) -> Packing | None:
        """How texts that share a row are isolated in this model; None if it cannot isolate them (BLOOM).

        Determined by running the model: two texts in one row must have the states that they have alone, within 1 % of
        the change that the second one shows if it sees the first.
        """
        ids = torch.arange(5, 17, device=self.device)[None] % self.lm.config.vocab_size  # texts of 5 and 7 tokens
        positions = torch.tensor([[*range(5), *range(7)]], device=self.device)
        ones, top = torch.ones_like(ids), len(self.blocks)
        with self.measuring():
            alone = torch.cat([self.hidden(part, torch.ones_like(part), top) for part in ids.split([5, 7], 1)], 1)
            leak = (self.hidden(ids, ones, top) - alone).abs().max()
            for packing in ("positions", "mask"):
                try:
                    packed = self.body(**self._forward_kwargs(ids, ones, positions, packing)).last_hidden_state
                except (TypeError, ValueError, RuntimeError):  # the argument, or its shape, is not supported
                    continue
                if (packed - alone).abs().max() < leak / 100:
                    return packing
        return None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Context without gradients, dropout and reduced precision; it leaves the random state as it is."""
        training = self.lm.training
        self.lm.eval()
        try:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            self.lm.train(training)

    def _forward_kwargs(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor | None, packing: Packing | None = None
    ) -> dict[str, Any]:
        """Keyword arguments of a forward pass."""
        if positions is None:
            return {"input_ids": input_ids, "attention_mask": mask, "use_cache": False}
        packing = packing or self.packing
        if packing is None:
            raise AssertionError(f"{type(self.lm).__name__} does not support packed rows")
        # transformers recognises packed texts by their positions only if there is no mask at all
        isolated = {"attention_mask": _isolating_mask(positions, self.lm.dtype)} if packing == "mask" else {}
        return {"input_ids": input_ids, "position_ids": positions, "use_cache": False, **isolated}

    def encode(self, texts: list[str], max_length: int) -> tuple[dict[str, Tensor], int]:
        """Tokenize texts, truncated to `max_length` tokens.

        Returns:
            input_ids, attention_mask and text_mask (see `text_mask`), [N, T] each, padded right on the model's device;
            and the number of truncated texts.
        """
        ids = self.tokenizer(texts, add_special_tokens=True)["input_ids"]
        cut = sum(len(row) > max_length for row in ids)
        batch = self.pad([row[:max_length] or [self.tokenizer.eos_token_id] for row in ids])
        return {**batch, "text_mask": self.text_mask(batch["input_ids"], batch["attention_mask"])}, cut

    def text_mask(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """0/1 [N, T], 1 at tokens that are text: neither padding, on either side, nor special tokens.

        Rows of special tokens alone keep them, so that every row has a 1. The unknown token counts as text.
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
        """input_ids, attention_mask and, if given, labels (-100 at padding), [N, T] each, padded right."""
        longest = max(map(len, ids))
        out = {
            "input_ids": [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in ids],
        }
        if labels is not None:
            out["labels"] = [row + [-100] * (longest - len(row)) for row in labels]
        return {name: torch.tensor(rows, device=self.device) for name, rows in out.items()}

    def predictions(self, batch: dict[str, Tensor]) -> tuple[LazyLogits, Tensor, Tensor]:
        """Logits [P, V], labels [P] and row numbers [P] of the labelled positions of a batch.

        Args:
            batch: From `pad`, or from `data.pack` with `position_ids`. The state before a label predicts it.
        """
        labels = batch["labels"][:, 1:]
        select = torch.zeros_like(batch["labels"], dtype=torch.bool)
        select[:, :-1] = labels != -100
        logits = self.logits(batch["input_ids"], batch["attention_mask"], select, batch.get("position_ids"))
        return logits, labels[labels != -100], select.nonzero()[:, 0]

    def language_model_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy in nats over the labels of a batch from `pad` or `data.pack`."""
        logits, labels, _ = self.predictions(batch)
        return losses.token_loss(logits, labels)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizer and configuration for `from_pretrained`; of an adapter, only its own.

        generation_config.json makes generation also stop at the chat template's end of turn.
        """
        self._stop_at_end_of_turn()
        if self.adapter is None:
            # transformers cannot revert the conversion of quantised weights, which are saved as they are
            options = {"save_original_format": False} if getattr(self.lm, "is_quantized", False) else {}
            self.lm.save_pretrained(folder, **options)
        else:
            self.adapter.save(folder)
            if self.tokenizer.chat_template:
                self.lm.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _stop_at_end_of_turn(self) -> None:
        config = getattr(self.lm, "generation_config", None)
        if config is not None and self.tokenizer.chat_template:
            with suppress(UserError):  # raised for a template that cannot be used, which no training did
                add_stop_token(config, self.chat.end_id)


def _isolating_mask(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [N, 1, T, T]: 0 within a text up to the query, the lowest number elsewhere."""
    text = (positions == 0).cumsum(1)  # [N, T]
    seen = (text[:, :, None] == text[:, None]).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
