import pytest
import yaml

from pipelines.report.data_card import card, public, sources
from pipelines.storage.manifest import LedgerRow
from tests.support.bitext_fixtures import recipe

CORPORA = {
    "good/v1": {"version": "v1", "licence": "CC-BY-4.0", "url": "https://example.org", "citation": "A (2020)"},
    "evil/v2": {"version": "v2", "licence": "", "url": "", "citation": "<b> | [x](javascript:alert(1))\n# head"},
}
NUMBERS = {
    "receipt_corpora": [
        {"corpus": "good/v1", "kind": "bitext", "taken": 700},
        {"corpus": "good/v1", "kind": "translate", "taken": 600},
    ],
    "receipt": [{"kind": "bitext", "pair": "deu_Latn-eng_Latn", "available": 900, "capped": 900, "taken": 700}],
}
ROWS = {"bitext": 700, "instructions": 600, "dev": 20}
LEDGER = [LedgerRow(step="budget", corpus=f"bitext {i}", into=900, dropped=200, kept=700) for i in range(2)]


def made() -> tuple[dict, str]:
    text = card(recipe(["de-en"]), ROWS, NUMBERS, CORPORA, LEDGER)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_is_what_the_hub_reads():
    front, _ = made()
    assert front["language"] == ["de", "en"]
    assert (front["license"], front["data_licences"]) == ("other", ["CC-BY-4.0", "not stated"])
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["task_categories"] == ["translation", "text-generation"]
    assert front["configs"][1] == {"config_name": "instructions", "data_files": "instructions/data-*.arrow"}


def test_parts_corpora_and_receipt_stand_in_tables():
    _, body = made()
    assert "| bitext | 700 | segment pairs" in body
    assert "| good/v1 | v1 | CC-BY-4.0 | 1,300 | https://example.org | A (2020) |" in body
    assert "| bitext | deu_Latn-eng_Latn | 900 | 700 |" in body
    assert "| budget | 400 |" in body
    assert "language_alpha: 0.3" in body


def test_a_corpus_cannot_leave_its_cell():
    _, body = made()
    line = next(line for line in body.splitlines() if line.startswith("| evil/v2"))
    assert line == "| evil/v2 | v2 | not stated | 0 |  | &lt;b> \\| \\[x](javascript:alert(1)) # head |"


def test_a_mix_without_provenance_has_a_card():
    assert sources({}, {}) == []
    assert "The mix names no corpus." in card(recipe(["de-en"]), {"bitext": 3}, {}, {})


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/home/me/my data/x.tsv", "x.tsv"), ("/data/run1/", "run1"), ("~/texts/*.txt", "*.txt"), ("~me/a", "a"),
        ("file:///home/me/a.tmx", "a.tmx"), ("C:\\Users\\me\\b.tmx", "b.tmx"), ("../../shared/c", "c"),
        ("local: /home/me/model", "local: model"), ("https://example.org/a/b", "https://example.org/a/b"),
        ("s3://bucket/a", "s3://bucket/a"), ("someone/model", "someone/model"), ("data/{lang}.tsv", "data/{lang}.tsv"),
        ("CC-BY-4.0 / GPL-3.0", "CC-BY-4.0 / GPL-3.0"), ("{language}: {input}", "{language}: {input}"),
    ],
)  # fmt: skip
def test_of_local_paths_the_last_component_is_left(said: str, shown: str):
    assert public({"a": [said, 3, None, True]}) == {"a": [shown, 3, None, True]}


def test_the_card_of_a_mix_does_not_say_where_its_files_lie():
    facts = {"own/v1": {"version": "v1", "url": "/home/me/own.tsv"}}
    held = recipe(["de-en"], decontaminate={"lists": ["/home/me/held/*.txt"]})
    text = card(held, {"bitext": 3}, {}, facts)
    assert "/home/me" not in text
    assert "| own/v1 | v1 | not stated | 0 | own.tsv |" in text
    assert "- '*.txt'" in text
