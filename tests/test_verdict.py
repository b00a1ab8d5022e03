from typing import Any

import pytest

from pipelines.results import verdict as verdicts
from pipelines.results.comparison import compared, language_groups
from pipelines.results.contamination import Overlap
from pipelines.results.verdict import Group, Verdict
from tests.support.fake_metrics import DE, SW, compare_rates, result, scored

metrics = compare_rates
BETTER = {DE: [0.04, 0.05, 0.30], SW: [0.03, 0.04, 0.20]}
EVEN = {"eng_Latn": [(5.00, 0.05), (5.10, 0.05), (5.15, 0.05)]}


def verdict(content: dict[str, Any]) -> Verdict:
    """The verdict on the content of a metrics.json, without spaces that do not break."""
    found = verdicts.verdict(result(content))
    findings, details = ([line.replace("\u00a0", " ") for line in lines] for lines in (found.findings, found.details))
    assert len(findings) <= verdicts.MAX_FINDINGS
    return found._replace(findings=findings, details=details)


def by_group(content: dict[str, Any]) -> list[Group]:
    return verdicts.by_group(result(content))


def words(*args, **kwargs) -> tuple[str, str, str]:
    """Tone, headline, and findings and details as one text."""
    found = verdict(metrics(*args, **kwargs))
    return found.tone, found.headline, " ".join([*found.findings, *found.details])


def test_a_rise_over_base_and_control_with_english_unharmed_is_better():
    found = verdict(metrics(BETTER, EVEN))
    assert (found.tone, found.headline) == (
        "better", "Better at finding translations, no significant change in English",
    )  # fmt: skip
    assert found.findings == [
        "Recall@1, mean of 2 pairs: 25.0 % (+20.5 points vs control, 95 % CI +16.3 to +24.7), significantly better",
        "English loss: 5.15 nats per token (+0.98 % vs control, 95 % CI −0.41 to +2.37), no significant difference",
    ]
    assert found.details == [
        "Recall@1 at the trained layer (2), mean of 2 pairs: aligned 25.0 % (22.0 to 28.0), control 4.5 % (1.5 to 7.5)"
        ", base 3.5 % (0.5 to 6.5).",
        "Recall@1: +21.5 points vs base, 95 % CI +17.3 to +25.7, significantly better.",
        "Recall@1 without learning: chance 0.33 %.",
        "English loss: aligned 5.15 nats per token (5.10 to 5.20), control 5.10 nats per token (5.05 to 5.15).",
    ]


def test_a_fall_is_called_worse():
    tone, headline, text = words({DE: [0.30, 0.30, 0.10], SW: [0.30, 0.30, 0.10]}, EVEN)
    assert (tone, headline) == ("worse", "Worse at finding translations")
    assert "(−20.0 points vs control, 95 % CI −24.2 to −15.8), significantly worse" in text
    assert "worse in 2 of 2 pairs" in text


def test_a_collapsed_model_at_chance_is_worse():
    tone, _, text = words({DE: [0.30, 0.32, (1 / 300, 0.0)]}, EVEN)
    assert tone == "worse"
    assert "Recall@1 of German – English: 0.33 % (" in text
    assert "Recall@1 without learning: chance 0.33 %." in text


def test_a_small_difference_is_not_significant():
    tone, headline, text = words({DE: [0.30, 0.31, 0.32], SW: [0.30, 0.31, 0.32]}, EVEN)
    assert (tone, headline) == ("same", "No significant effect")
    assert "(+1.0 points vs control, 95 % CI −3.2 to +5.2), no significant difference" in text


def test_what_the_text_alone_does_is_not_credited_to_aligning():
    tone, headline, _ = words({DE: [0.10, 0.31, 0.32]}, EVEN)
    assert (tone, headline) == (
        "same", "No significant effect: control, trained on the same text, gains as much",
    )  # fmt: skip


def test_worse_than_control_is_worse_even_where_better_than_base():
    assert words({DE: [0.10, 0.50, 0.30]}, EVEN)[0] == "worse"


