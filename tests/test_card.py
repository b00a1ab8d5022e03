from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from alignment_train import card
from pipelines.config import Recipe
from pipelines.storage.store import Store
from tests.support.fake_metrics import figures, result
from tests.support.fake_metrics import recipe as planted

DE, SW = "deu_Latn-eng_Latn", "eng_Latn-swh_Latn"
NUMBERS = {"parameters": 7_900_000, "trainable_parameters": 12_345, "steps": 200, "tokens/contrastive": 987_654}
METRICS = {
    "base": figures({DE: 0.10, SW: 0.06}, {"eng_Latn": 5.0}),
    "control": figures({DE: 0.11, SW: 0.10}, {"eng_Latn": 5.1}),
    "aligned": figures({DE: 0.40, SW: 0.42}, {"eng_Latn": 5.11}),
    "merged": figures({DE: 0.39, SW: 0.45}, {"eng_Latn": 5.12}),
    "chance": {},
}


def recipe(**train: Any) -> Recipe:
    plain = planted()
    return plain.model_copy(update={"train": {**plain.train, **train}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store", "planted")
    facts = {
        "Tatoeba/v2023": {"version": "v2023", "licence": "CC-BY-2.0-FR", "url": "https://tatoeba.org", "citation": ""},
        "evil/v1": {"version": "v1", "licence": "my | own\n# <b>licence</b>", "url": "", "citation": ""},
        "mute/v1": {"version": "v1", "licence": "", "url": "", "citation": ""},
    }
    taken = [("Tatoeba/v2023", 900), ("Tatoeba/v2023", 334), ("evil/v1", 5)]
    with store.writing("training_mix") as out:
        receipt = [{"corpus": name, "taken": rows} for name, rows in taken]
        out.commit("mix", {}, corpora=facts, numbers={"receipt_corpora": receipt})
    return store


def test_the_front_matter_is_what_the_hub_reads(store: Store):
    lora = recipe(base={"model": "someone/model"}, adapter={"lora": {}})
    found = ModelCard(card.card(lora, store, "align_model", NUMBERS)).data.to_dict()
    assert found == {
        "language": ["de", "en", "sw"],
        "base_model": "someone/model",
        "base_model_relation": "adapter",
        "license": "other",
        "data_licences": ["CC-BY-2.0-FR", "my | own\n# <b>licence</b>", "not stated"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["isogloss", "cross-lingual-alignment", "lora"],
    }
    whole = ModelCard(card.card(recipe(base="someone/model"), store, "align_model", NUMBERS)).data.to_dict()
    assert (whole["base_model_relation"], whole["library_name"]) == ("finetune", "transformers")
    assert "base_model" not in ModelCard(card.card(recipe(), store, "align_model", NUMBERS)).data.to_dict()


def test_data_stand_with_version_licence_and_rows_and_cannot_leave_their_cells(store: Store):
    text = card.card(recipe(), store, "align_model", NUMBERS)
    assert "| Tatoeba/v2023 | v2023 | CC-BY-2.0-FR | 1,234 | https://tatoeba.org |  |" in text
    assert "| evil/v1 | v1 | my \\| own # &lt;b>licence&lt;/b> | 5 |  |  |" in text
    assert "| mute/v1 | v1 | not stated | 0 |  |  |" in text
    assert "German, English, Swahili" in text


def test_figures_of_the_training_and_the_recipe_stand_in_it(store: Store):
    text = card.card(recipe(steps=7), store, "align_model", NUMBERS)
    assert "| trainable_parameters | 12,345 |" in text
    assert "| tokens/contrastive | 987,654 |" in text
    written = yaml.safe_load(text.split("````yaml\n")[1].split("````")[0])
    assert written == recipe(steps=7).resolved()


def test_how_to_load_it_depends_on_what_it_is(store: Store):
    def says(name: str | None, **train: Any) -> str:
        return card.card(recipe(**train), store, "align_model", NUMBERS, name).split("```python\n")[1].split("```")[0]

    lora = {"adapter": {"lora": {}}}
    assert 'AutoModelForCausalLM.from_pretrained("align_model")' in says(None)
    assert 'base = AutoModelForCausalLM.from_pretrained("base_model")' in says(None, **lora)
    assert 'from_pretrained("me/it", subfolder="base_model")' in says("me/it", **lora)
    hub = {"base": {"model": "a/b", "revision": "abc", "trust_remote_code": True}}
    assert 'from_pretrained("a/b", revision="abc", trust_remote_code=True)' in says("me/it", **lora, **hub)
    assert 'PeftModel.from_pretrained(base, "me/it")' in says("me/it", **lora, **hub)
    for text in (says(None), says("me/it", **lora, **hub)):
        compile(text, "card", "exec")


def test_an_evaluation_gives_its_verdict_and_every_model_a_column(store: Store):
    text = card.card(recipe(), store, "align_model", NUMBERS, None, result(METRICS))
    assert "Better at finding translations" in text
    assert "| held-out text | metric | base | control | aligned | merged | chance |" in text
    assert "| mean | recall@1 | 8.0 % | 10.5 % | 41.0 % | 42.0 % | – |" in text
    assert "| English | nats per token | 5.00 | 5.10 | 5.11 | 5.12 | – |" in text
    assert "Not part of this card" in card.card(recipe(), store, "align_model", NUMBERS)


def test_a_merged_model_shows_its_candidates_and_the_data_of_both_adapters(store: Store):
    numbers = {
        "coefficient": 0.5, "chosen_by": "dev loss",
        "candidates": [{"coefficient": 0.5, "loss": 1.25, "recall@1": 0.5, "chosen": True}],
        "data_of_adapter": [{"corpus": "MASSIVE/v1", "version": "v1", "licence": "CC-BY-4.0", "rows": 9, "url": ""}],
    }  # fmt: skip
    text = card.card(recipe(adapter={"lora": {}}), store, "merged_model", numbers)
    assert "| 0.5 | 1.25 | 0.5 | True |" in text
    assert "| MASSIVE/v1 | v1 | CC-BY-4.0 | 9 |  |" in text


def test_a_card_does_not_say_where_things_lie_on_this_machine(store: Store, tmp_path: Path):
    base, file = tmp_path / "secret" / "my-model", tmp_path / "secret" / "texts.tsv"
    base.mkdir(parents=True)
    file.write_text("a\tb\n")
    plain = recipe(base={"model": str(base)}, adapter={"lora": {}})
    table = {"table": {"paths": [str(file), "~/secret/*.tsv"], "corpus": "own", "columns": {"de": 1, "en": 2}}}
    made = Recipe.model_validate(
        {**plain.model_dump(), "corpus": {"pairs": ["de-en"], "sources": [table]}, "eval": []}
    )  # fmt: skip
    text = card.card(made, store, "align_model", {**NUMBERS, "base": f"local: {base}"}, "me/it")
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "- texts.tsv" in text
    assert "| base | local: my-model |" in text
    assert "https://tatoeba.org" in text
