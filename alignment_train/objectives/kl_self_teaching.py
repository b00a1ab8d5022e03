"""Self-teaching: after a prompt's translation the model predicts a text as it does after the prompt itself."""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BeforeValidator, Field

from alignment_train.objectives import Objective, Reads
from alignment_train.training.data import pair_counts, rows_with
from pipelines.languages import parse, spaceless

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class KlSelfTeaching(Objective):
    """FILTER's self-teaching loss on next tokens: the strong language teaches what follows, the others learn it.

    Both sides of a pair are cut in two, at the start of the word nearest to the middle. The answer is the second half
    of the side in `language` and EOS, the same token ids for both: the teacher reads it after the first half in
    `language`, the student after the first half of the translation. Over the answer's tokens, in nats,
    loss = alpha T^2 KL(teacher || student) + (1 - alpha) CE(student), logits in KL divided by the temperature T. The
    teacher is the model as it is at that step, without dropout or gradient. Pairs with both sides or neither in
    `language`, or with a side of one word, contribute nothing.

    Source: FILTER (arXiv 2009.05166), L = CE(en) + (1 - alpha) CE(x) + alpha T^2 KL(teacher || x), with T 0.1. It
    differs: FILTER is an encoder that reads a text in both languages at once and labels it, here half a sentence in
    one language is continued; its teacher is the frozen model of a first phase; CE(en) is what `language_model` does.
    The halves of a pair say the same only as far as the word orders agree. (The whole translation put before the
    teacher's own prompt would be no task: KL is then 0 for a student that ignores it.)
    """

    language: Annotated[str, BeforeValidator(parse)] = "eng_Latn"
    """That of the teacher's prompt and of the answer."""
    temperature: float = Field(1.0, gt=0)
    alpha: float = Field(0.5, ge=0, le=1)

    reads: ClassVar[Reads] = "bitext"
    is_alignment: ClassVar[bool] = True

    def row_mask(self, table: pa.Table) -> pa.Array:
        """True for the rows with one side in `language`."""
        return rows_with(self.language, table, f"train.objectives.{self.name}.language", once=True)

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return pair_counts(rows, model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """The teacher's texts, then the student's, in one batch: [2B, T], labels on the answer alone."""
        import torch

        own = ["src" if row["src_lang"] == self.language else "tgt" for row in rows]
        other = ["tgt" if side == "src" else "src" for side in own]
        taught, learnt = (
            halves(
                [row[side] for row, side in zip(rows, sides, strict=True)],
                [row[f"{side}_lang"] for row, side in zip(rows, sides, strict=True)],
                model.tokenizer,
            )
            for sides in (own, other)
        )
        eos = model.tokenizer.eos_token_id
        prompts: tuple[list[list[int]], list[list[int]]] = ([], [])
        answers: list[list[int]] = []
        cut = 0
        for row, teacher, student in zip(rows, taught, learnt, strict=True):
            one = (row["src_lang"] == self.language) != (row["tgt_lang"] == self.language)
            if not one or teacher is None or student is None:
                continue
            answer = [*teacher[1], eos]
            answers.append(answer[: max_length // 2])
            room = max_length - len(answers[-1])
            for kept, prompt in zip(prompts, (teacher[0], student[0]), strict=True):
                kept.append(prompt[-room:])  # what stands next to the answer
                cut += len(prompt) + len(answer) > len(kept[-1]) + len(answers[-1])
        if not answers:  # a forward pass needs a row; without labels it counts for nothing
            return {**model.pad([[eos]] * 2, [[-100]] * 2), "cut": torch.tensor(0)}
        ids = [[*prompt, *answer] for side in prompts for prompt, answer in zip(side, answers, strict=True)]
        labels = [
            [-100] * len(prompt) + answer for side in prompts for prompt, answer in zip(side, answers, strict=True)
        ]
        return {**model.pad(ids, labels), "cut": torch.tensor(cut)}

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch

        from alignment_train.losses import kl_divergence, token_loss

        texts = {name: batch[name].chunk(2) for name in ("input_ids", "attention_mask", "labels")}
        teacher, student = ({name: parts[i] for name, parts in texts.items()} for i in (0, 1))
        training = model.lm.training
        model.lm.eval()
        with torch.no_grad():
            taught, _, _ = model.predictions(teacher)  # [P, V]
        model.lm.train(training)
        learnt, labels, _ = model.predictions(student)  # [P, V], the same P answers in the same order
        divergence = kl_divergence(taught, learnt, self.temperature)
        if not len(labels):
            return divergence, {}
        gold = token_loss(learnt, labels)
        loss = self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * gold
        return loss, {"kl": divergence.item(), "cross_entropy": gold.item()}


def halves(texts: list[str], languages: list[str], tokenizer: Any) -> list[tuple[list[int], list[int]] | None]:
    """The token ids of each text cut at the word start nearest to their middle; None where no word starts within.

    What the tokenizer puts first stays; an EOS at the end is left out. Scripts without spaces are cut between tokens.
    """
    coded = tokenizer(texts, return_offsets_mapping=True)
    out: list[tuple[list[int], list[int]] | None] = []
    for text, language, ids, offsets in zip(texts, languages, coded["input_ids"], coded["offset_mapping"], strict=True):
        real = [i for i, (start, end) in enumerate(offsets) if end > start]
        starts = [i for before, i in pairwise(real) if offsets[i][0] >= offsets[before][1]]  # not within a character
        if not spaceless(language):
            starts = [i for i in starts if text[offsets[i][0] - 1].isspace() or text[offsets[i][0]].isspace()]
        if not starts:
            out.append(None)
            continue
        place = min(starts, key=lambda i: abs(2 * i - real[0] - real[-1] - 1))
        out.append((ids[:place], ids[place : real[-1] + 1]))
    return out
