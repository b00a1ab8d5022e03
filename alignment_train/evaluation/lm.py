"""All that an eval may ask of a model: states, loss, continuations and their likelihood, in batches of like length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from alignment_train.evaluation import scoring
from alignment_train.losses import MAX_LOGITS, pool, pooling_mask, token_logprobs
from alignment_train.models.model import Model
from alignment_train.training import heap
from alignment_train.training.data import texts as language_model_batch
from pipelines.errors import UserError

TOKENS = 8192  # a batch, padding included
WINDOW = 2048  # tokens, where neither configuration nor tokenizer says how many a model takes; as in lm-eval
UNLIMITED = 10**9  # tokens, from which on a tokenizer's limit means that there is none


OnItems = Callable[[int, int, float], None]
"""Called after each batch with the items done and those of the whole question, and the share of its work done."""


class LM:
    """Answers `pipelines.evals.LanguageModel`. Texts to embed or take the loss of are cut after `max_length` tokens."""

    def __init__(
        self,
        model: Model,
        trained_layer: int,
        max_length: int,
        device: torch.device,
        rows: int | None = None,
        precision: str = "float32",
    ):
        """
        Args:
            rows: Requests or prompts that a batch has at most, beside the bound on its tokens.
            precision: `bfloat16` casts the weights of `model`, in place, which must not be saved any more.
        """
        self.model, self.max_length, self.rows = model, max_length, rows
        self.num_layers = len(model.blocks)
        self.trained_layer = trained_layer
        self.on_items: OnItems = lambda done, total, share: None
        self._answers: dict[tuple[tuple[int, ...], tuple[str, ...], int, bool], str] = {}
        if device.type == "cpu":
            heap.retain_freed_memory(max(weight.nbytes for weight in model.lm.parameters()))
        model.lm.to(device).eval()
        if precision == "bfloat16" and not getattr(model.lm, "is_quantized", False):
            _ = model.head_kind  # measured more finely than bfloat16 is
            model.lm.to(torch.bfloat16)

    @torch.inference_mode()
    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        """{layer: float32 [N, H]}, one forward pass for all layers; of one layer, without the blocks above it.

        pooling: `mean` or `last` of the tokens that are text; `mean+special` or `last+special` of all.
        """
        kind, _, special = pooling.partition("+")
        out: dict[int, np.ndarray] = {}
        for chosen, batch in self._batches(texts):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            text = pooling_mask(batch, bool(special))
            if len(layers) == 1:
                states = {layers[0]: self.model.hidden(ids, mask, layers[0])}
            else:
                states = dict(enumerate(self.model.hidden_states(ids, mask)))
            for layer in layers:
                pooled = pool(states[layer].float(), text, "last" if kind == "last" else "mean")
                if layer not in out:
                    out[layer] = np.empty((len(texts), pooled.shape[1]), np.float32)
                out[layer][chosen] = pooled.cpu().numpy()
        return out or {layer: np.empty((0, self.model.width(layer)), np.float32) for layer in layers}

    @torch.inference_mode()
    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Nats and predicted tokens of each text: float64 [N], int64 [N]. EOS is predicted, BOS is not."""
        nats, counts = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for chosen, batch in self._batches(texts, labels=True):
            logits, labels, rows = self.model.predictions(batch)
            rows = rows.cpu()
            nats[chosen] = rows.bincount(-token_logprobs(logits, labels)[0], minlength=len(chosen))
            counts[chosen] = rows.bincount(minlength=len(chosen))
        return nats, counts

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """ln p of each continuation after its context, float64 [N], and whether it is the greedy one, bool [N].

        Tokens are split where those of the context alone end, as in lm-eval; an empty context is BOS, or EOS where
        there is none. What is longer than the window loses its start.
        """
        whole = [(context + continuation, context.rstrip()) for context, continuation in requests]
        special = self._ids({text for pair in whole if pair[1] for text in pair}, True)
        plain = self._ids({text for text, context in whole if not context}, False)
        start, most = self._start, self.window + 1
        asked = []
        for text, context in whole:
            ids, known = (special[text], len(special[context])) if context else (plain[text], 1)
            if not context and ids[:1] != [start]:
                ids = [start, *ids]
            if len(ids) <= known:
                raise UserError(f"found no token after {context!r} in {text!r}. Needed: at least one. Leave it out.")
            known = max(1, known - max(0, len(ids) - most))
            asked.append(scoring.Request(tuple(ids[-most:]), known))
        counted = partial(self._counted, work=[len(request.tokens) for request in asked])
        return scoring.loglikelihood(self.model, asked, TOKENS, self.rows, counted)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        """What greedy decoding adds to each prompt, up to EOS or the first of the texts in `stop`, which is cut off.

        A prompt loses its start where it and the new tokens are longer than the window. Answers are kept, so that one
        that is shown is the one that was scored: batches of other prompts may differ from it in the last bit.
        """
        if not prompts:
            return []
        return self._generated(self.model.tokenizer(list(prompts), verbose=False)["input_ids"], stop, max_new_tokens)

    @torch.inference_mode()
    def reply(self, talks: Sequence[list[dict[str, str]]], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        """The greedy answer to each conversation, whose prompt has the same tokens as in training (`models.chat`).

        It goes up to the end of the turn, or the first of the texts in `stop` after what the model writes between
        reasoning tags, which is left out.
        """
        return self._generated(self.model.chat.prompts(talks), stop, max_new_tokens, chat=True) if talks else []

    def _generated(
        self, rows: Sequence[list[int]], stop: Sequence[str], max_new_tokens: int, chat: bool = False
    ) -> list[str]:
        room = self.window - max_new_tokens
        if room < 1:
            raise UserError(
                f"max_new_tokens: found {max_new_tokens:,}. Allowed: fewer than the model's {self.window:,} tokens. "
                f"Lower it."
            )
        keys = [(tuple(row[-room:]) or (self._start,), tuple(stop), max_new_tokens, chat) for row in rows]
        new = [key for key in dict.fromkeys(keys) if key not in self._answers]
        ids = [list(key[0]) for key in new]
        pad, stop_ids = self.model.tokenizer.pad_token_id, self._stop_ids(chat)
        at_once = max(1, MAX_LOGITS // self.model.lm.config.vocab_size)  # each row has logits of its last token
        lengths = [len(row) + max_new_tokens for row in ids]
        for batch in self._counted(self._buckets(lengths, at_once), lengths):
            longest = max(len(ids[i]) for i in batch)
            padded = torch.tensor([[pad] * (longest - len(ids[i])) + ids[i] for i in batch])
            mask = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in batch])
            with self._greedy(stop_ids):
                tokens = self.model.lm.generate(
                    input_ids=padded.to(self.model.device),
                    attention_mask=mask.to(self.model.device),
                    max_new_tokens=max_new_tokens,
                    stopping_criteria=StoppingCriteriaList([self._stopping(stop, longest, chat)]),
                )
            for i, row in zip(batch, tokens[:, longest:].tolist(), strict=True):
                end = next((place for place, token in enumerate(row) if token in stop_ids), len(row))
                self._answers[new[i]] = self._read(row[:end], stop, chat)
        return [self._answers[key] for key in keys]

    @contextmanager
    def _greedy(self, stop_ids: Sequence[int]) -> Iterator[None]:
        """Greedy decoding and nothing else: a model's generation_config.json may sample, penalise repetitions, ..."""
        original = self.model.lm.generation_config
        self.model.lm.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=list(stop_ids) or None, pad_token_id=self.model.tokenizer.pad_token_id
        )
        try:
            yield
        finally:
            self.model.lm.generation_config = original

    def _stop_ids(self, chat: bool) -> list[int]:
        """The tokens that end an answer: those of generation_config.json, in a conversation also the template's."""
        named = self.model.lm.generation_config.eos_token_id
        ids = [named] if isinstance(named, int) else list(named or [])
        ids += self.model.chat.stop_ids if chat else [self.model.tokenizer.eos_token_id]
        return [number for number in dict.fromkeys(ids) if number is not None]

    def _stopping(self, stop: Sequence[str], begin: int, chat: bool) -> "_Stop":
        if not chat:
            return _Stop(self.model.tokenizer, stop, begin)
        read, end = self.model.chat.read, self.model.chat.end_text
        return _Stop(self.model.tokenizer, [*stop, end] if end else stop, begin, lambda text: read(text, stop)[1])

    def _read(self, ids: list[int], stop: Sequence[str], chat: bool) -> str:
        """The answer in what was generated up to its end."""
        tokenizer = self.model.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not chat:
            return _before(text, stop)
        raw, written = tokenizer.decode(ids), self.model.chat
        if not written.reasoning.has_tags(raw) and not (written.end_text and written.end_text in raw):
            return written.read(text, stop)[0]
        answer, _ = written.read(raw, stop)  # reasoning tags and what closes a turn may be special tokens
        for special in tokenizer.all_special_tokens:
            answer = answer.replace(special, "")
        return answer

    @property
    def window(self) -> int:
        """Tokens that the model takes at once; where it has no limit, those of the tokenizer, as in lm-eval."""
        limit = self.model.tokenizer.model_max_length
        return self.model.positions or (limit if limit < UNLIMITED else WINDOW)

    @property
    def _start(self) -> int:
        """The token before a text without context."""
        tokenizer = self.model.tokenizer
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def _ids(self, texts: Iterable[str], special: bool) -> dict[str, list[int]]:
        """Tokens of each text, with special ones unless the text begins with one itself."""
        tokenizer, written = self.model.tokenizer, self.model.tokenizer.decode(self._start)
        out: dict[str, list[int]] = {}
        for add in (True, False):
            chosen = [text for text in texts if (special and not text.startswith(written)) is add]
            if chosen:
                ids = tokenizer(chosen, add_special_tokens=add, verbose=False)["input_ids"]
                out.update(zip(chosen, ids, strict=True))
        return out

    def _counted(self, batches: Iterable[Sequence[int]], work: Sequence[float]) -> Iterator[Any]:
        """The batches, each reported to `on_items` once it is done; work: that of each item, such as its length."""
        done, spent, whole = 0, 0.0, sum(work) or 1
        for batch in batches:
            yield batch
            done, spent = done + len(batch), spent + sum(work[i] for i in batch)
            self.on_items(done, len(work), spent / whole)

    def _buckets(self, lengths: Sequence[int], most: int) -> Iterator[list[int]]:
        """Row numbers, those of like length together, within the bounds of a batch and at most so many rows."""
        most = min(most, self.rows or most)
        batch: list[int] = []
        for i in np.argsort(lengths, kind="stable").tolist():
            if batch and ((len(batch) + 1) * lengths[i] > TOKENS or len(batch) == most):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _batches(self, texts: list[str], labels: bool = False) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """(row numbers, tensors) over all segments, those of like length together."""
        for chosen in self._counted(self._chosen(texts), [len(text) + 2 for text in texts]):
            some = [texts[i] for i in chosen]
            batch = (
                language_model_batch(some, self.model, self.max_length)
                if labels
                else self.model.encode(some, self.max_length)[0]
            )
            yield chosen, batch

    def _chosen(self, texts: list[str]) -> Iterator[list[int]]:
        """Row numbers of each batch."""
        order = np.argsort([len(text) for text in texts], kind="stable").tolist()
        start = 0
        while start < len(order):
            # A token is at least a character long but for byte pieces: the bound on memory is a rough one.
            longest, stop = 0, start
            while stop < len(order):
                longest = max(longest, min(len(texts[order[stop]]) + 2, self.max_length))
                if stop > start and longest * (stop + 1 - start) > TOKENS:
                    break
                stop += 1
            yield order[start:stop]
            start = stop


def _before(text: str, stop: Sequence[str]) -> str:
    for end in stop:
        text = text.partition(end)[0]
    return text


class _Stop(StoppingCriteria):
    """True of a row once one of `stop` stands in what was added to it, after `begin` tokens.

    is_complete: whether all that was added, which has one of `stop` in it, is an answer; without it, it always is.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], begin: int, is_complete: Callable[[str], bool] | None = None
    ):
        self.tokenizer, self.stop, self.begin, self.is_complete = tokenizer, stop, begin, is_complete
        self.back = max((len(text.encode()) for text in stop), default=0) + 1  # a token is at least a byte long

    def __call__(  # type: ignore[override]
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        tails = self.tokenizer.batch_decode(input_ids[:, max(self.begin, input_ids.shape[1] - self.back) :])
        found = [any(text in tail for text in self.stop) for tail in tails]
        if self.is_complete:
            for i in (i for i, ends in enumerate(found) if ends):
                found[i] = self.is_complete(self.tokenizer.decode(input_ids[i, self.begin :]))
        return torch.tensor(found, device=input_ids.device)  # type: ignore[return-value]
