import json

import numpy as np
import pytest

from pipelines.statistics import DETECTED, average, gap, mean, over_runs, paired, ratio, with_interval, without

RNG = np.random.default_rng(0)
HARD = RNG.normal(size=500)  # what makes an item hard for any model
BEFORE = (HARD + RNG.normal(scale=0.3, size=500) > 0).astype(float)
AFTER = (HARD + RNG.normal(scale=0.3, size=500) > -0.1).astype(float)


def test_a_difference_on_the_same_items_has_the_error_of_the_items_differences():
    found = with_interval(paired(mean(AFTER), mean(BEFORE)))
    each = AFTER - BEFORE
    error = each.std(ddof=1) / np.sqrt(500)
    assert found["value"] == pytest.approx(each.mean())
    assert (found["low"], found["high"]) == pytest.approx(
        (each.mean() - 1.96 * error, each.mean() + 1.96 * error), abs=0.004
    )
    assert found["n"] == 500
    assert found["detectable"] == pytest.approx(DETECTED * error, rel=0.1)
    apart = np.sqrt(BEFORE.var() / 500 + AFTER.var() / 500)
    assert error < apart / 1.9  # what pairing wins here


def test_p_agrees_with_the_interval_and_is_two_sided():
    up, down = with_interval(paired(mean(AFTER), mean(BEFORE))), with_interval(paired(mean(BEFORE), mean(AFTER)))
    assert up["p"] == down["p"] < 0.05
    assert up["low"] > 0
    same = with_interval(paired(mean(BEFORE), mean(BEFORE)))
    assert same == {"value": 0, "low": 0, "high": 0, "n": 500, "p": 1.0}  # no spread: nothing is known of the error
    sure = with_interval(paired(mean(np.ones(50)), mean(np.zeros(50))))
    assert sure["p"] == pytest.approx(2 / 1001)


def test_nats_of_a_text_are_paired_with_its_tokens():
    tokens = RNG.integers(5, 50, size=300)
    nats = tokens * RNG.normal(4, 1, size=300)
    found = with_interval(paired(ratio(nats * 1.02, tokens), ratio(nats, tokens)))
    assert found["value"] == pytest.approx(0.02 * nats.sum() / tokens.sum())
    assert found["low"] > 0
    assert found["high"] - found["low"] < 0.01  # the texts differ by far more than the models


def test_models_of_other_items_are_not_paired():
    with pytest.raises(ValueError, match=r"a paired difference of 500 and 499 items\. Allowed: the same items"):
        paired(mean(BEFORE), mean(AFTER[:-1]))


def test_a_mean_of_pairs_that_share_items_errs_with_them():
    alike = average([mean(BEFORE), mean(BEFORE)])
    assert alike == {**mean(BEFORE), "n": 1000}
    apart = average([mean(BEFORE), mean(RNG.permutation(BEFORE))])
    assert apart["high"] - apart["low"] < 0.8 * (alike["high"] - alike["low"])
    unlike = average([mean(BEFORE), mean(RNG.permutation(BEFORE)[:499])])  # of other items: as if all erred together
    assert unlike["high"] - unlike["low"] == pytest.approx(alike["high"] - alike["low"], rel=0.1)


def test_a_gap_is_a_share_of_the_pivots_figure_and_is_paired():
    english = np.r_[np.ones(300), np.zeros(200)]
    swahili = np.r_[np.ones(240), np.zeros(260)]
    found = gap(mean(english), mean(swahili))
    assert found["value"] == pytest.approx((0.6 - 0.48) / 0.6)
    assert found["low"] < found["value"] < found["high"]
    worse = gap(mean(np.full(9, 4.0)), mean(np.full(9, 5.0)), lower_is_better=True)
    assert worse["value"] == pytest.approx(0.25)
    assert gap(mean(np.zeros(9)), mean(np.ones(9)))["value"] == 0.0


def test_a_figure_without_some_of_its_texts():
    metric = mean(np.array([1, 1, 0, 0.0]), texts=[("a", "x"), ("b", "y"), ("c", "z"), ("a", "w")])
    gone, rest = without(metric, {"a", "q"})
    assert gone == 2
    assert rest is not None
    assert (rest["value"], rest["n"]) == (0.5, 2)
    assert without(metric, set()) == (0, None)
    assert without(metric, {"a", "b", "c"}) == (4, None)
    assert without(mean(np.ones(3)), {"a"}) == (0, None)


def test_json_holds_the_figures_alone():
    assert json.loads(json.dumps(mean(np.ones(3)))) == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}


def test_the_interval_over_runs_is_students():
    found = over_runs([0.1, 0.2, 0.3])
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert found == pytest.approx({"value": 0.2, "low": 0.2 - half, "high": 0.2 + half, "n": 3})
    assert over_runs([0.5]) == {"value": 0.5, "n": 1}
