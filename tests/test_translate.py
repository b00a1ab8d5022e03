from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.instructions import RENDERED
from pipelines.instructions._wordings import ANSWER_IN, TRANSLATE, name_in, translate_wordings
from pipelines.instructions.translate import Translate
from pipelines.languages import Pair, parse
from pipelines.schema import bitext_batch
from tests.support.bitext_fixtures import Planted, sentences


def rendered(pair: Pair, rows: int, seed: int = 0, **settings: str) -> list[dict]:
    batch = bitext_batch(*sentences(pair, rows), *pair, "planted/v1")
    out = Translate.model_validate(settings).render(batch, np.random.default_rng(seed))
    assert out.schema == RENDERED
    return out.to_pylist()


def test_each_direction_gets_half_of_the_rows() -> None:
    rows = rendered(Pair("deu_Latn", "eng_Latn"), 100)
    directions = Counter((row["src_lang"], row["tgt_lang"]) for row in rows)
    assert directions == {("deu_Latn", "eng_Latn"): 50, ("eng_Latn", "deu_Latn"): 50}
    odd = Counter(rendered(Pair("deu_Latn", "eng_Latn"), 1, seed)[0]["src_lang"] for seed in range(20))
    assert set(odd) == {"deu_Latn", "eng_Latn"}


def test_prompt_and_answer_are_the_two_sides_and_all_wordings_occur() -> None:
    rows = rendered(Pair("eng_Latn", "swh_Latn"), 400)
    for number, row in enumerate(rows):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert f"{row['src_lang']} sentence {number}." in user["content"]
        assert assistant["content"] == f"{row['tgt_lang']} sentence {number}."
        assert row["segments"] == [f"{row['src_lang']} sentence {number}.", assistant["content"]]
    assert {row["template"] for row in rows} == {f"translate/{n}" for n in range(5)}


@pytest.mark.parametrize(
    ("pair", "asked", "expected"),
    [
        ("en-de", "eng_Latn", "Translate into German: {0}"),
        ("en-de", "deu_Latn", "Übersetze auf Englisch: {0}"),
        ("en-zh", "zho_Hans", "翻译成英语：{0}"),
        ("hi-en", "hin_Deva", "अंग्रेज़ी में अनुवाद करें: {0}"),
        ("ar-fr", "arb_Arab", "ترجم إلى اللغة الفرنسية: {0}"),
        ("ru-sw", "rus_Cyrl", "Переведи на суахили: {0}"),
        ("ru-sw", "swh_Latn", "Tafsiri kwa Kirusi: {0}"),
        ("cs-tr", "ces_Latn", "Přelož (cílový jazyk: turečtina): {0}"),
        ("th-en", "tha_Thai", "Translate into English: {0}"),
        ("en-zh_TW", "eng_Latn", "Translate into Chinese (Traditional): {0}"),
    ],
)
def test_the_prompt_is_in_the_language_of_the_input(pair: str, asked: str, expected: str) -> None:
    prompts = {
        row["messages"][0]["content"].replace(row["segments"][0], "{0}")
        for row in rendered(Pair.parse(pair), 200)
        if row["src_lang"] == asked
    }
    assert expected in prompts
    assert len(prompts) == 5


def test_prompts_are_english_where_the_recipe_says_so() -> None:
    prompts = {row["messages"][0]["content"] for row in rendered(Pair("deu_Latn", "eng_Latn"), 100, prompt="english")}
    assert not [prompt for prompt in prompts if "bersetz" in prompt]
    assert [prompt for prompt in prompts if prompt.startswith("deu") and prompt.endswith("Translate into English:")]


def test_the_same_generator_gives_the_same_rows_and_another_does_not() -> None:
    pair = Pair("deu_Latn", "eng_Latn")
    assert rendered(pair, 50) == rendered(pair, 50)
    assert rendered(pair, 50) != rendered(pair, 50, seed=1)


def test_braces_in_a_text_are_left_as_they_are() -> None:
    pair = Pair("deu_Latn", "eng_Latn")
    batch = bitext_batch(["{language} {0}"] * 20, ["{x}"] * 20, *pair, "planted/v1")
    rows = Translate().render(batch, np.random.default_rng(0)).to_pylist()
    assert all(row["segments"][0] in row["messages"][0]["content"] for row in rows)


def test_no_row_is_rendered_as_no_row() -> None:
    empty = bitext_batch([], [], "deu_Latn", "eng_Latn", "planted/v1")
    assert Translate().render(empty, np.random.default_rng(0)) == pa.RecordBatch.from_pylist([], schema=RENDERED)


@pytest.mark.parametrize("lang", sorted(TRANSLATE))
def test_every_wording_names_the_language_and_holds_the_input(lang: str) -> None:
    assert parse(lang) == lang
    wordings = translate_wordings(lang)
    assert len(set(wordings)) == len(wordings) == 5
    assert all(wording.count("{input}") == 1 for wording in wordings)
    assert all(wording.count("{language}") == 1 for wording in wordings[:-1])
    assert ANSWER_IN[lang].count("{language}") == 1
    names = {name_in(other, lang) for other in TRANSLATE}
    assert len(names) == len(TRANSLATE)
    assert lang == "eng_Latn" or name_in("eng_Latn", lang) != "English"


def test_prompts_name_the_script_where_the_recipe_has_a_language_in_several() -> None:
    both = Recipe.model_validate(
        {"name": "t", "corpus": {"pairs": [["en", "sr-Latn"], ["en", "sr-Cyrl"]], "sources": [Planted()],
                                 "instructions": ["translate"], "tasks": [{"translation": {"source": Planted(),
                                 "train": [["en", "sr"]]}}]}}
    )  # fmt: skip
    (item,), (task,) = both.corpus.instructions, both.corpus.tasks
    for pair, name in zip(sorted(both.corpus.pairs), ("Serbian (Cyrillic)", "Serbian (Latin)"), strict=True):
        batch = bitext_batch(*sentences(pair, 100), *pair, "planted/v1")
        rows = item.render(batch, np.random.default_rng(0)).to_pylist()
        prompts = [row["messages"][0]["content"] for row in rows if row["src_lang"] == "eng_Latn"]
        named = [prompt for prompt in prompts if "Serbian" in prompt]
        assert len(named) > 30
        assert all(name in prompt for prompt in named)
    example = next(iter(task.examples(task.cells[0], Path())))
    assert "from English to Serbian (Cyrillic)." in task.render(example)[0]["content"]
    alone = Recipe.model_validate({"name": "t", "corpus": {**raw_of(both), "pairs": [["en", "sr-Cyrl"]]}})
    rows = alone.corpus.instructions[0].render(batch, np.random.default_rng(0)).to_pylist()
    assert not any("Cyrillic" in row["messages"][0]["content"] for row in rows)


def raw_of(recipe: Recipe) -> dict:
    return {"sources": recipe.corpus.sources, "instructions": [Translate()], "tasks": []}
