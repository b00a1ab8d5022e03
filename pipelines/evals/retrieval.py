"""Does a sentence find its translation? Recall@1 by cosine among the held-out sentences, at every layer.

Source: the retrieval probe of mid-align (Liu and Niehues 2025, arXiv 2502.14830), which scores by ratio margin;
here by plain cosine, as in Tatoeba retrieval (Artetxe and Schwenk 2019, arXiv 1812.10464, section 4.3). Ratio margin
and MEXA are here too, for the probe of layers that comes before training.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import statistics
from pipelines.evals import LanguageModel, Metric, asked
from pipelines.evals._bitext import BitextEval
from pipelines.languages import Pair

ROUNDING = 1e-9  # of a product in float64, not of the states: nearer together is equally near


class Retrieval(BitextEval):
    """recall@1, mean of both directions; N candidates are the sentences of the other side, so chance is 1/N."""

    modules: ClassVar[tuple[str, ...]] = ("pipelines.evals._bitext", "pipelines.statistics", "pipelines.segments")
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    layer: Literal["trained", "middle"] | int = "trained"
    """The layer of the figure without a layer in its key: of the contrast, half the blocks, or an index."""
    pooling: Literal["mean", "last"] = "mean"

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        headline = self._headline(lm)
        layers = list(range(lm.num_layers + 1))
        out: dict[str, Metric] = {}
        for pair, src, tgt in embedded(lm, texts, layers, self.pooling):
            of = asked(texts, pair)
            for layer in layers:
                credit = credits(src[layer], tgt[layer], f"{self.name}, {pair}, layer {layer}")
                metric = statistics.mean(credit.mean(axis=0), texts=of)
                out[f"{self.name}/{pair}/recall@1/layer={layer}"] = metric
                if layer == headline:
                    out[f"{self.name}/{pair}/recall@1"] = metric
        return out

    def chance(self, texts: pa.Table) -> dict[str, float]:
        found = texts.group_by(["pair", "lang"]).aggregate([("text", "count")]).to_pylist()
        return {f"{self.name}/{row['pair']}/recall@1": 1 / row["text_count"] for row in found}

    def _headline(self, lm: LanguageModel) -> int:
        named = {"trained": lm.trained_layer, "middle": lm.num_layers // 2}
        layer = self.layer if isinstance(self.layer, int) else named[self.layer]
        layer += lm.num_layers + 1 if layer < 0 else 0
        if not 0 <= layer <= lm.num_layers:
            raise ValueError(
                f"eval.{self.name}.layer: found {self.layer}. Allowed for this model: 0 to {lm.num_layers}, and -1 to "
                f"{-lm.num_layers - 1} from the end. Choose one of them."
            )
        return layer


def embedded(
    lm: LanguageModel, texts: pa.Table, layers: list[int], pooling: str
) -> Iterator[tuple[str, dict[int, np.ndarray], dict[int, np.ndarray]]]:
    """(pair, source side, target side) of every pair; a side that several pairs have alike is embedded once."""
    sides: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    for pair in sorted(set(texts["pair"].to_pylist())):
        rows = texts.filter(pc.equal(texts["pair"], pair))
        src, tgt = (
            rows.filter(pc.equal(rows["lang"], lang)).to_pylist() for lang in Pair.parse(pair.split("-")).languages
        )
        answers = {row["item"]: row["text"] for row in tgt}
        sides.append((pair, tuple(r["text"] for r in src), tuple(answers[r["item"]] for r in src)))
    uses = [side for _, *both in sides for side in both]
    held: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    for pair, *both in sides:
        for side in both:
            if side not in held:
                held[side] = lm.embed(list(side), layers, pooling)
        yield pair, held[both[0]], held[both[1]]
        for side in both:
            uses.remove(side)
            if side not in uses:
                del held[side]


def credits(src: np.ndarray, tgt: np.ndarray, where: str = "retrieval") -> np.ndarray:
    """`found` by the cosine of src and tgt, [N, H] each; `where` names them in an error."""
    return found(cosines(src, tgt, where))


def cosines(src: np.ndarray, tgt: np.ndarray, where: str = "retrieval") -> np.ndarray:
    """float64 [N, N]: of row i of `src` and row j of `tgt`, [N, H] each; 0 with a row of zeros."""
    if not (np.isfinite(src).all() and np.isfinite(tgt).all()):
        raise ValueError(f"{where}: embeddings hold NaN or infinity. Needed: finite ones. The training diverged.")
    return _unit(src) @ _unit(tgt).T


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
    of_src = -np.partition(-cosine, k - 1, axis=1)[:, :k].mean(axis=1)  # [N]
    of_tgt = -np.partition(-cosine, k - 1, axis=0)[:k].mean(axis=0)  # [N]
    return cosine / np.maximum((of_src[:, None] + of_tgt) / 2, 1e-12)


def mexa(cosine: np.ndarray) -> np.ndarray:
    """bool [N]: the cosine of a translation is above every other in its row and in its column; the mean is the score.

    Source: MEXA (Kargaran et al. 2024, arXiv 2410.05873), eq. 1. It pools by a mean weighted by position, or takes the
    last token; what is pooled here is the caller's.
    """
    right, others = np.diag(cosine), cosine.copy()
    np.fill_diagonal(others, -np.inf)
    return right > np.maximum(others.max(axis=0), others.max(axis=1)) + ROUNDING


def _unit(rows: np.ndarray) -> np.ndarray:
    """[N, H] with rows of length 1; a row of zeros stays."""
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