def test_ruined_english_is_named_beside_better_retrieval():
    tone, headline, text = words(BETTER, {"eng_Latn": [5.0, 5.1, 6.63], "swh_Latn": [5.5, 5.5, 5.0]})
    assert (tone, headline) == ("mixed", "Ruined English: better at finding translations, worse at English")
    assert text.startswith("Ruined English: its loss is 30.0 % above control's (bound: 10 %)")
    assert "English loss: 6.63 nats per token (+30.0 % vs control, 95 % CI +29.2 to +30.8), significantly worse" in text


def test_a_little_worse_english_is_worse_and_not_ruined():
    found = verdict(metrics(BETTER, {"eng_Latn": [5.0, (5.0, 0.01), (5.45, 0.01)]}))
    assert (found.tone, found.guards) == ("mixed", [])
    assert found.headline == "Better at finding translations, worse at English"


def test_ruined_english_without_better_retrieval_is_worse():
    tone, headline, _ = words({DE: [0.30, 0.30, 0.30]}, {"eng_Latn": [5.0, 5.1, 6.63]})
    assert tone == "worse"
    assert headline == "Ruined English: worse at English"


def test_an_average_does_not_hide_a_pair_or_language_that_got_worse():
    text = words(
        {DE: [0.10, 0.10, 0.90], SW: [0.30, 0.30, 0.10]},
        {**EVEN, "deu_Latn": [5.0, 5.0, 4.0], "swh_Latn": [5.0, 5.0, 6.0]},
    )[2]
    assert "significantly better; worse in 1 of 2 pairs: English – Swahili" in text
    assert "no significant difference; worse in 1 of 2 other languages: Swahili" in text


def test_without_control_base_is_the_reference():
    tone, _, text = words({DE: [0.10, 0.40]}, {"eng_Latn": [5.0, 5.0]})
    assert tone == "better"
    assert "control" not in text
    assert "(+0.0 % vs base, 95 % CI" in text


def test_figures_that_are_not_numbers_are_a_broken_model():
    some = metrics(BETTER, EVEN)
    some["aligned"]["loss/eng_Latn/nats_per_token"] = {"value": None}
    found = verdict(some)
    assert found.tone == "mixed"
    assert "English loss: not a number, the model is broken" in found.findings


def test_another_layer_than_the_trained_one_is_named():
    some = metrics({DE: [0.04, 0.05, 0.30]}) | {"trained_layer": 4}
    assert verdict(some).findings[0].startswith("Recall@1 at layer 2 of German")


def test_without_figures_there_is_nothing_to_compare():
    assert verdict({"base": {}, "aligned": {}}).headline.startswith("Nothing to compare")


def measured(overlap: Overlap | None = None, **rates: tuple[float, float, float]) -> dict:
    """metrics.json of recall@1 of 400 items, {pair: (base, control, aligned)}, paired as evaluation does."""
    names = {"de": DE, "sw": SW, "th": "eng_Latn-tha_Thai"}
    models = {
        model: {f"retrieval/{names[pair]}/recall@1": scored(rate[at], 400) for pair, rate in rates.items()}
        for at, model in enumerate(("base", "control", "aligned"))
    }
    groups = language_groups(models["base"], {"deu_Latn": 900, "swh_Latn": 300, "eng_Latn": 1200}, "eng_Latn")
    return {**models, "groups": groups, **compared(models, "eng_Latn", groups, overlap)}


def test_the_headline_says_for_whom_it_is_better():
    some = measured(de=(0.1, 0.1, 0.5), sw=(0.1, 0.1, 0.5), th=(0.1, 0.3, 0.1))
    assert some["groups"] == {"seen": ["deu_Latn", "swh_Latn"], "unseen": ["tha_Thai"], "high": ["deu_Latn"],
                              "low": ["swh_Latn"]}  # fmt: skip
    found = verdict(some)
    assert found.headline == "Better at finding translations, worse for languages not seen in alignment"
    assert found.tone == "mixed"
    assert found.findings[1].startswith("Languages not seen in alignment (Thai): recall@1 −20.0 points (95 % CI ")
    assert found.findings[0].endswith("significantly better; worse in 1 of 3 pairs: English – Thai")
    assert [(row.group, row.result) for row in by_group(some)] == [
        ("seen", "better"), ("unseen", "worse"), ("high", "better"), ("low", "better"),
    ]  # fmt: skip


