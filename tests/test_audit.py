from pathlib import Path

import pytest

from pipelines import audit, clean
from pipelines.__main__ import main
from pipelines.languages import Pair
from pipelines.store import Store
from tests.planted import recipe, store_bitext

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
    assert page.count('<td>identical<td>planted/v1<td dir="auto">&lt;b&gt;Tim&lt;/b&gt;') == 2
    assert "<b>Tim" not in page
    assert page.count('<td dir="auto">Ei<td dir="auto">egg<td class="n">2') == 2


def test_a_store_without_bitext_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path, "empty")
    assert main(["ledger", str(tmp_path)]) == 1
    assert "no bitext in it. Allowed: what 'python -m pipelines' filled" in capsys.readouterr().err
    assert audit.ledgers(Store(tmp_path)) == {}
