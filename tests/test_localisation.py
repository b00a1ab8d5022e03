import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.evals.localisation import Item, Localisation
from pipelines.languages import Pair
from pipelines.results.comparison import compared
from pipelines.results.verdict import verdict
from pipelines.schema import EVAL_TEXT, check
from pipelines.sources.sample import Sample
from tests.support.bitext_fixtures import recipe
from tests.support.fake_lm import Unasked
from tests.support.fake_metrics import result

PAIRS = [Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "swh_Latn")]
SAMPLE = Localisation(sample=True)
HERE: dict[str, Any] = {"id": "sea", "lang": "en", "question": "The sea is", "choices": [" near", " far"], "answer": 0}


class Answering(Unasked):
    """A model that finds likely what `wanted` says of (question, choice), 1 nat a character against 2."""

    num_layers, trained_layer = 2, 1

    def __init__(self, wanted: Callable[[str, str], bool]):
        self.wanted = wanted

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        nats = [
            -len(choice) * (1.0 if self.wanted(*request) else 2.0) for request in requests for choice in request[1:]
        ]
        return np.array(nats), np.zeros(len(requests), bool)


def table(item: Localisation = SAMPLE, pairs: list[Pair] = PAIRS) -> pa.Table:
    return pa.Table.from_batches([check(batch, EVAL_TEXT, "test") for batch in item.texts(pairs, Path("unused"))])


def known() -> dict[str, Item]:
    return {item.question: item for item in SAMPLE.items()}


def english() -> dict[str, int]:
    return {item.id: item.answer for item in SAMPLE.items() if item.lang == "eng_Latn"}


def local(question: str, choice: str) -> bool:
    item = known()[question]
    return choice == item.choices[item.answer]


def as_in_english(question: str, choice: str) -> bool:
    item = known()[question]
    return choice == item.choices[english()[item.id]]


def written(folder: Path, *rows: dict[str, Any]) -> Localisation:
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Localisation(path=str(folder / "*.jsonl"))


def test_the_embedded_questions_have_other_answers_in_other_languages() -> None:
    items = SAMPLE.items()
    assert {item.lang for item in items} == {
        "eng_Latn", "deu_Latn", "fra_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans", "swh_Latn", "hin_Deva"
    }  # fmt: skip
    assert len(known()) == len(items) == 95
    assert all(len({item.answer for item in items if item.id == id_}) > 1 for id_ in english())
    for lang in {item.lang for item in items} - {"eng_Latn"}:
        own = [item for item in items if item.lang == lang]
        assert len(own) >= 11
        assert sum(item.answer != english()[item.id] for item in own) >= 7


def test_a_model_that_knows_each_language_is_right_and_never_answers_as_english() -> None:
    found = SAMPLE.run(Answering(local), table())
    assert {key: (metric["value"], metric["n"]) for key, metric in found.items()} == {
        "localisation/deu_Latn/accuracy": (1.0, 12), "localisation/deu_Latn/english_answers": (0.0, 9),
        "localisation/eng_Latn/accuracy": (1.0, 12),
        "localisation/swh_Latn/accuracy": (1.0, 12), "localisation/swh_Latn/english_answers": (0.0, 7),
    }  # fmt: skip


def test_a_model_aligned_too_far_answers_as_english_everywhere() -> None:
    found = SAMPLE.run(Answering(as_in_english), table())
    assert found["localisation/eng_Latn/accuracy"]["value"] == 1.0
    assert found["localisation/deu_Latn/accuracy"]["value"] == pytest.approx(3 / 12)
    assert found["localisation/deu_Latn/english_answers"]["value"] == 1.0


def test_a_model_that_finds_all_choices_equally_likely_scores_chance() -> None:
    found, chance = SAMPLE.run(Answering(lambda *_: True), table()), SAMPLE.chance(table())
    assert found.keys() == chance.keys()
    for key, metric in found.items():
        assert metric["value"] == pytest.approx(chance[key])
    german = [len(item.choices) for item in SAMPLE.items() if item.lang == "deu_Latn"]
    assert chance["localisation/deu_Latn/accuracy"] == pytest.approx(sum(1 / n for n in german) / len(german))


def test_long_choices_are_not_less_likely_for_their_length(tmp_path: Path) -> None:
    item = written(tmp_path, {**HERE, "choices": [" a long way off", " far"], "answer": 0})

    class Even(Answering):
        def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
            return np.array([-8.0 if "long" in choice else -4.0 for _, choice in requests]), np.zeros(2, bool)

    found = item.run(Even(local), table(item))
    assert found["localisation/eng_Latn/accuracy"]["value"] == 1.0  # 8 nats of 15 characters against 4 of 4


