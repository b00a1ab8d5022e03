import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import Recipe, read_recipe
from pipelines.errors import UserError
from pipelines.instructions.answer_across import AnswerAcross
from pipelines.languages import Pair
from pipelines.sources.instructions import Instructions

PAIR = Pair("deu_Latn", "eng_Latn")
HOME = Path("unused")
ENGLISH = [
    {"id": "a", "instruction": "Name a colour.", "input": "", "output": "Red."},
    {"id": "b", "instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"id": "c", "instruction": "Only here.", "input": None, "output": "Yes."},
    {"id": "d", "instruction": "No answer?", "input": "", "output": ""},
]
GERMAN = [
    {"id": "b", "instruction": "Addiere.", "input": "1 und 2", "output": "drei\u2028oder 3"},
    {"id": "a", "instruction": "Nenne eine Farbe.", "input": "", "output": "Rot."},
    {"id": "d", "instruction": "Keine Antwort?", "input": "", "output": "Doch."},
]


def dumped(rows: list[Any], shape: str) -> bytes:
    """Rows as JSON lines, or as one list; `.gz` packs."""
    if shape.startswith("jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    return gzip.compress(text.encode()) if shape.endswith(".gz") else text.encode()


def source(folder: Path, shape: str = "jsonl", **settings: Any) -> Instructions:
    for code, rows in (("en", ENGLISH), ("de", GERMAN)):
        (folder / f"{code}.{shape}").write_bytes(dumped(rows, shape))
    return Instructions.model_validate({"path": str(folder), "data_files": f"{{lang}}.{shape}", **settings})


@pytest.mark.parametrize("shape", ["jsonl", "json", "jsonl.gz", "json.gz"])
def test_rows_come_by_id_in_the_order_of_the_file(tmp_path: Path, shape: str) -> None:
    item = source(tmp_path, shape)
    assert list(item.instructions("eng_Latn", HOME)) == [
        ("a", "Name a colour.", "", "Red."),
        ("b", "Add.", "1 and 2", "3"),
        ("c", "Only here.", "", "Yes."),
    ]
    assert [row[0] for row in item.instructions("deu_Latn", HOME)] == ["b", "a", "d"]
    assert next(item.instructions("deu_Latn", HOME))[3] == "drei\u2028oder 3"


def test_files_may_be_named_without_a_folder_and_by_our_codes(tmp_path: Path) -> None:
    (tmp_path / "set.deu_Latn.json").write_bytes(dumped(GERMAN, "json"))
    item = Instructions.model_validate({"data_files": f"{tmp_path}/set.{{lang}}.json"})
    assert [row[0] for row in item.instructions("deu_Latn", HOME)] == ["b", "a", "d"]
    assert list(item.provenance(Pair("deu_Latn", "deu_Latn"), HOME)) == ["instructions/local"]


def test_alpaca_has_no_ids_so_the_place_in_the_list_is_one(tmp_path: Path) -> None:
    def bare(rows: list[dict]) -> list[dict]:
        return [{key: value for key, value in row.items() if key != "id"} for row in rows]

    (tmp_path / "en.json").write_bytes(dumped(bare(ENGLISH), "json"))
    (tmp_path / "de.json").write_bytes(dumped(bare([GERMAN[1], GERMAN[0]]), "json"))
    item = Instructions.model_validate({"path": str(tmp_path), "data_files": "{lang}.json"})
    assert [row[:2] for row in item.instructions("deu_Latn", HOME)] == [("0", "Nenne eine Farbe."), ("1", "Addiere.")]
    assert [row[0] for row in item.instructions("eng_Latn", HOME)] == ["0", "1", "2"]


def test_other_names_of_the_columns_and_ids_of_another_type(tmp_path: Path) -> None:
    rows = [{"n": 7, "inputs": "Frage?", "targets": "Antwort."}]
    (tmp_path / "de.jsonl").write_bytes(dumped(rows, "jsonl"))
    columns = {"id": "n", "instruction": "inputs", "output": "targets"}
    item = Instructions.model_validate({"path": str(tmp_path), "data_files": "{lang}.jsonl", "columns": columns})
    assert list(item.instructions("deu_Latn", HOME)) == [("7", "Frage?", "", "Antwort.")]
    with pytest.raises(ValueError, match="row 1 has no 'instruction'. Found: n, inputs, targets. Say in `columns`"):
        list(item.model_copy(update={"columns": {}}).instructions("deu_Latn", HOME))


def test_an_output_in_another_language_is_no_exercise(tmp_path: Path) -> None:
    rows = [{**GERMAN[0], "output_lang": "en"}, {**GERMAN[1], "output_lang": "de"}]
    (tmp_path / "de.jsonl").write_bytes(dumped(rows, "jsonl"))
    item = Instructions.model_validate({"path": str(tmp_path), "data_files": "{lang}.jsonl"})
    assert [row[0] for row in item.instructions("deu_Latn", HOME)] == ["a"]
    (tmp_path / "de.jsonl").write_bytes(dumped(rows[:1], "jsonl"))
    with pytest.raises(ValueError, match="deu_Latn: found no row with an instruction and an output in this language"):
        list(item.instructions("deu_Latn", HOME))


def test_instructions_of_equal_id_are_bitext(tmp_path: Path) -> None:
    item = source(tmp_path, corpus="Ours", licence="CC-BY-NC-4.0", cite="We. 2026.")
    [batch] = item.fetch(PAIR, HOME)
    assert list(zip(batch["src"].to_pylist(), batch["tgt"].to_pylist(), strict=True)) == [
        ("Addiere.", "Add."),
        ("Nenne eine Farbe.", "Name a colour."),
        ("Keine Antwort?", "No answer?"),
    ]
    assert set(batch["corpus"].to_pylist()) == {"Ours/local"}
    [(corpus, facts)] = item.provenance(PAIR, HOME).items()
    assert (corpus, facts["licence"], facts["citation"]) == ("Ours/local", "CC-BY-NC-4.0", "We. 2026.")
    assert [Path(file["url"]).name for file in facts["files"]] == ["de.jsonl", "en.jsonl"]


def test_answers_across_languages_are_made_of_them(tmp_path: Path) -> None:
    item = AnswerAcross.model_validate({"source": source(tmp_path), "cross_probability": 1.0})
    item.check([PAIR])
    [batch] = item.extra(PAIR, np.random.default_rng(0), HOME)
    said = {tuple(turn["content"] for turn in row["messages"]) for row in batch.to_pylist()}
    german = ("Nenne eine Farbe.\nAntworte auf Englisch:", "Red.")
    assert german in said or ("Name a colour.\nAnswer in German:", "Rot.") in said
    assert len(said) == 2  # of `c` there is no German, of `d` no English answer


def test_a_changed_file_is_another_pin(tmp_path: Path) -> None:
    before = source(tmp_path).pin(PAIR, HOME)
    GERMAN.append({"id": "e", "instruction": "Neu.", "input": "", "output": "Ja."})
    try:
        assert source(tmp_path).pin(PAIR, HOME) != before
    finally:
        GERMAN.pop()
    assert source(tmp_path).pin(PAIR, HOME) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"instruction": "a"}\n{"id": 2,\n', "de.jsonl, line 2: not readable as JSON: .*one a line. Correct it."),
        (b'{"instruction": "a"}\n\n[1]\n', "de.jsonl, line 3: found list. Needed: an object"),
        (b'[{"instruction": "a"}, 5]', "de.jsonl, element 2: found int. Needed: an object"),
        (b'[{"instruction": "a"}', "de.jsonl: not readable as JSON"),
        (b"", "found no row with an instruction and an output"),
    ],
)
def test_damaged_files_are_named_with_the_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "de.jsonl").write_bytes(text)
    item = Instructions.model_validate({"path": str(tmp_path), "data_files": "{lang}.jsonl"})
    with pytest.raises(ValueError, match=message):
        list(item.instructions("deu_Latn", HOME))


