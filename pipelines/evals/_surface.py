"""Translations and references -> the counts of which sacreBLEU makes chrF and BLEU, item by item, and its formulas.

A corpus's score is that of the summed counts, so it is resampled by items without counting again.
"""

import importlib.util
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import UserError
from pipelines.files import sha256
from pipelines.languages import iso, spaceless
from pipelines.statistics import Formula


class Surface(NamedTuple):
    """A metric of sacreBLEU at its defaults."""

    metric: Any
    formula: Formula

    def counts(self, outputs: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """int64 [N, S]: what each item adds to the counts of the corpus; texts are compared in NFC."""
        sides = [[unicodedata.normalize("NFC", text) for text in side] for side in (outputs, references)]
        return np.array(self.metric._extract_corpus_statistics(sides[0], [sides[1]]), np.int64)

    @property
    def signature(self) -> str:
        self.metric.num_refs = 1  # known after the first corpus, and always one here
        return str(self.metric.get_signature())


def needed(where: str) -> None:
    """Raise ValueError where sacreBLEU is not installed."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError(
            f"{where}: sacrebleu is not installed. Needed: it computes chrF and BLEU. Install it with "
            f"'pip install isogloss[eval]'."
        )


def surface(lang: str, spm: Path | None = None) -> dict[str, Surface]:
    """{metric: of translations into `lang`}: chrF, BLEU, and spBLEU by the SentencePiece model `spm` where given.

    BLEU's words are Chinese as `zh` cuts them, single characters of other scripts without spaces, else those of `13a`.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    tokenize = "zh" if iso(lang) in ("zho", "yue") else "char" if spaceless(lang) else "13a"
    out = {"chrF": Surface(CHRF(), chrf), "BLEU": Surface(BLEU(tokenize=tokenize, force=True), bleu)}
    if spm:
        metric: Any = BLEU(tokenize="none", force=True)
        metric.tokenizer = _Pieces(spm)
        metric.tokenizer_signature = metric.tokenizer.signature()
        out["spBLEU"] = Surface(metric, bleu)
    return out


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF2 in [0, 100] of summed counts [..., 18]: of output, reference and match, for 1 to 6 characters.

    Source: Popović 2015, chrF (W15-3049); orders that output or reference lack are left out, as sacreBLEU does.
    """
    hyp, ref, match = np.moveaxis(sums.reshape(*sums.shape[:-1], 6, 3).astype(np.float64), -1, 0)
    both = (hyp > 0) & (ref > 0)
    orders = np.maximum(both.sum(-1), 1)
    precision, recall = ((both * match / np.maximum(of, 1)).sum(-1) / orders for of in (hyp, ref))
    return 100 * 5 * precision * recall / np.where(precision + recall > 0, 4 * precision + recall, 1)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU in [0, 100] of summed counts [..., 10]: length, reference length, matches and n-grams of 1 to 4 words.

    An order without a match counts as half a match, the next one as a quarter and so on (`smooth:exp`).
    Source: Papineni et al. 2002, BLEU (P02-1040); Post 2018, sacreBLEU (W18-6319).
    """
    sums = sums.astype(np.float64)
    length, of, match, grams = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    missed = match == 0
    found = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), match)
    precision = np.where(grams > 0, found / np.maximum(grams, 1), 0)
    known = (precision > 0).all(-1) & ~missed.all(-1)
    brevity = np.exp(np.minimum(0, 1 - of / np.maximum(length, 1)))
    mean = np.exp(np.log(np.where(known[..., None], precision, 1)).mean(-1))
    return np.where(known, 100 * brevity * mean, 0)


class _Pieces:
    """sacreBLEU's tokenizer of spBLEU, with the model of a file that is at hand in place of one it downloads."""

    def __init__(self, file: Path):
        import sentencepiece

        self._processor: Any = sentencepiece.SentencePieceProcessor()
        self._processor.Load(str(file))
        self._signature = f"spm-{sha256(file)[:8]}"

    def __call__(self, line: str) -> str:
        return " ".join(self._processor.EncodeAsPieces(line))

    def signature(self) -> str:
        return self._signature