def test_over_alignment_is_worse_in_the_verdict_and_the_loss_of_local_answers_too() -> None:
    texts = table()
    models = {
        name: SAMPLE.run(Answering(how), texts)
        for name, how in (("base", local), ("control", local), ("aligned", as_in_english))
    }
    groups = {"seen": ["deu_Latn"]}
    content = {**models, "chance": SAMPLE.chance(texts), "groups": groups, **compared(models, "eng_Latn", groups)}
    found = verdict(result(content))
    assert (found.tone, found.headline) == ("worse", "Worse at local answers and English's answers given elsewhere")
    text = " ".join(found.findings).replace("\u00a0", " ")
    assert "English's answers given elsewhere, mean of 2 languages: 100.0 % (+100.0 points vs control" in text
    assert {(row.key, row.result) for row in found.groups if row.group == "seen"} == {
        ("localisation/seen/accuracy", "worse"), ("localisation/seen/english_answers", "worse"),
    }  # fmt: skip


def test_training_is_kept_from_the_question_with_its_right_answer() -> None:
    rows = [row for row in table().to_pylist() if row["item"] == "currency"]
    assert [(row["lang"], row["text"]) for row in rows] == [
        ("deu_Latn", "In den Geschäften unseres Landes zahlt man in Euro"),
        ("eng_Latn", "In the shops of our country one pays in dollars"),
        ("swh_Latn", "Katika maduka ya nchi yetu watu hulipa kwa shilingi"),
    ]


def test_own_items_are_read_pinned_and_must_not_change(tmp_path: Path) -> None:
    german = {**HERE, "lang": "de", "question": "Das Meer ist", "choices": [" nah", " fern"], "answer": 1}
    item = written(tmp_path, HERE, german)
    held, before = table(item), item.pin(PAIRS, tmp_path)
    assert item.run(Answering(lambda _, choice: choice in (" near", " nah")), held) == {
        "localisation/deu_Latn/accuracy": {"value": 0.0, "low": 0.0, "high": 0.0, "n": 1},
        "localisation/deu_Latn/english_answers": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1},
        "localisation/eng_Latn/accuracy": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1},
    }
    assert item.notes(PAIRS) == ["localisation: no question is asked in Swahili (swh_Latn)."]
    written(tmp_path, HERE, {**german, "answer": 0, "choices": [" nahe", " fern"]})
    assert item.pin(PAIRS, tmp_path) != before
    with pytest.raises(ValueError, match="'sea' in deu_Latn changed since eval_text was made"):
        item.run(Answering(local), held)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**HERE, "answer": 2}], r"line 1: found choices \[' near', ' far'\] and answer 2"),
        ([{**HERE, "choices": [" a", " a"]}], "all different"),
        ([{**HERE, "lang": "xx-none"}], "line 1: language 'xx-none'"),
        ([{"id": "a"}], "line 1: KeyError: 'choices'"),
        ([HERE, HERE], "line 2: found 'sea' in eng_Latn twice"),
        ([HERE, {**HERE, "lang": "de", "choices": [" a", " b", " c"]}], "line 2: found 3 choices of 'sea', and 2 at"),
        ([{**HERE, "lang": "th"}], "has no question in deu_Latn, eng_Latn, swh_Latn"),
    ],
)
def test_wrong_items_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, *rows).check(PAIRS)


@pytest.mark.parametrize("settings", [{}, {"sample": True, "path": "x"}])
def test_one_set_of_items_is_needed(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Allowed: `sample: true` or a path"):
        Localisation.model_validate(settings)


def test_a_diverged_model_is_an_error() -> None:
    class Diverged(Answering):
        def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(requests), np.nan), np.zeros(len(requests), bool)

    with pytest.raises(ValueError, match="localisation, deu_Latn: a log-likelihood is NaN or infinite"):
        SAMPLE.run(Diverged(local), table())


def test_a_recipe_names_it_and_its_file_counts() -> None:
    SAMPLE.check(recipe(["de-en"]).corpus.pairs)
    assert SAMPLE.files()[0].is_file()
    assert SAMPLE.provenance(PAIRS, Path())["localisation/v1"]["licence"] == Sample.licence