def test_a_recipe_is_refused_before_work_starts(tmp_path: Path) -> None:
    source(tmp_path)

    def recipe(**settings: Any) -> Recipe:
        item = {"instructions": {"path": str(tmp_path), **settings}}
        corpus = {"pairs": ["en-fr", "en-sw"], "sources": [{"sample": {}}], "instructions": [{"answer_across": item}]}
        return Recipe.model_validate({"name": "x", "corpus": {**corpus, "instructions": [
            {"answer_across": {"source": item}}
        ]}})  # fmt: skip

    with pytest.raises(ValueError, match="Needed: the place of the language in one of them, such as data_files"):
        recipe(data_files="all.jsonl")
    with pytest.raises(ValueError, match="'{lang}.jsonl' is there for both languages of no pair of the recipe"):
        recipe(data_files="{lang}.jsonl")


def test_a_language_that_is_not_there_has_no_bitext_and_cannot_be_asked(tmp_path: Path) -> None:
    item = source(tmp_path)
    item.check([PAIR, Pair.parse("en-fr")])
    assert list(item.fetch(Pair.parse("en-fr"), HOME)) == []
    with pytest.raises(ValueError, match=r"'{lang}.jsonl' is there for no name of fra_Latn: fr, fr_CA, fra_Latn, fra."):
        list(item.instructions("fra_Latn", HOME))


