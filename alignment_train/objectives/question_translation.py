"""Translation of questions without answers: a question in one language is the prompt, in the other the response."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator

from alignment_train.models.chat import plain
from alignment_train.objectives import Objective, Reads
from alignment_train.training.data import conversations, rows_with, token_counts
from pipelines.languages import name, parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model

REQUEST = "Translate the following sentences from {source} to {target}. {question}"  # QAlign's, in its released code
END = r"[^\p{L}\p{N}]*$"  # quotes, brackets, `!` and dots may follow the mark, words may not
MARK = f"[?？؟፧⸮]{END}"
OWN = {
    "Grek": f"[?;\u037e]{END}",  # U+037E is the question mark that NFC turns into a semicolon
    "Armn": f"(?:[?]|՞[^։:.]*){END}",  # ՞ stands inside, on the word that asks; a full stop still ends the sentence
}


class QuestionTranslation(Objective):
    """Next-token loss on a question in the pivot language, given the same question in another one.

    The mean over response tokens t, EOS included, of -log p(y_t | request to translate, x, y_<t): no question has an
    answer, so parallel questions are all it needs. Pairs without the pivot are not used.
    Sources: QAlign (arXiv 2401.07817, stage I: -log p(y | x), x -> English; its released code also has the reverse)
    and Getting More from Less (arXiv 2405.13816: 10,000 questions per language, LoRA on queries and values with r 8,
    learning rate 5e-5, cosine, warmup 0.1, batches of 16, 3 epochs).
    """

    direction: Literal["to_pivot", "from_pivot", "both"] = "to_pivot"
    """Into which language is translated; `both` has each row twice in a batch, once each way."""
    pivot: Annotated[str, AfterValidator(parse)] = "eng_Latn"
    only_questions: bool = True
    """Only pairs whose sides both end in a question mark of their script; else any pair, as general translation.

    Measured on the NTREX-128, Tatoeba, TICO-19 and WMT news that opus8's mirror has with English: of the English
    questions 94 % or more have a mark on the other side in 114 of 134 languages (96 % to 100 % in those of opus8), but
    63 % in Japanese, 60 % in Thai, 1 % in Burmese, none in Tibetan: these write questions without one."""

    reads: ClassVar[Reads] = "bitext"
    supports_data_parallel: ClassVar[bool] = True
    uses_chat: ClassVar[bool] = True
    is_alignment: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("langcodes", "language_data")

    def row_mask(self, table: pa.Table) -> pa.Array:
        """bool [rows of `table`]: those it can train on."""
        out = rows_with(self.pivot, table, f"train.objectives.{self.name}.pivot")
        if self.only_questions:
            for side in ("src", "tgt"):
                out = pc.and_(out, questions(table[side], table[f"{side}_lang"]).combine_chunks())
        return out

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        ahead = self.direction != "from_pivot"
        return token_counts(["".join(plain(self._talk(row, ahead))) for row in rows], model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        ways = {"to_pivot": [True], "from_pivot": [False], "both": [True, False]}[self.direction]
        return conversations([self._talk(row, way) for way in ways for row in rows], model, max_length)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {}

    def _talk(self, row: dict[str, Any], to_pivot: bool) -> list[dict[str, str]]:
        src, tgt = ("src", "tgt") if (row["tgt_lang"] == self.pivot) == to_pivot else ("tgt", "src")
        sides = {"source": row[f"{src}_lang"], "target": row[f"{tgt}_lang"]}
        languages = {side: name(lang, self._recipe_languages) for side, lang in sides.items()}
        return [
            {"role": "user", "content": REQUEST.format(**languages, question=row[src])},
            {"role": "assistant", "content": row[tgt]},
        ]


def questions(texts: pa.ChunkedArray, langs: pa.ChunkedArray) -> pa.ChunkedArray:
    """bool [N]: whether each text ends in a question mark of the script of its language."""
    out = pc.match_substring_regex(texts, MARK)
    for script, mark in OWN.items():
        here = pc.ends_with(langs, f"_{script}")
        if pc.any(here).as_py():
            out = pc.if_else(here, pc.match_substring_regex(texts, mark), out)
    return out
