"""Figures with their 95 % intervals, by resampling what they were measured on."""

import numpy as np

from pipelines.evals import Metric

RESAMPLES = 1_000


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Metric:
    """sum(numerator) / sum(denominator) over N items, with the percentile interval of the bootstrap over items.

    numerator, denominator: [N], of one item each, so that a long text weighs by its tokens; denominator > 0.
    The same seed and N resample the same items, so two models measured on the same items are paired.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    n = len(numerator)
    if n == 0:
        raise ValueError("a figure of no items: allowed is at least one. Give the eval texts to measure on.")
    rng = np.random.default_rng(seed)
    found = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = np.bincount(rng.integers(n, size=n), minlength=n)
        found[i] = (weights @ numerator) / (weights @ denominator)
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": float(numerator.sum() / denominator.sum()), "low": float(low), "high": float(high), "n": n}


def mean(values: np.ndarray, seed: int = 0) -> Metric:
    """The mean of [N] items with its interval, as `ratio` has it."""
    return ratio(np.asarray(values, np.float64), np.ones(len(values)), seed)
