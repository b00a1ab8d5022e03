import json
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.languages import Pair
from pipelines.report import ledger
from pipelines.stages import clean, instruct, mix, task_data
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import recipe, store_bitext, store_eval_text

PAIRS = (Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = recipe([str(pair) for pair in PAIRS], filters=[{"char_length": {"min": 3}}, "identical"])
    opened = Store.open(tmp_path / "store", made.name)
    for pair in PAIRS:
        rows = (["Ei", "<b>Tim</b>", "das  Haus", "Tür"], ["egg", "<b>Tim</b>", "a house", "door"])
        store_bitext(opened, pair, rows, asset="raw_bitext")
        clean.run(made, opened, pair)
    return opened


def test_the_table_sums_over_pairs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", str(store.root)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["step", "corpus", "in", "changed", "dropped", "out"],
        ["normalise", "planted/v1", "8", "2", "0", "8"],
        ["char_length", "planted/v1", "8", "0", "2", "6"],
        ["identical", "planted/v1", "6", "0", "2", "4"],
    ]


def test_the_page_shows_each_pair_its_rows_and_no_corpus_text_as_markup(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "ledger.html"
    assert main(["ledger", str(store.root), "--html", str(file)]) == 0
    page = file.read_text()
    assert page.count("<svg ") == 3
    assert all(f"<summary>{pair}: 2 rows dropped</summary>" in page for pair in PAIRS)
    assert page.count('<th scope="row">identical</th><td>planted/v1</td><td dir="auto">&lt;b&gt;Tim&lt;/b&gt;') == 2
    assert "<b>Tim" not in page
    assert page.count('<td dir="auto">Ei</td><td dir="auto">egg</td><td class="n">2') == 2


def test_a_store_without_bitext_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path, "empty")
    assert main(["ledger", str(tmp_path)]) == 1
    assert "found no bitext. Expected: a store with a corpus" in capsys.readouterr().err
    assert ledger.ledgers(Store(tmp_path)) == {}


def test_conversations_that_were_dropped_are_counted_by_task_and_some_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Is {'red' if n < 30 else n} a colour? Say yes or no.", "answer": "Yes", "lang": "en", "id": n}
            for n in range(200)]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = recipe(["de-en"], tasks=[{"messages": {"path": str(file), "train": ["en"], "rows": 100}}], dev_rows=1,
                  instructions=["translate"])  # fmt: skip
    store = Store.open(tmp_path / "store", made.name)
    store_bitext(store, PAIRS[0], 20)
    store_eval_text(store, {"eng_Latn": [f"Is {n} a colour?" for n in range(100, 200, 2)]})
    instruct.run(made, store, PAIRS[0])
    manifest = task_data.run(made, store)
    mix.run(made, store)
    lost = {row.step: row.dropped for row in manifest.ledger}
    assert (lost["dev"], lost["evaluation_near"]) == (20, 0)
    assert min(lost["dev_overlap"], lost["rows"], lost["evaluation_overlap"]) >= 10
    assert main(["ledger", str(store.root), "--html", str(tmp_path / "ledger.html")]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    overlap = lost["dev_overlap"]
    assert ["dev_overlap", "messages", "eng_Latn", "180", "0", f"{overlap}", f"{180 - overlap}"] in lines
    assert ["dev_overlap", "translate", "deu_Latn-eng_Latn", "20", "0", "1", "19"] in lines
    shown = [line.partition(":")[0].strip() for line in printed.splitlines() if line.endswith(" -> Yes")]
    assert [shown.count(step) for step in ("dev_overlap", "rows", "evaluation_overlap")] == [4, 3, 3]
    assert "  dev_overlap: Is red a colour? Say yes or no. -> Yes" in printed
    page = (tmp_path / "ledger.html").read_text()
    assert page.count('<th scope="row">dev_overlap</th><td>messages eng_Latn</td><td dir="auto">Is red a colour?') == 10
    assert (
        page.count('<th scope="row">dev_overlap</th><td>translate deu_Latn-eng_Latn</td><td') == 2
    )  # its count and its one row
