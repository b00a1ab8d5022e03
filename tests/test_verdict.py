import pytest

from pipelines.results.comparison import compared, language_groups
from pipelines.results.contamination import Overlap
from pipelines.results.verdict import by_group, verdict
from tests.support.fake_metrics import DE, SW, compare_rates, scored

metrics = compare_rates
BETTER = {DE: [0.04, 0.05, 0.30], SW: [0.03, 0.04, 0.20]}
EVEN = {"eng_Latn": [(5.00, 0.05), (5.10, 0.05), (5.15, 0.05)]}


def words(*args, **kwargs) -> tuple[str, str, str]:
    found = verdict(metrics(*args, **kwargs))
    return found.tone, found.headline, " ".join(found.sentences).replace("\u00a0", " ")


def test_a_rise_over_base_and_control_with_english_unharmed_is_better():
    tone, headline, text = words(BETTER, EVEN)
    assert (tone, headline) == ("better", "Better at finding translations, no harm to English found")
    assert text == (
        "Recall@1 at the trained layer (2), averaged over 2 pairs, is 25.0 % (22.0 to 28.0 %) after aligning: "
        "21.5 points above base's 3.5 % (+17.3 to +25.7 points), better; "
        "20.5 points above control's 4.5 % (+16.3 to +24.7 points), better. Guessing gives 0.33 %. "
        "English loss is 5.15 nats per token, 0.98 % above control's 5.10 (−0.41 to +2.37 %), "
        "which cannot be told apart from no change."
    )


def test_a_fall_is_called_worse():
    tone, headline, text = words({DE: [0.30, 0.30, 0.10], SW: [0.30, 0.30, 0.10]}, EVEN)
    assert (tone, headline) == ("worse", "Worse at finding translations")
    assert "20.0 points below control's 30.0 % (−24.2 to −15.8 points), worse" in text
    assert "Recall@1 is worse than control's in all 2 pairs." in text


def test_a_collapsed_model_at_chance_is_worse():
    tone, _, text = words({DE: [0.30, 0.32, (1 / 300, 0.0)]}, EVEN)
    assert tone == "worse"
    assert "Recall@1 at the trained layer (2) of German – English is 0.33 % (0.33 to 0.33 %)" in text
    assert "Guessing gives 0.33 %." in text


def test_no_difference_cannot_be_told_apart():
    tone, headline, text = words({DE: [0.30, 0.31, 0.32], SW: [0.30, 0.31, 0.32]}, EVEN)
    assert (tone, headline) == ("same", "No effect of aligning can be told")
    assert "1.0 points above control's 31.0 % (−3.2 to +5.2 points), which cannot be told apart from no change" in text


def test_what_the_text_alone_does_is_not_credited_to_aligning():
    tone, headline, _ = words({DE: [0.10, 0.31, 0.32]}, EVEN)
    assert (tone, headline) == ("same", "No effect of aligning can be told: its text alone helped")


def test_worse_than_control_is_worse_even_where_better_than_base():
    assert words({DE: [0.10, 0.50, 0.30]}, EVEN)[0] == "worse"


def test_ruined_english_is_named_beside_better_retrieval():
    tone, headline, text = words(BETTER, {"eng_Latn": [5.0, 5.1, 6.63], "swh_Latn": [5.5, 5.5, 5.0]})
    assert (tone, headline) == ("mixed", "Ruined English: better at finding translations, worse at English")
    assert text.startswith("Ruined English: its loss is 30.0 % above control's; the bound is 10 %.")
    assert "English loss is 6.63 nats per token, 30.0 % above control's 5.10 (29.2 to 30.8 %), worse." in text


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
    text = " ".join(found.sentences)
    assert "Languages not seen in alignment (Thai): recall@1 20.0 points down" in text
    assert "Recall@1 is worse than control's in 1 of 3 pairs: English\u00a0– Thai." in text
    assert [(row.group, row.word) for row in by_group(some)] == [
        ("seen", "better"), ("unseen", "worse"), ("high", "better"), ("low", "better"),
    ]  # fmt: skip


