import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import Recipe
from pipelines.fetching import lock
from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.sources.hub import Hub

PAIR = Pair("deu_Latn", "eng_Latn")
ZH = Pair("eng_Latn", "zho_Hans")
ENGLISH = ["One house.", "Two\nhouses.", None, "四"]
GERMAN = ["Ein Haus.", "Zwei Häuser.", "Drei Häuser.", ""]
OLD, NEW = "1" * 40, "2" * 40


def rows(source: Hub, pair: Pair = PAIR, home: Path = Path("unused")) -> list[tuple[str, str]]:
    found = list(source.fetch(pair, home))
    assert all(batch.schema == BITEXT for batch in found)
    for batch in found:
        assert set(batch["src_lang"].to_pylist()) | set(batch["tgt_lang"].to_pylist()) == set(pair)
    table = pa.Table.from_batches(found, BITEXT)
    return list(zip(table["src"].to_pylist(), table["tgt"].to_pylist(), strict=True))


EXPECTED = [("Ein Haus.", "One house."), ("Zwei Häuser.", "Two houses."), ("Drei Häuser.", ""), ("", "四")]
TWO = pa.table({"english": ENGLISH, "german": GERMAN, "n": [1, 2, 3, 4]})
ONE = pa.table({"id": ["a", "b", "c", "d"], "translation": [
    {"en": english, "de": german} for english, german in zip(ENGLISH, GERMAN, strict=True)
]})  # fmt: skip
COLUMNS = {"en": "english", "de": "german"}


def written(folder: Path, kind: str, table: pa.Table = TWO) -> Path:
    """`table` in a file of a kind that `datasets` reads, or as it saves data sets itself."""
    file = folder / f"bitext.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()))
    elif kind in ("csv", "tsv"):
        lines = [
            table.column_names,
            *(["" if v is None else str(v) for v in row.values()] for row in table.to_pylist()),
        ]
        mark = "," if kind == "csv" else "\t"
        file.write_text("".join(mark.join(f'"{v}"' for v in line) + "\n" for line in lines))
    elif kind == "arrow":
        with pa.ipc.new_stream(str(file), table.schema) as out:
            out.write_table(table)
    elif kind == "saved":
        datasets.Dataset.from_dict(table.to_pydict()).save_to_disk(file)
    else:
        made = datasets.Dataset.from_dict(table.to_pydict())
        datasets.DatasetDict({"train": made.select([0]), "test": made}).save_to_disk(file)
    return file


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv", "arrow", "saved"])
def test_local_files_of_every_kind_give_the_rows_in_order(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, kind)
    source = Hub.model_validate({"path": str(file), "columns": COLUMNS})
    assert rows(source) == EXPECTED
    assert source.provenance(PAIR, tmp_path)["bitext/local"]["licence"] == "not stated"


def test_a_split_of_a_saved_data_set_is_chosen(tmp_path: Path) -> None:
    file = written(tmp_path, "saved splits")
    settings = {"path": str(file), "columns": COLUMNS}
    assert rows(Hub.model_validate({**settings, "split": "test"})) == EXPECTED
    assert rows(Hub.model_validate(settings)) == EXPECTED[:1]
    with pytest.raises(ValueError, match="hub, .*KeyError: .*'dev'.*Check path, config, data_files, split"):
        rows(Hub.model_validate({**settings, "split": "dev"}))


def test_a_folder_of_files_is_one_data_set_with_the_licence_of_its_card(tmp_path: Path) -> None:
    written(tmp_path, "parquet", ONE)
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Ours\n")
    source = Hub.model_validate({"path": str(tmp_path), "corpus": "Ours"})
    assert rows(source) == EXPECTED
    [(corpus, facts)] = source.provenance(PAIR, tmp_path).items()
    assert (corpus, facts["licence"], facts["version"]) == ("Ours/local", "cc-by-4.0", "local")
    assert [Path(file["url"]).name for file in facts["files"]] == ["README.md", "bitext.parquet"]


def test_columns_may_lie_in_structs_and_languages_may_have_names_of_their_own(tmp_path: Path) -> None:
    nested = pa.table({"text": [{"ger": "Ein Haus.", "eng": "One house.", "x": 1}]})
    path = str(written(tmp_path, "parquet", nested))
    assert rows(Hub.model_validate({"path": path, "columns": {"de": "text.ger", "en": "text.eng"}})) == EXPECTED[:1]
    odd = pa.table({"translation": [{"GERMAN": "Ein Haus.", "en_XX": "One house."}]})
    path = str(written(tmp_path, "parquet", odd))
    assert rows(Hub.model_validate({"path": path, "languages": {"GERMAN": "de", "en_XX": "en"}})) == EXPECTED[:1]
    with pytest.raises(ValueError, match="column 'translation' has no deu_Latn. Found: GERMAN, en_XX. Name the config"):
        rows(Hub.model_validate({"path": path}))


