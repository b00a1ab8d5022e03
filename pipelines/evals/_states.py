"""Sentence states of several languages -> guards against collapse, and how well a state tells its language.

Alignment figures alone mislead: states that are all alike have a high cosine too, and a layer may lose what it knew.
Each guard is read beside the base model's. All of them see states as cosine does: rows of length 1, not centred.
"""

from collections.abc import Mapping

import numpy as np

from pipelines import statistics
from pipelines.evals import Metric

FOLDS = 5
RIDGE = 1e-2  # of the mean square of a centred coordinate, for each row


def unit(rows: np.ndarray) -> np.ndarray:
    """float64 [N, H] with rows of length 1; a row of zeros stays."""
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def effective_rank(states: np.ndarray) -> Metric:
    """exp(-Σ p_i ln p_i) with p_i = s_i / Σ s, of the singular values s of [N, H]: 1 for one direction, at most N or H.

    The interval resamples sentences with the principal axes held, so that s_i² is the sum of squares along axis i.
    Source: Roy and Vetterli 2007, The effective rank (EUSIPCO), eqs. 1 to 3; of representations, uncentred, as in
    RankMe (Garrido et al. 2023, arXiv 2210.02885).
    """
    rows = unit(states)
    if rows.shape[1] <= len(rows):
        along = rows @ np.linalg.eigh(rows.T @ rows)[1]  # [N, H]
    else:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        along = vectors * np.sqrt(np.maximum(values, 0))  # [N, N]
    squares = along**2
    n = len(rows)
    every = np.concatenate([squares.sum(axis=0, keepdims=True), statistics.resampled(squares)])
    singular = np.sqrt(every)
    shares = singular / np.maximum(singular.sum(axis=1, keepdims=True), 1e-12)
    found = np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1))
    return statistics.BootstrappedMetric(found[0], n, found[1:])


def uniformity(states: np.ndarray) -> Metric:
    """ln of the mean over pairs of sentences of exp(-2 |x - y|²), in nats: 0 where all are alike, lower is more spread.

    The interval resamples sentences; a sentence that is drawn twice makes no pair with itself.
    Source: Wang and Isola 2020 (arXiv 2005.10242), eq. 2, with t = 2.
    """
    rows = unit(states)
    kernel = np.exp(4 * (rows @ rows.T - 1))  # |x - y|² is 2 - 2 cos
    np.fill_diagonal(kernel, 0)
    n = len(rows)
    weights = np.concatenate([np.ones((1, n)), statistics.weights(n)])
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    found = np.log(np.maximum(((weights @ kernel) * weights).sum(axis=1) / np.maximum(pairs, 1), 1e-300))
    return statistics.BootstrappedMetric(found[0], n, found[1:])


def variance_ratio(states: Mapping[str, np.ndarray]) -> Metric:
    """Variance between the languages' means over total variance, in [0, 1]: 1 where a state says its language only.

    states: {language: [N, H]}. Without any variance it is 0. The interval resamples sentences, the means held.
    Source: the correlation ratio η² (Fisher 1925, Statistical Methods for Research Workers, section 45), over vectors.
    """
    rows = {lang: unit(own) for lang, own in states.items()}
    whole = np.concatenate(list(rows.values()))
    grand = whole.mean(axis=0)
    between = np.repeat([((own.mean(axis=0) - grand) ** 2).sum() for own in rows.values()], [*map(len, rows.values())])
    total = ((whole - grand) ** 2).sum(axis=1)
    return statistics.ratio(between, np.maximum(total, 1e-24))


def language_probe(states: Mapping[str, np.ndarray]) -> Metric:
    """Share of sentences whose language a linear probe tells from their state; chance is one over the languages.

    states: {language: [N, H]}. The probe is ridge regression onto one indicator a language, the greatest wins, fitted
    on four fifths of the rows and asked about the rest, five times; rows of one number, which are translations where
    languages have the same items, share a fold. Nothing is drawn: the rows come in an order drawn before.
    Source: linear probes of layers, Alain and Bengio 2016 (arXiv 1610.01644); of the language, as a measure of
    language neutrality, Libovický et al. 2020 (arXiv 2004.05160, section 3).
    """
    rows = np.concatenate([unit(own) for own in states.values()])
    number = np.concatenate([np.arange(len(own)) for own in states.values()])
    label = np.repeat(np.arange(len(states)), [len(own) for own in states.values()])
    wanted = np.eye(len(states))[label]  # [N, languages]
    fold = number % min(FOLDS, min(len(own) for own in states.values()))
    right = np.empty(len(rows))
    for asked in (fold == k for k in range(fold.max() + 1)):
        known, mean = rows[~asked], rows[~asked].mean(axis=0)
        scores = _ridge(known - mean, wanted[~asked], rows[asked] - mean) + wanted[~asked].mean(axis=0)
        right[asked] = scores.argmax(axis=1) == label[asked]
    return statistics.mean(right)


def _ridge(known: np.ndarray, wanted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """What ridge regression of `wanted` [N, L] on `known` [N, H] says of `asked` [M, H]; solved on the smaller side."""
    n, width = known.shape
    strength = max(RIDGE * n * float((known**2).mean()), 1e-24)
    if width <= n:
        return asked @ np.linalg.solve(known.T @ known + strength * np.eye(width), known.T @ wanted)
    return (asked @ known.T) @ np.linalg.solve(known @ known.T + strength * np.eye(n), wanted)