def test_a_group_that_shows_nothing_is_not_told_apart_and_says_what_could_have_been():
    text = " ".join(verdict(measured(de=(0.1, 0.1, 0.5), sw=(0.1, 0.30, 0.305))).sentences).replace("\u00a0", " ")
    assert "Low-resource languages (Swahili): recall@1 0.50 points up (" in text
    assert "which cannot be told apart from no change (one of 0.9" in text
    assert "No language was measured that the alignment has not seen." in text


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
    assert found.sentences[0].replace("\u00a0", " ") == (
        "Collapsed representation: at layer 2 the states of held-out text fill 2.0 directions (effective rank, mean of "
        "2 languages), 5.0 % of base's 40.0; the bound is 25 %."
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
    text = found.sentences[0].replace("\u00a0", " ")
    assert text.startswith(
        "Contaminated mix: 100 of 400 eval texts stand in the training mix, 90 exactly and 10 nearly; the bound is 1 % "
        "of the texts of retrieval. "
    )
    # Of the items the first 40 % are found after aligning, and the mix holds a quarter of all, which are among them.
    assert "Without the 100 items concerned recall@1 of German – English is 20.0 % (" in text
    assert "after aligning, with them 40.0 %; control's is 0.0 %." in text


def test_a_few_texts_in_the_mix_are_counted_without_alarm_and_none_is_said():
    found = verdict(measured(planted(0, 1), de=(0.1, 0.1, 0.4)))
    assert (found.tone, found.guards) == ("better", [])
    assert found.sentences[-1].startswith("1 of 400 eval texts stands in the training mix, 0 exactly and 1 nearly.")
    clean = verdict(measured(planted(0, 0), de=(0.1, 0.1, 0.4)))
    assert clean.sentences[-1] == "None of 400 eval texts stands in the training mix, exactly or nearly."


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
    said = verdict(whole)
    assert said.tone == tone
    assert {row.word for row in said.groups} == {"better" if tone == "better" else "better, but not above guessing"}
    assert ("better, but not above guessing." in said.sentences[0]) == (tone == "same")
    assert f"always the same answer {constant * 100:.1f}" in said.sentences[0].replace("Always", "always")


@pytest.mark.parametrize(
    ("rates", "tone", "headline"),
    [
        ((0.3, 0.3, 0.6), "better", "Better at XCOPA acc"),
        ((0.6, 0.6, 0.3), "worse", "Worse at XCOPA acc"),
        ((0.3, 0.3, 0.3), "same", "No effect of aligning can be told"),
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
    ("after", "said", "word"),
    [(0.6, "English is retained as far as can be told: loss 0.98\u00a0% up", "cannot be told apart"),
     (0.4, "English is not retained: XNLI acc 20.0 points down", "worse")],
)  # fmt: skip
def test_whether_english_is_retained_is_said_of_its_tasks_too(after: float, said: str, word: str):
    some = metrics(BETTER, EVEN)
    for model, rate in (("base", 0.6), ("control", 0.6), ("aligned", after)):
        some[model]["xnli/eng_Latn/acc"] = {"value": rate, "low": rate - 0.03, "high": rate + 0.03, "n": 500}
    found = verdict(some)
    assert said in " ".join(found.sentences)
    assert [(row.key, row.word) for row in found.groups if row.group == "pivot"] == [
        ("loss/eng_Latn/nats_per_token", "cannot be told apart"), ("xnli/eng_Latn/acc", word),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("valid", "guards"), [(0.0, ["invalid answers"]), (0.09, ["invalid answers"]), (0.1, []), (1.0, [])]
)
def test_answers_that_are_in_no_form_where_the_task_was_trained_are_named(valid: float, guards: list[str]):
    some = metrics(BETTER, EVEN)
    for model in ("base", "control", "aligned"):
        some.setdefault("means", {}).setdefault(model, {})["intents/source/valid"] = scored(valid, 100)
    found = verdict(some)
    assert found.guards == guards
    if guards:
        assert (found.tone, found.headline[:16]) == ("mixed", "Invalid answers:")
        said = found.sentences[0].replace("\u00a0", " ")
        assert "of the answers of intents are in the required format" in said
        assert said.endswith("the bound is 10 %. Its other figures say nothing: see the generations.")
