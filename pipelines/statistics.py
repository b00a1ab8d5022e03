"""Figures with their 95 % intervals, by resampling what they were measured on."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipelines.evals import Metric

RESAMPLES = 1_000
STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930,
)  # fmt: skip
"""The 0.975 quantile of Student's t by degrees of freedom, from 1 (Student 1908, doi 10.1093/biomet/6.1.1)."""
MOST_RUNS = len(STUDENT) + 1
BLOCK = 4_000_000  # most weights that are turned into float64 at once


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Metric:
    """sum(numerator) / sum(denominator) over N items, with the percentile interval of the bootstrap over items.

    numerator, denominator: [N], of one item each, so that a long text weighs by its tokens; denominator > 0.
    The same seed and N resample the same items, so two models measured on the same items are paired.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    n = len(numerator)
    if n == 0:
        raise ValueError("a figure of no items: allowed is at least one. Give the eval texts to measure on.")
    sums = resampled(np.stack([numerator, denominator], axis=1), seed)
    return from_resamples(numerator.sum() / denominator.sum(), n, sums[:, 0] / sums[:, 1])


def mean(values: np.ndarray, seed: int = 0) -> Metric:
    """The mean of [N] items with its interval, as `ratio` has it."""
    return ratio(np.asarray(values, np.float64), np.ones(len(values)), seed)


def means(values: np.ndarray, seed: int = 0) -> list[Metric]:
    """`mean` of each row of [F, N], all figures of the same items."""
    values = np.asarray(values, np.float64)
    n = values.shape[1]
    found = resampled(values.T, seed) / n
    return [from_resamples(own.mean(), n, found[:, i]) for i, own in enumerate(values)]


def from_resamples(value: float, n: int, found: np.ndarray) -> Metric:
    """A figure of n items with the percentile interval of its resamples [RESAMPLES]."""
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


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
