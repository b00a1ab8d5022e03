"""Does the model translate held-out text, in every direction, and into the language it was asked for?

Source: chrF (Popović 2015, W15-3049), BLEU by sacreBLEU (Post 2018, W18-6319), spBLEU (Goyal et al. 2022, FLORES-101,
arXiv 2106.03193), COMET (Rei et al. 2020, arXiv 2009.09025). Prompts are those of the instruction type `translate`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator, Field

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import POINTS, LanguageModel, Measure, Metric, Sample
from pipelines.evals._bitext import BitextEval, by_pair
from pipelines.evals._comet import Comet
from pipelines.evals._surface import needed, surface
from pipelines.filters.lid import SURE, Lid
from pipelines.filters.markup import bare
from pipelines.instructions._wordings import ENGLISH, name_in, translate_wordings
from pipelines.languages import Pair, name, parse, pivot
from pipelines.registry import plugin_field
from pipelines.tasks import Message

FIELDS = ("src", "src_name", "tgt_name")
STOP = ("\n",)
LETTER_RUN = re.compile(r"(\w)\1{4,}")
"""No word of any language; an untrained model writes such, and identifiers call `ttttt` English."""
SHOWN = 3
"""Items a direction in the report."""


class Direction(NamedTuple):
    """From one language into another; prints as `deu_Latn>eng_Latn` in metrics."""

    src: str
    tgt: str

    def __str__(self) -> str:
        return f"{self.src}>{self.tgt}"

    @classmethod
    def parse(cls, spec: Any) -> "Direction":
        """`de-fr` or `[en, zh-Hant]`, from the first into the second."""
        if isinstance(spec, Direction):
            return spec
        parts = spec.replace(">", "-").split("-") if isinstance(spec, str) else spec
        if not isinstance(parts, list | tuple) or len(parts) != 2:
            raise UserError(
                f"direction {spec!r}: allowed are two languages, as 'de-fr' or [en, zh-Hant], from the first into the "
                f"second. Write a code that holds a hyphen in the list form."
            )
        return cls(*map(parse, parts))


class Items(NamedTuple):
    """What is asked in one direction, [N] each, and the examples before it."""

    src: list[str]
    tgt: list[str]
    examples: list[tuple[str, str]]


def _directions(spec: Any) -> Any:
    if spec in ("pairs", "all"):
        return spec
    if not isinstance(spec, list | tuple) or not spec:
        raise UserError(f"found {spec!r}. Allowed: pairs, all, or a list such as [de-en, de-fr]. Change it.")
    return [Direction.parse(one) for one in spec]


def _template(prompt: str) -> str:
    if prompt in ("source", "english"):
        return prompt
    try:
        found = [field for _, field, _, _ in Formatter().parse(prompt) if field is not None]
    except ValueError as error:
        raise UserError(f"found {prompt!r}: {error}. Write a brace that is to be printed twice.") from None
    if "src" not in found or not set(found) <= set(FIELDS):
        raise UserError(
            f"found {prompt!r}. Allowed: source, english, or a template with {{src}} and perhaps {{src_name}} and "
            f"{{tgt_name}}. Correct it."
        )
    return prompt


class Translation(BitextEval):
    """Greedy translations, one line each, of the recipe's pairs both ways; figures are by direction.

    `chrF`, `BLEU`, `spBLEU` and `COMET` lie in [0, 100] and are of the corpus; their intervals resample its items.
    `in_language` is the share of outputs in the language asked for; one that is blank is in none. Outputs and
    references are compared in NFC. Beside it stands what copying the source gives.
    """

    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu", "sentencepiece", "numpy", "langcodes", "language_data")
    measures: ClassVar[Mapping[str, Measure]] = {
        "translation/chrF": Measure(
            title="Translating: chrF",
            note="How many sequences of 1 to 6 characters translations and references share. Names and numbers alone "
            "give some: see what copying the source gives. Higher is better.",
            unit=POINTS,
        ),
        "translation/BLEU": Measure(
            title="Translating: BLEU",
            note="How many sequences of 1 to 4 words translations and references share; a model that translates "
            "little of it is near 0. Higher is better.",
            unit=POINTS,
            role="detail",
        ),
        "translation/spBLEU": Measure(
            title="Translating: spBLEU",
            note="BLEU by pieces of words, alike in all scripts. Higher is better.",
            unit=POINTS,
            role="detail",
        ),
        "translation/COMET": Measure(
            title="Translating: COMET",
            note="A trained judge of source, translation and reference, times 100. Higher is better.",
            unit=POINTS,
            role="detail",
        ),
        "translation/in_language": Measure(
            title="Translating: share in the right language",
            note="Share of translations that are in the language asked for. Higher is better.",
            role="detail",
        ),
    }

    rows: int = Field(200, gt=0)
    """Items a direction at most; of the directions that share a text of the pivot language, the same ones."""
    directions: Annotated[Literal["pairs", "all"] | list[Direction], BeforeValidator(_directions)] = "pairs"
    """`pairs`: those of the recipe, both ways; `all`: also between languages whose pairs share half of the pivot's
    texts; or a list, `[de-en, de-fr]`."""
    prompt: Annotated[str, AfterValidator(_template)] = "source"
    """`source`: the first wording of `translate` in the language of the text; `english`: in English; or a template,
    "{src_name}: {src}\\n{tgt_name}:"."""
    chat: bool = False
    """Ask in a conversation, written as in training on such: by the tokenizer's chat template where it has one. For
    models that follow instructions; examples are earlier turns."""
    shots: int = Field(0, ge=0)
    """Examples before each item, from rows of the source that are not asked in that direction."""
    max_new_tokens: int = Field(128, gt=0)
    identifier: plugin_field(Lid, "pipelines.filters") = Lid()  # type: ignore[valid-type]
    """What says which language an output is in, from its `min` on."""
    spm: Path | None = None
    """The SentencePiece model of spBLEU, `flores200_sacrebleu_tokenizer_spm.model`; without it there is no spBLEU."""
    comet: Comet | None = None
    """`{model: Unbabel/wmt22-comet-da, python: /opt/comet/bin/python}`; without it there is no COMET."""

    @property
    def drawn(self) -> int:
        return self.rows + self.shots

    def check(self, pairs: list[Pair]) -> None:
        where = f"eval.{self.name}"
        needed(where)
        super().check(pairs)
        if self.spm and not self.spm.is_file():
            raise UserError(f"{where}.spm: no file {self.spm}. Allowed: a SentencePiece model. Correct the path.")
        if self.comet:
            self.comet.check(f"{where}.comet")
        if isinstance(self.directions, list):
            common = pivot(pairs)
            linked = {common} | {lang for pair in pairs if common in pair for lang in pair}
            for one in self.directions:
                if one.src == one.tgt or (Pair(*sorted(one)) not in pairs and not linked.issuperset(one)):
                    raise UserError(
                        f"{where}.directions: found {one}. Allowed: two of {', '.join(sorted(linked))}, or a pair of "
                        f"the recipe. Correct it, or add its pair."
                    )

    def notes(self, pairs: list[Pair]) -> list[str]:
        return [f"{self.name}: {note}" for note in self.identifier.notes(pairs)]

    def files(self) -> list[Path]:
        return [*([self.spm] if self.spm else []), *(self.comet.files() if self.comet else [])]

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        asked = self.asked(texts)
        outputs = self._outputs(lm, asked)
        out = self._figures(asked, outputs)
        if self.comet:
            src = [text for items in asked.values() for text in items.src]
            tgt = [text for items in asked.values() for text in items.tgt]
            said = [text for one in asked for text in outputs[one]]
            # All directions at once: to load the model takes longer than most of them.
            scores = iter(self.comet.scores(f"eval.{self.name}.comet", src, said, tgt))
            for one, items in asked.items():
                values = np.array([next(scores) for _ in items.src])
                of = list(zip(items.src, items.tgt, strict=True))
                out[f"{self.name}/{one}/COMET"] = statistics.mean(values, texts=of)
        return out

    def samples(self, lm: LanguageModel, texts: pa.Table) -> list[Sample]:
        asked = {one: items._replace(src=items.src[:SHOWN]) for one, items in self.asked(texts).items()}
        outputs = self._outputs(lm, asked)
        return [
            Sample(f"{self.name}/{one}", self._question(one, src), tgt, said)
            for one, items in asked.items()
            for src, tgt, said in zip(items.src, items.tgt, outputs[one], strict=False)
        ]

    @property
    def uses_chat(self) -> bool:
        return self.chat

    def signatures(self, texts: pa.Table) -> dict[str, str]:
        out = {
            f"{self.name}/{one}/{metric}": used.signature
            for one in self.asked(texts)
            for metric, used in surface(one.tgt, self.spm).items()
        }
        if self.comet:
            out |= {f"{self.name}/{one}/COMET": self.comet.model for one in self.asked(texts)}
        return out

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        """`copy` is the source handed back as it is: names, numbers and loans alone give a chrF above 0."""
        asked = self.asked(texts)
        return {"copy": self._figures(asked, {one: items.src for one, items in asked.items()})}

    def asked(self, texts: pa.Table) -> dict[Direction, Items]:
        """The items of each direction: the last of them are the examples."""
        pairs = by_pair(texts)
        found: dict[Direction, list[tuple[str, str]]] = {}
        for pair, (src, tgt) in pairs.items():
            found[Direction(*pair)] = list(zip(src, tgt, strict=True))
            found[Direction(pair.tgt, pair.src)] = list(zip(tgt, src, strict=True))
        if pairs and self.directions != "pairs":
            common = pivot(list(pairs))
            linked = {one.tgt: dict(rows) for one, rows in found.items() if one.src == common}
            for src, tgt in permutations(sorted(linked), 2):
                one, other = linked[src], linked[tgt]
                shared = [(text, other[key]) for key, text in one.items() if key in other]
                enough = 2 * len(shared) >= max(len(one), len(other)) if self.directions == "all" else bool(shared)
                if enough and Direction(src, tgt) not in found:
                    found[Direction(src, tgt)] = shared
        wanted = self.directions if isinstance(self.directions, list) else sorted(found)
        out = {}
        for one in wanted:
            rows = found.get(one, [])
            most = min(self.rows, len(rows) - self.shots)
            if most < 1:
                raise UserError(
                    f"eval.{self.name}: {one} has {len(rows)} rows. Needed: more than its {self.shots} examples. Give "
                    f"it a source that has them, lower `shots`, or leave the direction out."
                )
            src, tgt = (list(side) for side in zip(*rows[:most], strict=True))
            out[one] = Items(src, tgt, rows[len(rows) - self.shots :])
        return out

    def _outputs(self, lm: LanguageModel, asked: Mapping[Direction, Items]) -> dict[Direction, list[str]]:
        """The first line of each answer that is not blank; of plain text one of the first two.

        All directions are asked for together, so that batches hold prompts of like length.
        """
        said = self._replies(lm, asked) if self.chat else self._continued(lm, asked)
        rest = iter(said)
        return {one: [next(rest) for _ in items.src] for one, items in asked.items()}

    def _replies(self, lm: LanguageModel, asked: Mapping[Direction, Items]) -> list[str]:
        talks: list[list[Message]] = []
        for one, items in asked.items():
            before = [
                turn
                for src, tgt in items.examples
                for turn in (_turn("user", self._question(one, src)), _turn("assistant", tgt))
            ]
            talks += [[*before, _turn("user", self._question(one, src))] for src in items.src]
        said = lm.reply(talks, (), self.max_new_tokens)
        return [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in said]

    def _continued(self, lm: LanguageModel, asked: Mapping[Direction, Items]) -> list[str]:
        prompts = []
        for one, items in asked.items():
            before = "".join(f"{self._question(one, src)} {tgt}\n\n" for src, tgt in items.examples)
            prompts += [before + self._question(one, src) for src in items.src]
        said = [text.strip() for text in lm.generate(prompts, STOP, self.max_new_tokens)]
        # A model that was not taught this form may begin a new line before it answers.
        blank = [i for i, text in enumerate(said) if not text]
        again = lm.generate([prompts[i] + "\n" for i in blank], STOP, self.max_new_tokens)
        for i, text in zip(blank, again, strict=True):
            said[i] = text.strip()
        return said

    def _question(self, one: Direction, text: str) -> str:
        if self.prompt not in ("source", "english"):
            src_name, tgt_name = (name(lang, self._recipe_languages) for lang in (one.src, one.tgt))
            return self.prompt.format(src=text, src_name=src_name, tgt_name=tgt_name)
        lang = one.src if self.prompt == "source" else ENGLISH
        return translate_wordings(lang)[0].format(input=text, language=name_in(one.tgt, lang, self._recipe_languages))

    def _figures(
        self, asked: Mapping[Direction, Items], outputs: Mapping[Direction, Sequence[str]]
    ) -> dict[str, Metric]:
        out: dict[str, Metric] = {}
        for one, items in asked.items():
            of = list(zip(items.src, items.tgt, strict=True))
            for metric, used in surface(one.tgt, self.spm).items():
                counts = used.counts(outputs[one], items.tgt)
                out[f"{self.name}/{one}/{metric}"] = statistics.pooled(counts, used.formula, texts=of)
            right = self._in_language(one, outputs[one])
            out[f"{self.name}/{one}/in_language"] = statistics.mean(right, texts=of)
        return out

    def _in_language(self, one: Direction, outputs: Sequence[str]) -> np.ndarray:
        """bool [N]: whether each output is taken for the language asked for, as the filter `lid` takes a segment."""
        texts = bare(pa.array([LETTER_RUN.sub("", text) for text in outputs], pa.string()))
        sure = self.identifier.open().sureness(texts, one.tgt, one.src, self.identifier.short.below)
        least = SURE if self.identifier.min is None else self.identifier.min
        blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
        return pc.and_not(pc.greater_equal(sure, least), blank).to_numpy(zero_copy_only=False)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}
