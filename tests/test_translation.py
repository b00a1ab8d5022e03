from pathlib import Path

import pytest

from pipelines.tasks.translation import Translation
from tests.support.bitext_fixtures import CORPUS, Planted

HOME = Path("unused")
PAIR = "deu_Latn-eng_Latn"


def test_every_row_is_asked_both_ways_and_is_one_item() -> None:
    task = Translation.model_validate({"source": Planted(rows=2), "train": ["en-de"]})
    assert task.cells == [PAIR]
    examples = list(task.examples(PAIR, HOME))
    assert [(e.src_lang, e.tgt_lang, e.given, task.answer(e), e.corpus) for e in examples[:2]] == [
        ("deu_Latn", "eng_Latn", "deu_Latn sentence 0.", "eng_Latn sentence 0.", CORPUS),
        ("eng_Latn", "deu_Latn", "eng_Latn sentence 0.", "deu_Latn sentence 0.", CORPUS),
    ]
    assert len({e.item for e in examples}) == 2
    assert task.render(examples[0]) == [
        {"role": "system", "content": "Translate the following sentences from German to English."},
        {"role": "user", "content": "deu_Latn sentence 0."},
    ]
    assert task.parse(" eng_Latn sentence 0.\n") == examples[0].gold
    assert task.parse("") is None
    assert task.segments(examples[1]) == ["eng_Latn sentence 0.", "deu_Latn sentence 0."]
    assert task.provenance(HOME)[CORPUS]["licence"] == "CC0-1.0"


def test_a_pair_twice_or_one_that_the_source_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="found deu_Latn-eng_Latn twice. Allowed: each pair once"):
        Translation.model_validate({"source": Planted(), "train": ["en-de", "de-en"]})
    with pytest.raises(ValueError, match="no language 'tam_Taml'"):
        Translation.model_validate({"source": {"sample": {}}, "train": ["en-ta"]}).check()


def test_its_settings_read_back() -> None:
    task = Translation.model_validate({"source": {"sample": {}}, "train": ["en-zh"]})
    assert Translation.model_validate(task.settings()["translation"]) == task
