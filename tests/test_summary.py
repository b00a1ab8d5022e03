import pytest

from pipelines.report.format import change_style
from pipelines.results.measures import measure
from pipelines.results.summary import (
    by_layer,
    difference,
    gap_rows,
    mean,
    paired_difference,
    share,
    significance,
    subject,
    summary,
    table,
)
from tests.support.fake_metrics import DE, SW, TRAINED_LAYER, compare_rates, result

BETTER = {DE: [0.04, 0.05, 0.30], SW: [0.03, 0.04, 0.20]}
EVEN = {"eng_Latn": [(5.00, 0.05), (5.10, 0.05), (5.15, 0.05)]}


def metrics(*args, **kwargs):
    return result(compare_rates(*args, **kwargs))


def test_rows_hold_every_figure_but_those_per_layer_and_end_with_the_mean():
    rows = summary(metrics(BETTER, EVEN))
    assert [(row["subject"], row["metric"]) for row in rows] == [
        ("German\u00a0– English", "recall@1"),
        ("English\u00a0– Swahili", "recall@1"),
        ("mean", "recall@1"),
        ("English", "nats_per_token"),
    ]
    assert rows[0]["key"] == f"retrieval/{DE}/recall@1"
    assert [rows[0][name] for name in ("base", "control", "aligned", "chance")] == [0.04, 0.05, 0.30, 1 / 300]
    assert rows[2]["aligned"] == pytest.approx(0.25)
    assert rows[3]["chance"] is None


def test_the_table_shows_rates_in_percent_and_nats_as_they_are():
    lines = table(metrics(BETTER, EVEN)).splitlines()
    assert lines[0].split() == ["base", "control", "aligned", "chance"]
    assert lines[1].split() == ["German", "–", "English", "recall@1", "4.0", "%", "5.0", "%", "30.0", "%", "0.3", "%"]
    assert lines[-1].split() == ["English", "nats", "per", "token", "5.00", "5.10", "5.15", "–"]
    assert len({len(line) for line in lines}) == 1
    of_loss = table(metrics(BETTER, EVEN), lambda task, metric: (task, metric) == ("loss", "nats_per_token"))
    assert [line.split() for line in of_loss.splitlines()] == [lines[0].split(), lines[-1].split()]


def test_scores_and_rates_have_differences_in_points():
    keys = ("translation/deu_Latn>eng_Latn/chrF", "translation/eng_Latn>deu_Latn/in_language")
    lines = table(result({"base": {keys[0]: {"value": 30.25}}, "aligned": {keys[1]: {"value": 0.5}}})).splitlines()
    assert lines[1].split()[-5:] == ["chrF", "30.2", "–", "–", "–"]
    assert lines[2].split()[-6:] == ["language", "–", "–", "50.0", "%", "–"]
    change = {"value": 2.5, "low": -1.0, "high": 6.0, "n": 9, "p": 0.2, "detectable": 4.0}
    assert change_style(measure("translation", "COMET")).text(change, signed=True) == "+2.5 points (−1.0 to +6.0)"
    share = {**change, "value": 0.025, "low": -0.01, "high": 0.06}
    assert change_style(measure("xnli", "acc")).text(share, signed=True) == "+2.5 points (−1.0 to +6.0)"


def test_a_mean_over_different_sets_is_not_shown():
    content = compare_rates(BETTER)
    del content["base"][f"retrieval/{SW}/recall@1"]
    some = result(content)
    assert summary(some)[-1]["base"] is None
    assert summary(some)[-1]["aligned"] == pytest.approx(0.25)


def test_means_by_layer_peak_at_the_trained_layer():
    found = by_layer(metrics(BETTER), "aligned")
    assert list(found) == [0, 1, 2, 3, 4]
    assert max(found, key=lambda layer: found[layer]["value"]) == TRAINED_LAYER
    assert found[TRAINED_LAYER] == pytest.approx({"value": 0.25, "low": 0.22, "high": 0.28})


def test_half_widths_of_a_difference_combine_in_quadrature():
    found = difference({"value": 0.5, "low": 0.47, "high": 0.54}, {"value": 0.3, "low": 0.27, "high": 0.34})
    assert found == pytest.approx({"value": 0.2, "low": 0.15, "high": 0.25})
    assert difference({"value": 2}, {"value": 1, "low": 0, "high": 2}) == {"value": 1}


def test_a_share_is_of_the_figure_it_is_measured_from():
    found = share({"value": 0.5, "low": 0.25, "high": 0.75, "n": 9, "p": 0.01, "detectable": 0.4}, {"value": 5.0})
    assert found == pytest.approx({"value": 0.1, "low": 0.05, "high": 0.15, "n": 9, "p": 0.01, "detectable": 0.08})
    assert share({"value": 0.5}, {"value": 0.0}) == {}


def test_paired_differences_are_preferred_to_independent_intervals():
    content = compare_rates(BETTER)
    some = result(content)
    keys = [f"retrieval/{pair}/recall@1" for pair in (DE, SW)]
    assert paired_difference(some, "control", keys) == pytest.approx(
        {"value": 0.205, "low": 0.162574, "high": 0.247426}, abs=1e-5
    )
    narrow = {"value": 0.205, "low": 0.2, "high": 0.21, "n": 600, "p": 0.002, "detectable": 0.01}
    content["differences"] = {"aligned-control": {"retrieval/all/recall@1": narrow}}
    content["means"] = {"aligned": {"retrieval/all/recall@1": {"value": 0.25, "low": 0.24, "high": 0.26}}}
    some = result(content)
    assert paired_difference(some, "control", keys) == narrow
    assert mean(some, "aligned", keys) == {"value": 0.25, "low": 0.24, "high": 0.26}
    assert paired_difference(some, "control", keys[:1]) == pytest.approx(
        difference(content["aligned"][keys[0]], content["control"][keys[0]])
    )
    assert paired_difference(result({**content, "control": {}}), "control", keys) is None


def test_gaps_are_listed_by_metric_with_the_mean_last():
    def at(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    keys = {f"xcopa/{lang}/acc": at(0.2) for lang in ("all", "seen", "swh_Latn", "tha_Thai")}
    one = {f"loss/{lang}/nats_per_token": at(0.3) for lang in ("all", "swh_Latn")}
    gaps = {"aligned": {**keys, **one}, "aligned-control": {}}
    found = gap_rows(result({"control": {"xcopa/swh_Latn/acc": at(0.1)}, "gaps": gaps}))
    assert [(row.key.task, row.name) for row in found] == [
        ("loss", "Swahili"), ("xcopa", "Swahili"), ("xcopa", "Thai"), ("xcopa", "Mean"),
    ]  # fmt: skip
    assert found[0].cells == {"aligned": at(0.3)}


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "word"),
    [
        (0.1, 0.3, False, "better"),
        (-0.3, -0.1, False, "worse"),
        (0.1, 0.3, True, "worse"),
        (-0.3, -0.1, True, "better"),
        (-0.1, 0.3, False, "no significant difference"),
        (0.0, 0.3, False, "no significant difference"),
    ],
)
def test_an_interval_that_contains_zero_is_not_significant(low: float, high: float, lower_is_better: bool, word: str):
    assert significance({"value": (low + high) / 2, "low": low, "high": high}, lower_is_better) == word


def test_without_an_interval_nothing_is_significant():
    assert significance({"value": 0.9}) == "no significant difference"
    assert significance(None) == "no significant difference"


def test_subjects_are_named_in_english_and_unknown_ones_kept():
    assert subject("loss/swh_Latn/nats_per_token") == "Swahili"
    assert subject("harness/xcopa_it/acc") == "xcopa_it"
