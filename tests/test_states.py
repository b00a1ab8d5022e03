"""Guards and the language probe, on states whose figures are known."""

import numpy as np
import pytest

from pipelines.evals._states import effective_rank, language_probe, uniformity, variance_ratio

RNG = np.random.default_rng(0)
SPREAD = RNG.normal(size=(60, 24)).astype(np.float32)


def test_the_effective_rank_counts_directions():
    assert effective_rank(np.eye(8))["value"] == pytest.approx(8)
    assert effective_rank(np.repeat(np.eye(3), 5, axis=0))["value"] == pytest.approx(3)
    uneven = np.repeat(np.eye(2), (9, 1), axis=0)  # singular values 3 and 1
    assert effective_rank(uneven)["value"] == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert effective_rank(5 * uneven) == pytest.approx(effective_rank(uneven))


@pytest.mark.parametrize("shape", [(60, 24), (20, 40)], ids=["more texts", "more coordinates"])
def test_the_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]):
    states = RNG.normal(size=shape) + 0.5
    singular = np.linalg.svd(states / np.linalg.norm(states, axis=1, keepdims=True), compute_uv=False)
    shares = singular / singular.sum()
    metric = effective_rank(states)
    assert metric["value"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert metric["n"] == shape[0]
    assert metric["low"] < metric["high"]


def test_uniformity_is_the_log_of_the_mean_kernel_over_pairs():
    rows = SPREAD[:7] / np.linalg.norm(SPREAD[:7], axis=1, keepdims=True)
    kernel = [np.exp(-2 * ((rows[i] - rows[j]) ** 2).sum()) for i in range(7) for j in range(7) if i != j]
    assert uniformity(SPREAD[:7])["value"] == pytest.approx(np.log(np.mean(kernel)), rel=1e-6)
    assert uniformity(np.eye(5))["value"] == pytest.approx(-4)  # all at a squared distance of 2
    metric = uniformity(SPREAD)
    assert metric["low"] < metric["value"] < metric["high"]


@pytest.mark.parametrize("noise", [0, 1e-5])
def test_collapse_to_a_point_shows_in_both_guards_though_every_cosine_is_high(noise: float):
    point = np.ones((60, 24)) + noise * SPREAD
    assert effective_rank(point)["value"] == pytest.approx(1, abs=0.01)
    assert uniformity(point)["value"] == pytest.approx(0, abs=1e-6)
    assert effective_rank(SPREAD)["low"] > 15
    assert uniformity(SPREAD)["high"] < -2


def test_collapse_to_a_line_and_to_the_languages_own_points_show():
    line = np.outer(RNG.normal(size=60), SPREAD[0])
    assert effective_rank(line)["value"] == pytest.approx(1, abs=0.01)
    points = {"a": np.tile(SPREAD[0], (30, 1)), "b": np.tile(SPREAD[1], (30, 1))}
    assert variance_ratio(points)["value"] == pytest.approx(1)
    assert effective_rank(points["a"])["value"] == pytest.approx(1)


def test_the_variance_ratio_is_that_of_a_loop():
    states = {"a": SPREAD[:20] + 0.5, "b": SPREAD[20:50] - 0.5, "c": SPREAD[50:]}
    rows = {lang: [row / np.linalg.norm(row) for row in own.astype(float)] for lang, own in states.items()}
    whole = [row for own in rows.values() for row in own]
    grand = np.sum(whole, axis=0) / 60
    between = sum(len(own) * ((np.sum(own, axis=0) / len(own) - grand) ** 2).sum() for own in rows.values())
    metric = variance_ratio(states)
    assert metric["value"] == pytest.approx(between / sum(((row - grand) ** 2).sum() for row in whole))
    assert 0.1 < metric["low"] < metric["value"] < metric["high"] < 0.9
    assert metric["n"] == 60
    assert variance_ratio({"a": SPREAD, "b": SPREAD})["value"] == pytest.approx(0)
    assert variance_ratio({"a": np.ones((3, 2)), "b": np.ones((3, 2))})["value"] == 0


@pytest.mark.parametrize("width", [200, 24], ids=["solved by rows", "solved by coordinates"])
def test_the_probe_tells_languages_that_lie_apart_and_no_others(width: int):
    rows = RNG.normal(size=(3, 40, width))
    away = {lang: own + 30 * np.eye(width)[i] for i, (lang, own) in enumerate(zip("abc", rows, strict=True))}
    assert language_probe(away) == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 120}
    assert language_probe({lang: rows[0] for lang in "abc"})["value"] == pytest.approx(1 / 3), "no state says its language"
    alike = {lang: RNG.normal(size=(200, width)) for lang in "abc"}
    assert language_probe(alike)["value"] == pytest.approx(1 / 3, abs=0.08)


def test_the_probe_is_asked_about_rows_that_it_was_not_fitted_on():
    """With more coordinates than rows a probe fits any labels; rows it has not seen give it away."""
    noise = {lang: RNG.normal(size=(40, 300)) for lang in "ab"}
    assert language_probe(noise)["value"] == pytest.approx(0.5, abs=0.2)
    assert language_probe({"a": SPREAD[:2], "b": -SPREAD[:2]})["n"] == 4