def test_files_of_a_pair_are_found_under_either_order_of_its_codes(tmp_path: Path) -> None:
    for name in ("en-de", "zh_CN-en"):
        first, second = name.split("-")
        table = pa.table({"translation": [{first: f"{name} {first}", second: f"{name} {second}"}]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    source = Hub.model_validate({"path": str(tmp_path), "data_files": "{src}-{tgt}.parquet"})
    assert rows(source) == [("en-de de", "en-de en")]
    assert rows(source, ZH) == [("zh_CN-en en", "zh_CN-en zh_CN")]
    assert rows(source, Pair.parse("en-fr")) == []


def test_a_changed_file_is_another_pin(tmp_path: Path) -> None:
    source = Hub.model_validate({"path": str(written(tmp_path, "jsonl")), "columns": COLUMNS})
    before = source.pin(PAIR, tmp_path)
    assert source.pin(PAIR, tmp_path) == before
    written(tmp_path, "jsonl", TWO.slice(1))
    assert source.pin(PAIR, tmp_path) != before
    assert source.refresh([PAIR], tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"path": "/no/such/folder"},
            "path: found '/no/such/folder', which is no file or folder here. Allowed: a local",
        ),
        ({"path": "a/b/c"}, "path: found 'a/b/c', which is no file or folder here"),
        ({"path": "a/b", "config": "x", "data_files": "y"}, "found both config and data_files. Allowed: one of them"),
        ({"path": "a/b", "columns": {"en": "x"}}, "Allowed: a column for each of two or more languages"),
        (
            {"path": "a/b", "columns": {"en": "x", "fr": "y"}},
            "found eng_Latn, fra_Latn, which are no pair of the recipe",
        ),
        ({"path": "a/b", "streamed": True}, "unknown key. Did you mean 'streaming'?"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    raw = {"name": "x", "corpus": {"pairs": ["en-de"], "sources": [{"hub": settings}]}}
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Recipe.model_validate(raw) if "streamed" not in settings else _messages(raw)


def _messages(raw: dict[str, Any]) -> None:
    from pipelines.config import validate

    validate(Recipe, raw, "x.yaml")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = str(written(tmp_path, "parquet"))
    with pytest.raises(ValueError, match="no column 'deutsch'. Found: english, german, n. Correct `columns`"):
        rows(Hub.model_validate({"path": path, "columns": {"en": "english", "de": "deutsch"}}))
    with pytest.raises(ValueError, match="no column 'translation' of languages. Found: english, german, n. Say which"):
        rows(Hub.model_validate({"path": path}))


def test_code_of_a_data_set_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="hub, .*evil: .*name its data in `data_files`"):
        rows(Hub.model_validate({"path": str(folder)}))
    assert not (tmp_path / "ran").exists()


class FakeHub:
    """A hub of one data set, `us/bitext`, with the configurations de-en and en-fr; counts what is asked of it."""

    def __init__(self, cache: Path):
        self.sha, self.reachable, self.asked, self.cache = OLD, True, list[str](), cache

    def ask(self, what: str) -> None:
        if not self.reachable:
            raise ConnectionError("no route to host")
        self.asked.append(what)

    def dataset_info(self, path: str, revision: str | None = None) -> Any:
        self.ask(f"info {path} {revision}")
        return SimpleNamespace(sha=revision if revision == NEW else self.sha, card_data=SimpleNamespace(license="mit"))

    def config_names(self, path: str, revision: str) -> list[str]:
        self.ask(f"configs {revision[:1]}")
        return ["de-en", "en-fr"]

    def load(self, path: str, config: str | None, split: str, revision: str, streaming: bool) -> Any:
        folder = self.cache / "us___bitext" / str(config) / revision
        if self.reachable:
            self.asked.append(f"load {config} {split} {revision[:1]}")
            one, two = (config or "de-en").split("-")
            made = datasets.Dataset.from_dict({"translation": [{one: f"{one} {revision[0]}", two: two}]})
            made.save_to_disk(folder)
        else:  # as `datasets` does: the last state kept, whichever was asked for
            folder = max(folder.parent.iterdir(), key=lambda found: found.stat().st_mtime)
        return datasets.load_from_disk(str(folder))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "cache")
    real = datasets.load_dataset

    def load(path: str, *args: Any, **settings: Any) -> Any:
        return fake.load(path, *args, **settings) if path == "us/bitext" else real(path, *args, **settings)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(datasets, "get_dataset_config_names", fake.config_names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return fake


def test_a_data_set_of_the_hub_is_pinned_once_until_a_refresh(hub: FakeHub, tmp_path: Path) -> None:
    source = Hub.model_validate({"path": "us/bitext", "config": "{src}-{tgt}"})
    for _ in range(2):
        source.prepare(PAIR, tmp_path)
        assert source.pin(PAIR, tmp_path) == [OLD, ["de-en"]]
    assert hub.asked == ["info us/bitext None", "configs 1"]
    hub.sha = NEW
    assert rows(source, home=tmp_path) == [("de 1", "en")]
    [(corpus, facts)] = source.provenance(PAIR, tmp_path).items()
    assert corpus == f"bitext/{OLD[:12]}"
    assert (facts["licence"], facts["url"]) == ("mit", f"https://huggingface.co/datasets/us/bitext/tree/{OLD}")
    assert source.refresh([PAIR], tmp_path) == [PAIR]
    assert source.refresh([PAIR], tmp_path) == []
    assert source.pin(PAIR, tmp_path) == [NEW, ["de-en"]]
    assert rows(source, home=tmp_path) == [("de 2", "en")]


def test_a_pair_without_a_configuration_has_no_rows(hub: FakeHub, tmp_path: Path) -> None:
    source = Hub.model_validate({"path": "us/bitext", "config": "{src}-{tgt}"})
    assert rows(source, Pair.parse("en-fr"), tmp_path) == [("en 1", "fr")]
    assert rows(source, Pair.parse("sw-en"), tmp_path) == []
    assert source.pin(Pair.parse("sw-en"), tmp_path) == [OLD, None]


def test_a_revision_of_the_recipe_stays(hub: FakeHub, tmp_path: Path) -> None:
    source = Hub.model_validate({"path": "us/bitext", "config": "de-en", "revision": NEW})
    assert source.pin(PAIR, tmp_path) == [NEW, ["de-en"]]
    assert source.refresh([PAIR], tmp_path) == []
    assert rows(source, home=tmp_path) == [("de 2", "en")]


def test_what_is_cached_builds_offline_and_nothing_else_does(hub: FakeHub, tmp_path: Path) -> None:
    source = Hub.model_validate({"path": "us/bitext", "config": "de-en"})
    expected = rows(source, home=tmp_path)
    hub.reachable = False
    source.prepare(PAIR, tmp_path)
    assert rows(source, home=tmp_path) == expected
    with pytest.raises(ValueError, match="hub, us/bitext: ConnectionError: no route to host. Needed: .* and a network"):
        source.pin(PAIR, tmp_path / "elsewhere")
    pinned = Hub.model_validate({"path": "us/bitext", "config": "de-en", "revision": OLD})
    assert rows(pinned, home=tmp_path / "elsewhere") == expected
    with lock.editing(tmp_path, "hub") as entries:
        entries["us/bitext"]["revision"] = NEW
    with pytest.raises(ValueError, match=f"what is kept here is another state than {NEW}: .*{OLD}"):
        rows(source, home=tmp_path)


def test_files_of_the_hub_are_downloaded_at_the_pinned_commit(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(path: str, repo_type: str, revision: str) -> list[str]:
        return ["README.md", "bitext.py", "data/en-de.jsonl", "data/en-fr.jsonl"]

    def downloaded(path: str, name: str, repo_type: str, revision: str) -> str:
        hub.asked.append(f"get {name} {revision[:1]}")
        return str(written(tmp_path, "jsonl"))

    hub.list_repo_files = listed  # type: ignore[attr-defined]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    source = Hub.model_validate({"path": "us/bitext", "data_files": "data/{src}-{tgt}.jsonl", "columns": COLUMNS})
    source.prepare(PAIR, tmp_path)
    assert rows(source, home=tmp_path) == EXPECTED
    assert source.pin(PAIR, tmp_path) == [OLD, ["data/en-de.jsonl"]]
    assert hub.asked == ["info us/bitext None", "get data/en-de.jsonl 1", "get data/en-de.jsonl 1"]