def test_other_pairs_than_those_of_the_named_languages_get_no_exercises(tmp_path: Path) -> None:
    across = AnswerAcross.model_validate({"source": source(tmp_path), "languages": ["en", "de"]})
    other = Pair.parse("en-fr")
    across.check([PAIR, other])
    assert across.pin(other, tmp_path) is None
    assert across.provenance(other, tmp_path) == {}
    assert list(across.extra(other, np.random.default_rng(0), tmp_path)) == []
    assert sum(batch.num_rows for batch in across.extra(PAIR, np.random.default_rng(0), tmp_path)) == 2
    with pytest.raises(UserError, match="found eng_Latn, deu_Latn. Expected: both languages of at least one pair"):
        across.check([other])


class FakeHub:
    """Bactrian-X on a hub: a file a language, beside code that must not be run."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, list[str]()

    def dataset_info(self, path: str, revision: str | None = None) -> Any:
        self.asked.append("info")
        return SimpleNamespace(sha="a" * 40, card_data=SimpleNamespace(license="cc-by-nc-4.0"))

    def list_repo_files(self, path: str, repo_type: str, revision: str) -> list[str]:
        return ["Bactrian-X.py", "README.md", "data/de.json.gz", "data/en.json.gz", "data/zh.json.gz"]

    def download(self, path: str, name: str, repo_type: str, revision: str) -> str:
        assert revision == "a" * 40
        self.asked.append(name)
        rows = ENGLISH if "en." in name else GERMAN
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(dumped(rows, "json.gz"))
        return str(file)


def test_bactrian_x_is_read_from_the_hub_without_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    recipe = read_recipe("afp.yaml")
    [item] = [source for source in recipe.corpus.sources if isinstance(source, Instructions)]
    item.prepare(PAIR, tmp_path)
    assert fake.asked == ["info", "data/de.json.gz", "data/en.json.gz"]
    assert [row[0] for row in item.instructions("eng_Latn", tmp_path)] == ["a", "b", "c"]
    [batch] = item.fetch(PAIR, tmp_path)
    assert set(batch["corpus"].to_pylist()) == {f"Bactrian-X/{'a' * 12}"}
    assert item.pin(PAIR, tmp_path) == [["a" * 40, ["data/de.json.gz"]], ["a" * 40, ["data/en.json.gz"]]]
    assert next(iter(item.provenance(PAIR, tmp_path).values()))["licence"] == "cc-by-nc-4.0"
    [across] = [kind for kind in recipe.corpus.instructions if isinstance(kind, AnswerAcross)]
    assert sum(batch.num_rows for batch in across.extra(PAIR, np.random.default_rng(0), tmp_path)) == 2
    with pytest.raises(ValueError, match="is there for no name of tha_Thai: th, tha_Thai, tha."):
        list(item.instructions("tha_Thai", tmp_path))


def test_a_configuration_per_language_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path, revision: ["de", "en"])
    held = {"de": GERMAN, "en": ENGLISH}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, config, **settings: datasets.Dataset.from_list(held[config])
    )
    item = Instructions.model_validate({"path": "us/bactrian", "config": "{lang}"})
    assert [row[0] for row in item.instructions("eng_Latn", tmp_path)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="'{lang}' is there for no name of fra_Latn"):
        list(item.instructions("fra_Latn", tmp_path))


def test_parquet_files_serve_as_well(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(GERMAN), tmp_path / "de.parquet")
    item = Instructions.model_validate({"path": str(tmp_path), "data_files": "{lang}.parquet"})
    assert [row[0] for row in item.instructions("deu_Latn", HOME)] == ["b", "a", "d"]
