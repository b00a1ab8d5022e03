import math

import numpy as np
import pytest

from pipelines import statistics
from pipelines.results.comparison import compared, language_groups
from pipelines.results.contamination import Overlap
from tests.support.fake_metrics import DE, SW, scored

KEYS = [f"retrieval/{pair}/recall@1" for pair in (DE, SW)]


def test_languages_are_grouped_by_their_rows_in_the_mix():
    keys = [*KEYS, "loss/tha_Thai/nats_per_token", "loss/eng_Latn/nats_per_token", "harness/xcopa_it/acc"]
    rows = {"eng_Latn": 1000, "deu_Latn": 600, "swh_Latn": 399}
    assert language_groups(keys, rows, "eng_Latn") == {
        "seen": ["deu_Latn", "swh_Latn"], "unseen": ["tha_Thai"], "high": ["deu_Latn"], "low": ["swh_Latn"],
    }  # fmt: skip
    assert language_groups(keys, {**rows, "swh_Latn": 400}, "eng_Latn") == {
        "seen": ["deu_Latn", "swh_Latn"], "unseen": ["tha_Thai"],
    }  # fmt: skip
    assert language_groups(keys, {}, "eng_Latn") == {"unseen": ["deu_Latn", "swh_Latn", "tha_Thai"]}


def test_differences_and_means_are_paired_by_item():
    models = {
        "control": {key: scored(rate, 200) for key, rate in zip(KEYS, (0.2, 0.4), strict=True)},
        "aligned": {key: scored(rate, 200) for key, rate in zip(KEYS, (0.3, 0.4), strict=True)},
    }
    found = compared(models, "eng_Latn", {"seen": ["deu_Latn"]})
    differences = found["differences"]["aligned-control"]
    assert {key: item["value"] for key, item in differences.items()} == pytest.approx(
        {KEYS[0]: 0.1, KEYS[1]: 0.0, "retrieval/all/recall@1": 0.05, "retrieval/seen/recall@1": 0.1}
    )
    each = np.r_[np.zeros(40), np.ones(20), np.zeros(140)]
    assert differences[KEYS[0]] == pytest.approx(statistics.with_interval(statistics.mean(each)))
    assert found["means"]["aligned"]["retrieval/all/recall@1"]["value"] == pytest.approx(0.35)
    assert "base" not in found["means"]
    assert "contamination" not in found


def test_gaps_to_the_pivot_and_their_change_are_there_for_what_it_was_asked():
    langs = {"eng_Latn": 0.8, "swh_Latn": 0.4, "tha_Thai": 0.6}
    models = {
        "base": {f"xcopa/{lang}/acc": scored(rate, 200) for lang, rate in langs.items()},
        "aligned": {f"xcopa/{lang}/acc": scored(rate + 0.1, 200) for lang, rate in langs.items()},
    }
    models["base"]["loss/swh_Latn/nats_per_token"] = scored(0.5, 9)  # without English there is no gap
    models["base"]["representation/swh_Latn/effective_rank"] = scored(0.5, 9)
    models["base"]["representation/eng_Latn/effective_rank"] = scored(0.6, 9)
    found = compared(models, "eng_Latn", {})["gaps"]
    assert {key: item["value"] for key, item in found["base"].items()} == pytest.approx(
        {"xcopa/swh_Latn/acc": 0.5, "xcopa/tha_Thai/acc": 0.25, "xcopa/all/acc": 0.375}
    )
    assert found["aligned-base"]["xcopa/swh_Latn/acc"]["value"] == pytest.approx(4 / 9 - 0.5)
    assert found["aligned-base"]["xcopa/all/acc"]["value"] == pytest.approx((4 / 9 + 2 / 9) / 2 - 0.375)


def test_figures_without_items_are_compared_as_if_independent():
    models = {
        "base": {
            "x/eng_Latn/acc": {"value": 0.3, "low": 0.27, "high": 0.34},
            "y/eng_Latn/acc": {"value": math.nan},
        },
        "aligned": {"x/eng_Latn/acc": {"value": 0.5, "low": 0.47, "high": 0.54}, "y/eng_Latn/acc": {"value": 0.1}},
    }
    found = compared(models, "eng_Latn", {})
    assert found["differences"]["aligned-base"] == {
        "x/eng_Latn/acc": pytest.approx({"value": 0.2, "low": 0.15, "high": 0.25})
    }
    assert found["means"] == {"base": {}, "aligned": {}}


def test_figures_stand_with_and_without_the_items_that_the_mix_holds():
    models = {name: {KEYS[0]: scored(rate, 10)} for name, rate in (("base", 0.4), ("aligned", 0.6))}
    texts = {"retrieval": {("eng_Latn", "text 0"): "exact", ("eng_Latn", "text 9"): "near", ("eng_Latn", "text 1"): ""}}
    found = compared(models, "eng_Latn", {}, Overlap(0.8, texts, {}))["contamination"]
    assert found["evals"] == {"retrieval": {"texts": 3, "exact": 1, "near": 1}}
    assert [row["text"] for row in found["examples"]] == ["text 0", "text 9"]
    assert found["without"]["left_out"] == {KEYS[0]: 2}
    assert found["without"]["base"][KEYS[0]]["value"] == pytest.approx(3 / 8)
    assert found["without"]["aligned-base"][KEYS[0]]["value"] == pytest.approx(2 / 8)
    clean = compared(models, "eng_Latn", {}, Overlap(0.8, {"retrieval": {("eng_Latn", "text 1"): ""}}, {}))
    assert clean["contamination"]["without"] == {"left_out": {}}