def test_a_group_without_a_significant_difference_gives_its_interval_and_the_test_its_power():
    text = " ".join(verdict(measured(de=(0.1, 0.1, 0.5), sw=(0.1, 0.30, 0.305))).details)
    assert "Low-resource languages (Swahili): recall@1 +0.50 points (95 % CI " in text
    assert "No language was measured that is not in the alignment data." in text
    even = verdict(measured(sw=(0.1, 0.30, 0.305)))
    assert any("Recall@1: the smallest detectable change is 0.9" in line for line in even.details)


def ranked(share: float, loss: dict = EVEN) -> dict:
    """Better retrieval, with an effective rank of `share` of base's at layer 2 and all of it at layer 1."""
    some = metrics(BETTER, loss)
    for lang in ("deu_Latn", "swh_Latn"):
        for layer, kept in ((1, 1.0), (2, share)):
            key = f"representation/{lang}/effective_rank/layer={layer}"
            some["base"][key], some["aligned"][key] = {"value": 40.0}, {"value": 40.0 * kept}
    return some


def test_a_collapsed_representation_is_named_before_all_else():
    found = verdict(ranked(0.05))
    assert (found.tone, found.guards) == ("worse", ["collapsed representation"])
    assert found.headline.startswith("Collapsed representation: better at finding translations")
    assert found.findings[0] == (
        "Collapsed representation: effective rank at layer 2 is 2.0, 5.0 % of base's 40.0 (bound: 25 %; mean of 2 "
        "languages)"
    )


@pytest.mark.parametrize("share", [0.26, 1.0, 3.0])
def test_a_rank_near_that_of_base_raises_no_guard(share: float):
    found = verdict(ranked(share))
    assert (found.tone, found.guards) == ("better", [])


def planted(exact: int, near: int) -> Overlap:
    kinds = ["exact"] * exact + ["near"] * near + [""] * (400 - exact - near)
    return Overlap(0.8, {"retrieval": {("eng_Latn", f"text {i}"): kind for i, kind in enumerate(kinds)}}, {})


def test_a_contaminated_mix_is_named_with_what_is_left_without_it():
    found = verdict(measured(planted(90, 10), de=(0.1, 0.1, 0.4)))
    assert (found.tone, found.guards) == ("mixed", ["contaminated mix"])
    assert found.headline == "Contaminated mix: better at finding translations"
    assert found.findings[0] == (
        "Contaminated mix: 100 of 400 eval texts are in the training mix, 90 exactly and 10 nearly (bound: 1 % of the "
        "texts of retrieval)"
    )
    # The aligned model finds the first 40 % of the items; the mix contains the first quarter.
    assert found.details[-1].startswith("Without the 100 items concerned, recall@1 of German – English is 20.0 % (")
    assert found.details[-1].endswith("), with them 40.0 %; control's is 0.0 %.")


def test_a_few_texts_in_the_mix_are_counted_without_a_guard():
    found = verdict(measured(planted(0, 1), de=(0.1, 0.1, 0.4)))
    assert (found.tone, found.guards) == ("better", [])
    assert "1 of 400 eval texts is in the training mix, 0 exactly and 1 nearly." in found.details
    clean = verdict(measured(planted(0, 0), de=(0.1, 0.1, 0.4)))
    assert clean.details[-1] == "None of 400 eval texts is in the training mix, exactly or nearly."


@pytest.mark.parametrize(("constant", "tone"), [(0.40, "better"), (0.56, "same")])
def test_what_answering_always_the_same_gives_is_no_gain(constant: float, tone: str):
    keys = [f"pawsx/{lang}/acc" for lang in ("eng_Latn", "deu_Latn")]
    found = {
        model: {key: scored(rate, 400) for key in keys}
        for model, rate in (("base", 0.44), ("control", 0.44), ("aligned", 0.56))
    }
    groups = language_groups(keys, {"deu_Latn": 9}, "eng_Latn")
    whole = {
        **found, "groups": groups, **compared(found, "eng_Latn", groups),
        "chance": dict.fromkeys(keys, 0.33), "constant": {key: {"value": constant, "n": 400} for key in keys},
    }  # fmt: skip
    judged = verdict(whole)
    assert judged.tone == tone
    assert {row.result for row in judged.groups} == {"better" if tone == "better" else "better, but not above chance"}
    assert judged.findings[0].endswith("better, but not above chance") == (tone == "same")
    assert f"always one answer {constant * 100:.1f} %" in " ".join(judged.details)


