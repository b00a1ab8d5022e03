"""A translation exercise that also aligns: its two spans, source and target, are drawn together within one sequence."""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from alignment_train.objectives import Layer, Objective, Reads
from pipelines.errors import UserError
from pipelines.instructions._wordings import ENGLISH, TRANSLATE
from pipelines.languages import name
from pipelines.text.segments import digests

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.chat import ChatFormat
    from alignment_train.models.model import Model

NONE, SOURCE, TARGET = 0, 1, 2


class Span(Objective):
    """Translation, a contrast of the two spans, and a classifier of their languages, all from one forward pass.

    loss = LM(target) + contrast_weight x contrast + match_weight x match. contrast: InfoNCE over the mean states of the
    spans at `layer`; the target has read the source. match: whether two of the batch's 2B spans are in one language,
    told from the mean last states that predict them, over all ordered pairs, a span with itself included.
    Half of the rows are turned round, and the wording of the prompt, in English, varies; a row's text decides both.
    A text over max_length loses its end, or its beginning where the prompt fills it; a row that thereby lost a span is
    in neither contrast nor match. Rows with a sentence in common are no negatives of each other.
    Source: AlignX, stage 1 (arXiv 2509.24338), and its code: weights 0.3 and 0.4, layer 16 of 32, temperature 0.1, a
    SwiGLU of 128 units, rows of 128 in micro-batches of 16, learning rate 2e-6, cut at 512. It ranks targets alone and
    then halves, as `src_to_tgt` does here; `both` adds the other half. It predicts the prompt too: `predict: all`.
    """

    layer: Layer = "middle"
    temperature: float = Field(0.1, gt=0)
    direction: Literal["both", "src_to_tgt"] = "src_to_tgt"
    contrast_weight: float = Field(0.3, ge=0)
    match_weight: float = Field(0.4, ge=0)
    units: int = Field(128, gt=0)
    """Of the classifier's hidden layer. It is trained with the model and left behind."""
    predict: Literal["target", "all"] = "target"
    rows: int = Field(32, gt=1)

    reads: ClassVar[Reads] = "bitext"
    is_alignment: ClassVar[bool] = True
    uses_chat: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("langcodes", "language_data")

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        found = exercises([turned(row) for row in rows], model.chat, self._recipe_languages)
        return [len(ids) for ids, _, _ in found]

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """span [B, T]: 1 in the source, 2 in the target; whole [B]: has both; language [2B]; same [B, B]."""
        import torch

        chosen = [turned(row) for row in rows]
        ids, labels, spans = [], [], []
        cut = 0
        for row, wanted, span in exercises(chosen, model.chat, self._recipe_languages):
            kept = slice(None)
            if len(row) > max_length:
                cut += 1
                kept = slice(max_length) if TARGET in span[1:max_length] else slice(-max_length, None)
            if self.predict == "all":
                first = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id}
                wanted = [-100 if i == 0 and token in first else token for i, token in enumerate(row)]
            ids.append(row[kept])
            labels.append(wanted[kept])
            spans.append(span[kept])
        batch = model.pad(ids, labels)
        longest = batch["input_ids"].shape[1]
        span = torch.tensor([row + [NONE] * (longest - len(row)) for row in spans], device=model.device)
        # The state that predicts a token is the one before it: the first token of all is predicted by none.
        whole = (span[:, 1:] == SOURCE).any(1) & (span[:, 1:] == TARGET).any(1)
        texts = torch.tensor(_numbered(text for row in chosen for text in row[:2]), device=model.device).view(-1, 2)
        same = (texts[:, None, :, None] == texts[None, :, None, :]).flatten(2).any(2)
        languages = [row[2] for row in chosen] + [row[3] for row in chosen]
        return {
            **batch,
            "span": span,
            "whole": whole,
            "same": same,
            "language": torch.tensor(_numbered(languages), device=model.device),
            "cut": torch.tensor(cut),
        }

    def setup(self, model: "Model", table: pa.Table) -> Any:
        """The classifier, three matrices without biases: gate and up from 2H to `units`, down to different and same."""
        from torch import nn

        size = 2 * model.width(len(model.blocks))
        sides = {"gate": (size, self.units), "up": (size, self.units), "down": (self.units, 2)}
        return nn.ModuleDict({part: nn.Linear(*shape, bias=False) for part, shape in sides.items()}).to(model.device)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        from alignment_train.layers import layer_index
        from alignment_train.losses import info_nce, pool, same_language, token_loss

        top = len(model.blocks)
        layer = layer_index(self.layer, top)
        with model.recording({layer, top}) as states:
            logits, labels, _ = model.predictions(batch)
        translation = token_loss(logits, labels)
        whole, span = batch["whole"], batch["span"][batch["whole"]]
        contrast = match = translation.new_zeros(())
        if len(span) > 1:
            src, tgt = (pool(states[layer][whole].float(), span == side, "mean") for side in (SOURCE, TARGET))
            same = batch["same"][whole][:, whole]
            both = self.direction == "both"
            contrast = info_nce(src, tgt, self.temperature, self.direction, same) / (1 if both else 2)
        if len(span):
            before, predicted = states[top][whole, :-1].float(), span[:, 1:]
            src, tgt = (pool(before, predicted == side, "mean") for side in (SOURCE, TARGET))
            language = batch["language"].view(2, -1)[:, whole].flatten()
            match = same_language(src, tgt, language, *(state[part].weight for part in ("gate", "up", "down")))
        parts = {"translation": translation, "contrast": contrast, "match": match}
        loss = translation + self.contrast_weight * contrast + self.match_weight * match
        return loss, {part: value.item() for part, value in parts.items()}


