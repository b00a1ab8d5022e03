"""Figures with their 95 % intervals, by resampling what they were measured on; models on the same items are paired."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipelines.errors import UserError
from pipelines.evals import Metric

RESAMPLES = 1_000
DETECTED = 1.959964 + 0.841621
"""Standard errors that a true difference must be wide so that 80 of 100 such tests at 5 % tell it apart from none: the
0.975 and the 0.8 quantile of the normal distribution (Cohen 1988, Statistical Power Analysis, section 2.4)."""
STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930,
)  # fmt: skip
"""The 0.975 quantile of Student's t by degrees of freedom, from 1 (Student 1908, doi 10.1093/biomet/6.1.1)."""
MOST_RUNS = len(STUDENT) + 1
BLOCK = 4_000_000  # most weights that are turned into float64 at once

Texts = Sequence[tuple[str, ...]]
"""Of each item, the eval's texts that it rests on."""


Formula = Callable[[np.ndarray], np.ndarray]
"""Sums over items, [..., S], to figures, [...]."""


class ItemCounts(NamedTuple):
    """What a figure was measured on: of each item S numbers, [N, S]; `texts` where the eval says them."""

    values: np.ndarray
    formula: Formula
    texts: Texts | None


class BootstrappedMetric(dict[str, float | int]):
    """A Metric that remembers its resamples, float64 [RESAMPLES], and its items; JSON holds the figures alone.

    Its interval is the percentile interval of the resamples. Resample i of two figures of one N holds the same items,
    so what is computed from both stays paired.
    """

    def __init__(self, value: float, n: int, resamples: np.ndarray, items: ItemCounts | None = None):
        low, high = np.quantile(resamples, [0.025, 0.975])
        super().__init__(value=float(value), low=float(low), high=float(high), n=n)
        self.resamples, self.measured = resamples, items


def ratio(
    numerator: np.ndarray, denominator: np.ndarray, seed: int = 0, texts: Texts | None = None
) -> BootstrappedMetric:
    """sum(numerator) / sum(denominator) over N items, with the percentile interval of the bootstrap over items.

    numerator, denominator: [N], of one item each, so that a long text weighs by its tokens; denominator >= 0, and
    where its sum is 0, so is the ratio.
    The same seed and N resample the same items, so two models measured on the same items are paired.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    return pooled(np.stack([numerator, denominator], axis=1), _quotient, seed, texts)


def pooled(values: np.ndarray, formula: Formula, seed: int = 0, texts: Texts | None = None) -> BootstrappedMetric:
    """`formula` of the column sums of [N, S], of a row an item, with its interval as `ratio` has it.

    So chrF and BLEU of a corpus are resampled: by the counts of its items, not by scores of items (Koehn 2004,
    Statistical Significance Tests for Machine Translation Evaluation, W04-3250).
    """
    if len(values) == 0:
        raise UserError("a figure of no items: allowed is at least one. Give the eval texts to measure on.")
    whole = np.ascontiguousarray(values.T).sum(axis=1)
    return BootstrappedMetric(
        float(formula(whole)), len(values), formula(resampled(values, seed)), ItemCounts(values, formula, texts)
    )


def _quotient(sums: np.ndarray) -> np.ndarray:
    """Of two sums; 0 where there is nothing to divide by, such as no span in any item."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros(below.shape), where=below != 0)


def mean(values: np.ndarray, seed: int = 0, texts: Texts | None = None) -> BootstrappedMetric:
    """The mean of [N] items with its interval, as `ratio` has it."""
    return ratio(np.asarray(values, np.float64), np.ones(len(values)), seed, texts)


def means(values: np.ndarray, seed: int = 0, texts: Texts | None = None) -> list[BootstrappedMetric]:
    """`mean` of each row of [F, N], all figures of the same items."""
    values = np.asarray(values, np.float64)
    ones = np.ones(values.shape[1])
    found = resampled(values.T, seed) / len(ones)
    return [
        BootstrappedMetric(
            own.mean(), len(ones), found[:, i].copy(), ItemCounts(np.stack([own, ones], axis=1), _quotient, texts)
        )
        for i, own in enumerate(values)
    ]


def resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """float64 [RESAMPLES, F]: the column sums of [N, F] in every resample of the N items."""
    drawn = weights(len(values), seed)
    step = max(1, BLOCK // len(values))
    return np.concatenate([drawn[i : i + step].astype(np.float64) @ values for i in range(0, RESAMPLES, step)])


@lru_cache(maxsize=4)
def weights(n: int, seed: int = 0) -> np.ndarray:
    """uint8 [RESAMPLES, n]: how often each resample holds each item."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, n), np.uint8)
    for row in drawn:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    drawn.flags.writeable = False
    return drawn


def paired(a: BootstrappedMetric, b: BootstrappedMetric) -> BootstrappedMetric:
    """a − b of two models on the same items."""
    if a["n"] != b["n"]:
        raise UserError(f"a paired difference of {a['n']} and {b['n']} items. Allowed: the same items on both sides.")
    return BootstrappedMetric(a["value"] - b["value"], int(a["n"]), a.resamples - b.resamples)


def average(found: Sequence[BootstrappedMetric]) -> BootstrappedMetric:
    """The mean of several figures; n is the sum of theirs.

    Where all have one N, resample i of each holds the items of the same numbers: pairs that share the sentences of
    their common language then rise and fall together, as they do. Else they are taken to err all together, which is
    never too narrow.
    """
    together = len({item["n"] for item in found}) == 1
    resamples = [item.resamples if together else np.sort(item.resamples) for item in found]
    value = sum(item["value"] for item in found) / len(found)
    return BootstrappedMetric(value, sum(int(item["n"]) for item in found), np.mean(resamples, axis=0))


def gap(pivot: BootstrappedMetric, other: BootstrappedMetric, lower_is_better: bool = False) -> BootstrappedMetric:
    """How far another language lies behind the pivot, as a share of the pivot's figure: (pivot − other) / pivot.

    Of figures of which less is better it is (other − pivot) / pivot. Resamples in which the pivot has 0 count as 0.
    Source: the relative performance gap to English by which AFP (Li et al. 2024, arXiv 2311.08089) states its problem.
    """
    sign = -1 if lower_is_better else 1
    lost, of = sign * (pivot.resamples - other.resamples), pivot.resamples
    resamples = np.divide(lost, of, out=np.zeros(RESAMPLES), where=of != 0)
    value = sign * (pivot["value"] - other["value"]) / pivot["value"] if pivot["value"] else 0.0
    return BootstrappedMetric(value, int(other["n"]), resamples)


def with_interval(difference: BootstrappedMetric) -> Metric:
    """{value, low, high, n, p, detectable} of a difference.

    p: two-sided, at least 2 / (RESAMPLES + 1) (Davison and Hinkley 1997, Bootstrap Methods, section 4.4). detectable:
    the least true difference that the test would tell apart from none in 80 of 100 cases; missing where all resamples
    agree, as then there is no error to judge by.
    """
    beyond = min((difference.resamples <= 0).sum(), (difference.resamples >= 0).sum())
    error = float(difference.resamples.std(ddof=1))
    out: Metric = {**difference, "p": min(1.0, 2 * (1 + int(beyond)) / (RESAMPLES + 1))}
    return {**out, "detectable": DETECTED * error} if error > 1e-12 else out


def without(metric: BootstrappedMetric, texts: set[str]) -> tuple[int, BootstrappedMetric | None]:
    """How many items rest on one of `texts`, and the figure of the others, where there are both.

    (0, None) where the eval does not say what its items rest on.
    """
    if metric.measured is None or metric.measured.texts is None:
        return 0, None
    values, formula, of = metric.measured
    assert of is not None
    keep = np.array([texts.isdisjoint(own) for own in of])
    gone = len(keep) - int(keep.sum())
    return gone, pooled(values[keep], formula) if gone and keep.any() else None


def over_runs(values: Sequence[float]) -> Metric:
    """The mean of N runs with its interval by Student's t, N - 1 degrees of freedom; of one run there is no interval.

    It says how far other runs may lie, not other items: of few runs it is wide. N is at most MOST_RUNS.
    """
    found = np.asarray(values, np.float64)
    n, value = len(found), float(found.mean())
    if n == 1:
        return {"value": value, "n": n}
    half = STUDENT[n - 2] * float(found.std(ddof=1)) / n**0.5
    return {"value": value, "low": value - half, "high": value + half, "n": n}