@pytest.mark.parametrize(
    ("rates", "tone", "headline"),
    [
        ((0.3, 0.3, 0.6), "better", "Better at XCOPA acc"),
        ((0.6, 0.6, 0.3), "worse", "Worse at XCOPA acc"),
        ((0.3, 0.3, 0.3), "same", "No significant effect"),
    ],
)
def test_benchmarks_alone_have_a_verdict(rates: tuple[float, ...], tone: str, headline: str):
    models = {
        model: {"xcopa/swh_Latn/acc": scored(rate, 400)}
        for model, rate in zip(("base", "control", "aligned"), rates, strict=True)
    }
    found = verdict({**models, **compared(models, "eng_Latn", {})})
    assert (found.tone, found.headline) == (tone, headline)


def test_a_benchmark_that_got_worse_stands_in_the_headline_beside_better_retrieval():
    some = metrics(BETTER, EVEN)
    for model, rate in (("base", 0.6), ("control", 0.6), ("aligned", 0.4)):
        some[model]["xcopa/swh_Latn/acc"] = {"value": rate, "low": rate - 0.03, "high": rate + 0.03, "n": 500}
    found = verdict(some)
    assert found.tone == "mixed"
    assert found.headline == "Better at finding translations, worse at XCOPA acc"


def test_the_headline_stays_short_however_much_was_measured():
    some = ranked(0.05, {"eng_Latn": [5.0, 5.1, 6.63]})
    for task in ("xnli", "pawsx", "xcopa", "xstorycloze"):
        for model, rate in (("base", 0.6), ("control", 0.6), ("aligned", 0.4)):
            some[model][f"{task}/swh_Latn/acc"] = {"value": rate, "low": rate - 0.03, "high": rate + 0.03, "n": 500}
    found = verdict({**some, "contamination": {"evals": {"xnli": {"texts": 9, "exact": 9, "near": 0}}, "without": {}}})
    assert found.guards == ["collapsed representation", "contaminated mix", "ruined English"]
    assert found.headline == (
        "Collapsed representation, contaminated mix, ruined English: better at finding translations, worse at PAWSX "
        "acc, XCOPA acc and 3 more"
    )


@pytest.mark.parametrize(
    ("after", "text", "word"),
    [(0.6, "English: loss +0.98 % (95 % CI −0.41 to +2.37), no significant difference", "no significant difference"),
     (0.4, "English: XNLI acc −20.0 points (95 % CI −24.2 to −15.8), significantly worse", "worse")],
)  # fmt: skip
def test_retention_of_english_covers_its_tasks_too(after: float, text: str, word: str):
    some = metrics(BETTER, EVEN)
    for model, rate in (("base", 0.6), ("control", 0.6), ("aligned", after)):
        some[model]["xnli/eng_Latn/acc"] = {"value": rate, "low": rate - 0.03, "high": rate + 0.03, "n": 500}
    found = verdict(some)
    assert text in " ".join(found.details)
    assert [(row.key, row.result) for row in found.groups if row.group == "pivot"] == [
        ("loss/eng_Latn/nats_per_token", "no significant difference"), ("xnli/eng_Latn/acc", word),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("valid", "guards"), [(0.0, ["invalid answers"]), (0.09, ["invalid answers"]), (0.1, []), (1.0, [])]
)
def test_invalid_answers_in_languages_of_training_raise_a_guard(valid: float, guards: list[str]):
    some = metrics(BETTER, EVEN)
    for model in ("base", "control", "aligned"):
        some.setdefault("means", {}).setdefault(model, {})["intents/source/valid"] = scored(valid, 100)
    found = verdict(some)
    assert found.guards == guards
    if guards:
        assert (found.tone, found.headline[:16]) == ("mixed", "Invalid answers:")
        assert "of the answers of intents are in the required format (bound: 10 %)" in found.findings[0]