def turned(row: dict[str, Any]) -> tuple[str, str, str, str, int]:
    """(source, target, language of each, draw): for half of the rows the other way round."""
    draw = int(digests([f"{row['src']}\t{row['tgt']}"])[0])
    one, other = ("src", "tgt") if draw % 2 else ("tgt", "src")
    return row[one].strip(), row[other].strip(), row[f"{one}_lang"], row[f"{other}_lang"], draw // 2


def exercises(
    rows: list[tuple[str, str, str, str, int]], chat: "ChatFormat", among: tuple[str, ...] = ()
) -> list[tuple[list[int], list[int], list[int]]]:
    """Ids, labels (the target and what ends it) and spans of each row, tokenised in one go.

    A token that reaches into a span is of the span: where pieces hold the space before a word, so does the span.
    among: the recipe's languages; where two are one language, prompts name the script too.
    """
    questions = [_question(row, among) for row in rows]
    talks = [
        [{"role": "user", "content": before + row[0] + after}, {"role": "assistant", "content": row[1]}]
        for (before, after), row in zip(questions, rows, strict=True)
    ]
    out = []
    for (before, after), (source, target, *_), encoded in zip(questions, rows, chat.encode(talks), strict=True):
        opening = encoded.text.find(before + source + after)
        start = encoded.text.find(target, encoded.prompt_chars)
        if not 0 <= opening < encoded.prompt_chars or start < 0:
            raise UserError(
                "span: found a chat template that changes the texts it is given. Allowed: one that holds them as they "
                "are, for the spans are found in it. Remove it from the tokenizer."
            )
        opening += len(before)
        asked, given = range(opening, opening + len(source)), range(start, start + len(target))
        span = [
            SOURCE if end > asked.start and begin < asked.stop else
            TARGET if end > given.start and begin < given.stop else NONE
            for begin, end in _of_bytes(encoded.text, encoded.offsets)
        ]  # fmt: skip
        out.append((encoded.ids, encoded.labels, span))
    return out


def _question(row: tuple[str, str, str, str, int], among: tuple[str, ...]) -> tuple[str, str]:
    """What is written before and after the source."""
    wordings = TRANSLATE[ENGLISH]
    before, after = wordings[row[4] % len(wordings)].replace("{language}", name(row[3], among)).split("{input}")
    return before.lstrip(), after.rstrip()


def _of_bytes(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in which a byte piece has the character that it is of.

    A Unigram tokenizer says of every byte of a run of unknown characters that it is the whole run, which may begin in a
    sentence and end in the prompt.
    """
    out = list[tuple[int, int]]()
    for (start, stop), group in groupby(offsets):
        count = len(list(group))
        of = [start + i for i, char in enumerate(text[start:stop]) for _ in char.encode()]
        exact = count > 1 and len(of) == count
        out += [(i, i + 1) for i in of] if exact else [(start, stop)] * count
    return out


def _numbered(items: Iterable[str]) -> list[int]:
    """Equal numbers for equal items."""
    number: dict[str, int] = {}
    return [number.setdefault(item, len(number)) for item in items]
