from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.instructions import RENDERED
from pipelines.instructions.answer_across import AnswerAcross
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.schema import bitext_batch
from tests.support.bitext_fixtures import CORPUS, Planted

PAIR = Pair("eng_Latn", "rus_Cyrl")


def answers(rows: int = 400, **settings: Any) -> list[dict]:
    item = AnswerAcross.model_validate({"source": Planted(rows=rows), **settings})
    batches = list(item.extra(PAIR, np.random.default_rng(0), Path("unused")))
    assert all(batch.schema == RENDERED for batch in batches)
    return pa.Table.from_batches(batches).to_pylist() if batches else []


def test_half_of_the_answers_are_in_the_other_language_and_questions_are_in_both() -> None:
    rows = answers()
    assert len(rows) == 400
    directions = Counter((row["src_lang"], row["tgt_lang"]) for row in rows)
    assert len(directions) == 4
    assert min(directions.values()) > 70
    crossed = sum(row["src_lang"] != row["tgt_lang"] for row in rows)
    assert 160 < crossed < 240
    assert Counter(row["template"] for row in rows) == {
        "answer_across/across": crossed,
        "answer_across/within": 400 - crossed,
    }
    assert {row["corpus"] for row in rows} == {CORPUS}


def test_a_prompt_says_the_language_of_the_answer_only_where_it_differs() -> None:
    said = {"eng_Latn": "Answer in Russian:", "rus_Cyrl": "Язык ответа — английский:"}
    for number, row in enumerate(answers()):
        asked, answered = row["src_lang"], row["tgt_lang"]
        lines = [f"{asked} question {number}?", *([] if number % 2 else [f"{asked} given {number}"])]
        lines += [said[asked]] if asked != answered else []
        assert row["messages"][0]["content"] == "\n".join(lines)
        assert row["messages"][1]["content"] == f"{answered} {number}"


@pytest.mark.parametrize(("probability", "crossed"), [(0.0, 0), (1.0, 400)])
def test_cross_probability_is_kept(probability: float, crossed: int) -> None:
    assert sum(row["src_lang"] != row["tgt_lang"] for row in answers(cross_probability=probability)) == crossed


def test_only_ids_that_both_languages_have_are_asked() -> None:
    class Uneven(Planted):
        def instructions(self, lang, home):
            for row in super().instructions(lang, home):
                if lang == "eng_Latn" or int(row[0]) % 3 == 0:
                    yield row

    item = AnswerAcross.model_validate({"source": Uneven(rows=30)})
    rows = pa.Table.from_batches(list(item.extra(PAIR, np.random.default_rng(0), Path("unused")))).to_pylist()
    assert sorted(int(row["messages"][1]["content"].split()[-1]) for row in rows) == list(range(0, 30, 3))


def test_bitext_makes_no_question() -> None:
    batch = bitext_batch(["a"], ["b"], *PAIR, CORPUS)
    assert AnswerAcross.model_validate({"source": Planted()}).render(batch, np.random.default_rng(0)).num_rows == 0


def test_a_source_without_instructions_is_refused_with_the_recipe() -> None:
    source = {"opus": {"corpora": ["Tatoeba/v2023-04-12"]}}
    corpus = {"pairs": ["en-de"], "sources": [Planted()], "instructions": [{"answer_across": {"source": source}}]}
    with pytest.raises(ValueError, match="source 'opus' holds no instruction data. Allowed: a source that does"):
        Recipe.model_validate({"name": "x", "corpus": corpus})


def test_the_embedded_sample_serves_every_pair_of_its_languages() -> None:
    item = build("pipelines.instructions", {"answer_across": {"source": {"sample": {}}}})
    assert isinstance(item, AnswerAcross)
    batches = item.extra(Pair("swh_Latn", "zho_Hans"), np.random.default_rng(0), Path("unused"))
    rows = pa.Table.from_batches(list(batches)).to_pylist()
    assert len(rows) > 1_000
    assert {row["src_lang"] for row in rows} == {"swh_Latn", "zho_Hans"}
