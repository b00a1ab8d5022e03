from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pipelines.summary import by_layer, change, difference, subject, summary, table, told, verdict
from tests.evaluated import TRAINED_LAYER, Rate, figures

Rates = Mapping[str, Sequence[Rate]]
DE, SW = "deu_Latn-eng_Latn", "eng_Latn-swh_Latn"


def metrics(recall: Rates, loss: Rates | None = None, chance: float = 1 / 300) -> dict[str, Any]:
    """{subject: [base, control, aligned]}, or without control where there are two."""
    names = ("base", "control", "aligned") if len(next(iter(recall.values()))) == 3 else ("base", "aligned")
    models = {
        name: figures({p: r[i] for p, r in recall.items()}, {p: r[i] for p, r in (loss or {}).items()})
        for i, name in enumerate(names)
    }
    known = {f"retrieval/{pair}/recall@1": chance for pair in recall}
    return {**models, "chance": known, "trained_layer": TRAINED_LAYER}


BETTER = {DE: [0.04, 0.05, 0.30], SW: [0.03, 0.04, 0.20]}
EVEN = {"eng_Latn": [(5.00, 0.05), (5.10, 0.05), (5.15, 0.05)]}


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


def test_a_mean_over_different_sets_is_not_shown():
    some = metrics(BETTER)
    del some["base"][f"retrieval/{SW}/recall@1"]
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


def test_a_change_is_relative():
    assert change({"value": 5.5}, {"value": 5.0}) == pytest.approx({"value": 0.1})
    assert change({"value": 5.5}, {"value": 0.0}) == {}


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "word"),
    [
        (0.1, 0.3, False, "better"),
        (-0.3, -0.1, False, "worse"),
        (0.1, 0.3, True, "worse"),
        (-0.3, -0.1, True, "better"),
        (-0.1, 0.3, False, "cannot be told apart"),
        (0.0, 0.3, False, "cannot be told apart"),
    ],
)
def test_an_interval_that_holds_zero_tells_nothing(low: float, high: float, lower_is_better: bool, word: str):
    assert told({"value": (low + high) / 2, "low": low, "high": high}, lower_is_better) == word


def test_without_an_interval_nothing_is_told():
    assert told({"value": 0.9}) == "cannot be told apart"
    assert told(None) == "cannot be told apart"


def test_subjects_are_named_in_english_and_unknown_ones_kept():
    assert subject("loss/swh_Latn/nats_per_token") == "Swahili"
    assert subject("harness/xcopa_it/acc") == "xcopa_it"


def words(*args, **kwargs) -> tuple[str, str, str]:
    found = verdict(metrics(*args, **kwargs))
    return found.tone, found.headline, " ".join(found.sentences).replace("\u00a0", " ")


def test_a_rise_over_base_and_control_with_english_unharmed_is_better():
    tone, headline, text = words(BETTER, EVEN)
    assert (tone, headline) == (
        "better", "Better: translations find each other more often after aligning, and no harm to English can be told",
    )  # fmt: skip
    assert text == (
        "Recall@1 at the trained layer (2), averaged over 2 pairs, is 25.0 % (22.0 to 28.0 %) after aligning: "
        "21.5 points above base's 3.5 % (+17.3 to +25.7 points), better; "
        "20.5 points above control's 4.5 % (+16.3 to +24.7 points), better. Guessing gives 0.33 %. "
        "English loss is 5.15 nats per token, 0.98 % above control's 5.10 (−0.40 to +2.38 %), "
        "which cannot be told apart from no change."
    )


def test_a_fall_is_called_worse():
    tone, headline, text = words({DE: [0.30, 0.30, 0.10], SW: [0.30, 0.30, 0.10]}, EVEN)
    assert (tone, headline) == ("worse", "Worse: translations find each other less often after aligning")
    assert "20.0 points below control's 30.0 % (−24.2 to −15.8 points), worse" in text
    assert "Recall@1 is worse than control's in all 2 pairs." in text


def test_a_collapsed_model_at_chance_is_worse():
    tone, _, text = words({DE: [0.30, 0.32, (1 / 300, 0.0)]}, EVEN)
    assert tone == "worse"
    assert "Recall@1 at the trained layer (2) of German – English is 0.33 % (0.33 to 0.33 %)" in text
    assert "Guessing gives 0.33 %." in text


def test_no_difference_cannot_be_told_apart():
    tone, headline, text = words({DE: [0.30, 0.31, 0.32], SW: [0.30, 0.31, 0.32]}, EVEN)
    assert (tone, headline) == ("same", "Cannot be told apart: aligning shows no effect on finding translations")
    assert "1.0 points above control's 31.0 % (−3.2 to +5.2 points), which cannot be told apart from no change" in text


def test_what_the_text_alone_does_is_not_credited_to_aligning():
    tone, headline, _ = words({DE: [0.10, 0.31, 0.32]}, EVEN)
    assert tone == "same"
    assert headline.startswith("Cannot be told apart from control: the training text helped")


def test_worse_than_control_is_worse_even_where_better_than_base():
    assert words({DE: [0.10, 0.50, 0.30]}, EVEN)[0] == "worse"


def test_ruined_english_is_named_beside_better_retrieval():
    tone, headline, text = words(BETTER, {"eng_Latn": [5.0, 5.1, 6.63], "swh_Latn": [5.5, 5.5, 5.0]})
    assert (tone, headline) == ("mixed", "Mixed: translations find each other more often, but English got worse")
    assert "English loss is 6.63 nats per token, 30.0 % above control's 5.10 (29.0 to 31.0 %), worse." in text


def test_ruined_english_without_better_retrieval_is_worse():
    tone, headline, _ = words({DE: [0.30, 0.30, 0.30]}, {"eng_Latn": [5.0, 5.1, 6.63]})
    assert tone == "worse"
    assert headline.endswith("and English got worse")


def test_an_average_does_not_hide_a_pair_or_language_that_got_worse():
    text = words(
        {DE: [0.10, 0.10, 0.90], SW: [0.30, 0.30, 0.10]},
        {**EVEN, "deu_Latn": [5.0, 5.0, 4.0], "swh_Latn": [5.0, 5.0, 6.0]},
    )[2]
    assert "Recall@1 is worse than control's in 1 of 2 pairs: English – Swahili." in text
    assert "Loss is worse than control's in 1 of 2 other languages: Swahili." in text


def test_without_control_base_is_the_reference():
    tone, _, text = words({DE: [0.10, 0.40]}, {"eng_Latn": [5.0, 5.0]})
    assert tone == "better"
    assert "control" not in text
    assert "0.0 % above base's 5.00" in text


def test_figures_that_are_not_numbers_are_a_broken_model():
    some = metrics(BETTER, EVEN)
    some["aligned"]["loss/eng_Latn/nats_per_token"] = {"value": None}
    found = verdict(some)
    assert found.tone == "mixed"
    assert "English loss after aligning is not a number: the model is broken, worse." in found.sentences


def test_another_layer_than_the_trained_one_is_named():
    some = metrics({DE: [0.04, 0.05, 0.30]}) | {"trained_layer": 4}
    assert "Recall@1 at layer 2 of German" in verdict(some).sentences[0]


def test_without_figures_there_is_nothing_to_compare():
    assert verdict({"base": {}, "aligned": {}}).headline.startswith("Nothing to compare")
