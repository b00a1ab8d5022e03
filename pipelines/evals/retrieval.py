"""Does a sentence find its translation among the held-out sentences, at every layer, and at what price to the states?

Source: the retrieval probe of mid-align (Liu and Niehues 2025, arXiv 2502.14830), which scores by ratio margin, here
`margin`; the leading figure is by plain cosine, as in Tatoeba retrieval (Artetxe and Schwenk 2019, arXiv 1812.10464,
section 4.3).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import LanguageModel, Measure, Metric, Pooling, States, _ngrams
from pipelines.evals._bitext import BitextEval, by_pair
from pipelines.evals._states import effective_rank, language_probe, uniformity, unit, variance_ratio

GUARDS = "representation"
SAMPLE = 200
"""Sentences of a language by which its states are judged and drawn; all layers of them are held at once."""
CENTERED = "recall@1_centered"
RECALLS = ("recall@1", "recall@1_from_src", "recall@1_from_tgt", CENTERED, "margin")

ROUNDING = 1e-9  # of a product in float64, not of the states: nearer together is equally near


MEASURES = {
    "retrieval/recall@1": Measure(
        title="Finding translations: recall@1",
        note="Share of held-out texts whose nearest neighbour in the other language is their own translation, mean of "
        "both directions{layer}. Higher is better.",
        name="recall@1",
    ),
    f"retrieval/{CENTERED}": Measure(
        title="Finding translations: recall@1, centered",
        note="Recall@1 after the mean state of each side's texts is subtracted{layer}: what all texts, or all of a "
        "language, have in common, which in large models is nearly all of a state. Higher is better.",
        role="detail",
    ),
    "retrieval/recall@1_from_src": Measure(title="Finding translations: the first language asks", role="detail"),
    "retrieval/recall@1_from_tgt": Measure(title="Finding translations: the second language asks", role="detail"),
    "retrieval/margin": Measure(
        title="Finding translations: by ratio margin",
        note="Recall@1 where each cosine is divided by those to the nearest neighbours, so that sentences which are "
        "near to all count for less. Higher is better.",
        role="detail",
    ),
    "retrieval/mexa": Measure(
        title="Finding translations: MEXA",
        note="Share of translations nearer to each other than either is to any other sentence.",
        role="detail",
    ),
    "retrieval/cosine_gap": Measure(
        title="Cosine of translations less that of others",
        note="Mean cosine of translations less the mean cosine of all other pairs of sentences. Higher is better.",
        unit="cosines",
        role="detail",
    ),
    f"{GUARDS}/effective_rank": Measure(
        title="Guard: effective rank",
        note="In how many directions the states of a language spread. A fall says that states collapse, whatever "
        "retrieval says.",
        unit="directions",
        role="guard",
    ),
    f"{GUARDS}/uniformity": Measure(
        title="Guard: uniformity",
        note="How alike the states of a language are: 0 is all alike, lower is more spread.",
        unit="nats",
        lower_is_better=True,
        role="guard",
    ),
    f"{GUARDS}/variance_ratio": Measure(
        title="Guard: variance between languages",
        note="Share of the variance of states that the language explains.",
        neutral=True,
        role="guard",
    ),
    f"{GUARDS}/language_probe": Measure(
        title="Telling the language from a state",
        note="Share of sentences whose language a linear probe tells from the state. Neither more nor less is better "
        "by itself.",
        neutral=True,
        role="guard",
    ),
}


class Retrieval(BitextEval):
    """How near translations are, and what the states are like that bring it about. Every figure at every layer.

    Of a pair, over the sentences of its two sides, N each: `recall@1`, mean of both directions, N candidates, and each
    direction by itself (`_from_src`: sources ask); `recall@1_centered`, of states less the mean of their side;
    `margin`, recall@1 by ratio margin; `mexa`; `cosine_gap`, the mean cosine of translations less that of all other
    pairs of the same sides.
    Of a language, over SAMPLE sentences: `effective_rank`, `uniformity`. Of all together: `variance_ratio`,
    `language_probe`. These go by the name `representation`.
    Where the pairs share sentences of a common language, every language is asked about every other: see `parallel`.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    layer: Literal["trained", "middle"] | int = "trained"
    """The layer of the figure without a layer in its key: of the contrast, half the blocks, or an index."""
    pooling: Pooling = "mean"
    lexical: bool = True
    """Whether a model of random weights and character n-grams are asked for translations too."""

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        return self.observe(lm, texts)[0]

    def observe(self, lm: LanguageModel, texts: pa.Table) -> tuple[dict[str, Metric], States]:
        headline = self._headline(lm)
        layers = list(range(lm.num_layers + 1))
        bitext = sides(texts)
        chosen, shared = parallel(bitext)
        sampled: dict[int, dict[str, np.ndarray]] = {layer: {} for layer in layers}
        whole: dict[str, np.ndarray] = {}
        out: dict[str, Metric] = {}
        for pair, *both in embedded(lm, bitext, layers, self.pooling):
            src, tgt = both
            figures = {
                f"{self.name}/{pair}/{metric}/layer={layer}": values
                for layer in layers
                for metric, values in by_state(
                    src.states[layer], tgt.states[layer], f"{self.name}, {pair}, layer {layer}"
                ).items()
            }
            of = list(zip(src.texts, tgt.texts, strict=True))
            out.update(zip(figures, statistics.means(np.stack(list(figures.values())), texts=of), strict=True))
            for side in both:
                if side.lang not in whole:
                    place = {text: row for row, text in enumerate(side.texts)}
                    rows = [place[text] for text in chosen[side.lang]]
                    whole[side.lang] = side.states[headline][rows]
                    for layer in layers:
                        sampled[layer][side.lang] = side.states[layer][rows[:SAMPLE]]
        for layer in layers:
            out.update({f"{key}/layer={layer}": metric for key, metric in _guards(sampled[layer]).items()})
        at = f"/layer={headline}"
        out.update({key.removesuffix(at): metric for key, metric in list(out.items()) if key.endswith(at)})
        if shared:
            out.update({f"{self.name}/{key}/shared": metric for key, metric in _all_pairs(whole).items()})
        return out, sampled[headline]

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        """Names, numbers and loans find translations without any learning: `ngrams` is that by characters alone.

        `random` is the same through a model that learned nothing: a random network still gives like texts like states
        (Wieting and Kiela 2019, arXiv 1901.10444).
        """
        if not self.lexical:
            return {}
        bitext = sides(texts)
        found = {"ngrams": self._pairs((pair, by_ngrams(src.texts, tgt.texts)) for pair, src, tgt in bitext)}
        if random is not None:
            lm = random()
            layer = self._headline(lm)
            states = embedded(lm, bitext, [layer], self.pooling)
            found["random"] = self._pairs(
                (pair, means(by_state(src.states[layer], tgt.states[layer], f"{self.name}, {pair}, random model")))
                for pair, src, tgt in states
            )
        return found

    def chance(self, texts: pa.Table) -> dict[str, float]:
        """Guessing finds one in N, and one in 2 N - 1 where it must be above its row and its column, as in MEXA."""
        out = {}
        bitext = sides(texts)
        for pair, src, _ in bitext:
            n = len(src.texts)
            out.update({f"{self.name}/{pair}/{metric}": 1 / n for metric in RECALLS})
            out.update({f"{self.name}/{pair}/mexa": 1 / (2 * n - 1), f"{self.name}/{pair}/cosine_gap": 0.0})
        languages = {side.lang for _, *both in bitext for side in both}
        return {**out, f"{GUARDS}/all/language_probe": 1 / len(languages)} if languages else out

    def _pairs(self, found: Iterable[tuple[str, Mapping[str, Metric]]]) -> dict[str, Metric]:
        return {f"{self.name}/{pair}/{name}": metric for pair, own in found for name, metric in own.items()}

    def _headline(self, lm: LanguageModel) -> int:
        named = {"trained": lm.trained_layer, "middle": lm.num_layers // 2}
        layer = self.layer if isinstance(self.layer, int) else named[self.layer]
        layer += lm.num_layers + 1 if layer < 0 else 0
        if not 0 <= layer <= lm.num_layers:
            raise UserError(
                f"eval.{self.name}.layer: found {self.layer}. Allowed for this model: 0 to {lm.num_layers}, and -1 to "
                f"{-lm.num_layers - 1} from the end. Choose one of them."
            )
        return layer


class Side(NamedTuple):
    """One side of a pair: row i of each of `states` ({layer: float32 [N, H]}) is of text i."""

    lang: str
    texts: tuple[str, ...]
    states: dict[int, np.ndarray]


Bitext = list[tuple[str, Side, Side]]
"""(pair, source side, target side); row i of both mean the same."""


def sides(texts: pa.Table) -> Bitext:
    """EVAL_TEXT rows by pair, without states."""
    return [
        (str(pair), Side(pair.src, tuple(src), {}), Side(pair.tgt, tuple(tgt), {}))
        for pair, (src, tgt) in by_pair(texts).items()
    ]


def parallel(bitext: Bitext) -> tuple[dict[str, tuple[str, ...]], bool]:
    """({language: texts}, whether text i means the same in all languages).

    It does where all pairs have a language in common and the texts of that language which are in every pair are at
    least half of those of any. Else the texts are those of the language's first pair.
    """
    first = {side.lang: side.texts for _, *both in reversed(bitext) for side in both}
    common = set.intersection(*({src.lang, tgt.lang} for _, src, tgt in bitext)) if len(bitext) > 1 else set()
    if len(common) != 1:
        return first, False
    (pivot,) = common
    rows = [
        dict(zip(src.texts, tgt.texts, strict=True) if src.lang == pivot else zip(tgt.texts, src.texts, strict=True))
        for _, src, tgt in bitext
    ]
    chosen = tuple(text for text in rows[0] if all(text in own for own in rows))
    if not chosen or 2 * len(chosen) < max(map(len, rows)):
        return first, False
    others = [src.lang if tgt.lang == pivot else tgt.lang for _, src, tgt in bitext]
    return {
        pivot: chosen,
        **{lang: tuple(own[text] for text in chosen) for lang, own in zip(others, rows, strict=True)},
    }, True


def embedded(lm: LanguageModel, bitext: Bitext, layers: list[int], pooling: str) -> Iterator[tuple[str, Side, Side]]:
    """`bitext` with its states; a text of a language passes the model once for all layers, pairs and figures.

    The states of a language are let go after its last pair.
    """
    last = {side.lang: pair for pair, *both in bitext for side in both}
    held: dict[str, tuple[dict[str, int], dict[int, np.ndarray]]] = {}
    for pair, *both in bitext:
        filled = []
        for side in both:
            if side.lang not in held:
                every = (own.texts for _, *found in bitext for own in found if own.lang == side.lang)
                distinct = list(dict.fromkeys(text for texts in every for text in texts))
                place = {text: row for row, text in enumerate(distinct)}
                held[side.lang] = place, lm.embed(distinct, layers, pooling)
            place, states = held[side.lang]
            rows = [place[text] for text in side.texts]
            filled.append(side._replace(states={layer: states[layer][rows] for layer in layers}))
        yield pair, filled[0], filled[1]
        for side in both:
            if last[side.lang] == pair:
                del held[side.lang]


def by_state(src: np.ndarray, tgt: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """{metric: [N]}: what each pair of states, [N, H] a side, adds to the figures of a pair; where: as of `cosines`."""
    raw = by_item(cosines(src, tgt, where))
    return {**raw, CENTERED: found(cosines(center(src), center(tgt), where)).mean(axis=0)}


def center(states: np.ndarray) -> np.ndarray:
    """float64 [N, H]: states less their mean."""
    return states - states.mean(axis=0, dtype=np.float64)


def by_item(cosine: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: [N]}: what each pair of translations adds to the figures of a pair; their means are the figures."""
    both = found(cosine)
    return {
        "recall@1": both.mean(axis=0),
        "recall@1_from_src": both[0],
        "recall@1_from_tgt": both[1],
        "margin": found(ratio_margin(cosine)).mean(axis=0),
        "mexa": mexa(cosine).astype(np.float64),
        "cosine_gap": cosine_gap(cosine),
    }


def means(figures: Mapping[str, np.ndarray]) -> dict[str, Metric]:
    """{metric: figure} of a pair; figures: {metric: [N]}, what each item adds."""
    return dict(zip(figures, statistics.means(np.stack(list(figures.values()))), strict=True))


@lru_cache(256)  # pairs of languages; a comparison asks of the same texts beside each of its models
def by_ngrams(src: tuple[str, ...], tgt: tuple[str, ...]) -> Mapping[str, Metric]:
    """{metric: figure} of a pair of sides of N texts each, by the characters that texts share: see `_ngrams`."""
    return means(by_item(_ngrams.cosines(src, tgt)))


def credits(src: np.ndarray, tgt: np.ndarray, where: str = "retrieval") -> np.ndarray:
    """`found` by the cosine of src and tgt, [N, H] each; `where` names them in an error."""
    return found(cosines(src, tgt, where))


def cosines(src: np.ndarray, tgt: np.ndarray, where: str = "retrieval") -> np.ndarray:
    """float64 [N, N]: of row i of `src` and row j of `tgt`, [N, H] each; 0 with a row of zeros."""
    if not (np.isfinite(src).all() and np.isfinite(tgt).all()):
        raise UserError(f"{where}: embeddings hold NaN or infinity. Needed: finite ones. The training diverged.")
    return unit(src) @ unit(tgt).T


def found(scores: np.ndarray) -> np.ndarray:
    """float64 [2, N]: 1 where row i of one side is nearest to row i of the other, source to target and back.

    scores: [N, N], that of a translation on the diagonal. Where k candidates are equally near, the right one among them
    earns 1/k, so that embeddings which are all the same score chance.
    """
    out = []
    for turned in (scores, scores.T):
        nearest = turned >= turned.max(axis=1, keepdims=True) - ROUNDING
        out.append(np.where(np.diag(nearest), 1 / nearest.sum(axis=1), 0.0))
    return np.stack(out)


def ratio_margin(cosine: np.ndarray, neighbours: int = 4) -> np.ndarray:
    """[N, N]: each cosine over the mean of those to the k nearest of either sentence, half of it from each.

    It takes from a sentence that is near to all (a hub) what plain cosine gives it. k is at most N. A mean that is not
    positive counts as a very small one.
    Source: Artetxe and Schwenk 2019 (arXiv 1811.01136), eqs. 1 and 2, ratio; k = 4 there.
    """
    k = min(neighbours, len(cosine))
    of_src = np.partition(cosine, -k, axis=1)[:, -k:].mean(axis=1)  # [N]
    of_tgt = np.partition(cosine, -k, axis=0)[-k:].mean(axis=0)  # [N]
    return cosine / np.maximum((of_src[:, None] + of_tgt) / 2, 1e-12)


def cosine_gap(cosine: np.ndarray) -> np.ndarray:
    """[N]: the cosine of a translation less the mean of the others in its row and column; of one pair, the cosine.

    The mean of these is the mean cosine of translations less that of all other pairs.
    """
    right = np.diag(cosine)
    others = cosine.sum(axis=0) + cosine.sum(axis=1) - 2 * right
    return right - others / max(2 * (len(cosine) - 1), 1)


def mexa(cosine: np.ndarray) -> np.ndarray:
    """bool [N]: the cosine of a translation is above every other in its row and in its column; the mean is the score.

    Source: MEXA (Kargaran et al. 2024, arXiv 2410.05873), eq. 1. It pools by a mean weighted by position, or takes the
    last token; what is pooled here is the caller's.
    """
    right, others = np.diag(cosine), cosine.copy()
    np.fill_diagonal(others, -np.inf)
    return right > np.maximum(others.max(axis=0), others.max(axis=1)) + ROUNDING


def _guards(states: dict[str, np.ndarray]) -> dict[str, Metric]:
    """Figures of languages and of all together; states: {language: [N, H]}. Languages of one sentence say nothing."""
    states = {lang: rows for lang, rows in sorted(states.items()) if len(rows) > 1}
    out: dict[str, Metric] = {}
    for lang, rows in states.items():
        out[f"{GUARDS}/{lang}/effective_rank"] = effective_rank(rows)
        out[f"{GUARDS}/{lang}/uniformity"] = uniformity(rows)
    if len(states) > 1:
        out[f"{GUARDS}/all/variance_ratio"] = variance_ratio(states)
        out[f"{GUARDS}/all/language_probe"] = language_probe(states)
    return out


def _all_pairs(states: dict[str, np.ndarray]) -> dict[str, Metric]:
    """recall@1 each way of every two languages; states: {language: [N, H]}, row i of all means the same."""
    rows = {lang: unit(own) for lang, own in sorted(states.items())}
    figures: dict[str, np.ndarray] = {}
    for src, tgt in combinations(rows, 2):
        for way, credit in zip(("src", "tgt"), found(rows[src] @ rows[tgt].T), strict=True):
            figures[f"{src}-{tgt}/recall@1_from_{way}"] = credit
    return dict(zip(figures, statistics.means(np.stack(list(figures.values()))), strict=True))
