from pathlib import Path

import pytest

from pipelines import sample_grammar
from pipelines.languages import spaceless
from pipelines.tasks.sample_slots import SampleSlots

HOME = Path("unused")
SHOWN = {
    "eng_Latn": (
        "The neighbour looks for a big bed in the kitchen every morning.",
        "person: The neighbour; thing: a big bed; place: in the kitchen; time: every morning",
    ),
    "hin_Deva": (
        "पड़ोसी हर सुबह रसोई में एक बड़ा पलंग ढूँढता है।",
        "person: पड़ोसी; time: हर सुबह; place: रसोई में; thing: एक बड़ा पलंग",
    ),
    "zho_Hans": (
        "邻居每天早上都在厨房里寻找一张大床。",
        "person: 邻居; time: 每天早上; place: 在厨房里; thing: 一张大床",
    ),
}


@pytest.fixture(scope="module")
def heldout() -> dict[str, list]:
    task = SampleSlots.model_validate({"train": list(sample_grammar.LANGUAGES), "split": "heldout"})
    return {cell: list(task.examples(cell, HOME)) for cell in task.cells}


def test_slots_stand_in_the_sentence_as_whole_words_and_apart(heldout: dict[str, list]) -> None:
    for lang, examples in heldout.items():
        for example in examples:
            rest = example.given
            for _, text in example.gold:  # in the order of the text, each after the one before
                before, found, rest = rest.partition(text)
                assert found, (lang, example)
                if not spaceless(lang):
                    assert not before[-1:].isalnum(), (lang, example)
                    assert not rest[:1].isalnum(), (lang, example)
            assert sorted(kind for kind, _ in example.gold) == ["person", "place", "thing", "time"]


def test_examples_are_parallel_and_the_answer_reads_back(heldout: dict[str, list]) -> None:
    task = SampleSlots.model_validate({})
    items = [[example.item for example in examples] for examples in heldout.values()]
    assert len(items[0]) == 96
    assert all(found == items[0] for found in items)
    assert all(task.parse(task.answer(e)) == e.gold for examples in heldout.values() for e in examples)
    shown = {lang: (examples[0].given, task.answer(examples[0])) for lang, examples in heldout.items()}
    assert {lang: shown[lang] for lang in SHOWN} == SHOWN


def test_nothing_held_out_is_trained_on(heldout: dict[str, list]) -> None:
    trained = {example.given for example in SampleSlots.model_validate({}).examples("eng_Latn", HOME)}
    assert len(trained) == 2085
    assert trained.isdisjoint(example.given for example in heldout["eng_Latn"])


def test_a_language_that_the_sample_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task 'sample_slots', train: found tam_Taml. Available: deu_Latn, .*Choose"):
        SampleSlots.model_validate({"train": ["en", "ta"]}).check()
