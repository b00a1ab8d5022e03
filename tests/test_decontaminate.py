from pathlib import Path
from typing import Any

import pytest

from pipelines.languages import Pair
from pipelines.stages import decontaminate
from pipelines.storage.errors import StoreError
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import CORPUS, recipe, store_bitext, store_eval_text

ZH = Pair("eng_Latn", "zho_Hans")
ROWS = (
    ["The house.", "the HOUSE", "A dog", "Some cat", "大房子", "A river"],
    ["房子。", "一个房子", "狗 !", "猫", "The tree", "..."],
)
HELD_OUT = {
    "eng_Latn": ["The house!", "The tree"],
    "zho_Hans": ["狗", "大房子", "…", ""],
    "deu_Latn": ["Some cat", "A river"],
}


def decontaminated(
    folder: Path, rows: Any = ROWS, held: dict[str, list[str]] = HELD_OUT, **corpus: Any
) -> tuple[Store, Manifest]:
    made = recipe([str(ZH)], **corpus)
    store = Store.open(folder, made.name)
    store_eval_text(store, held)
    store_bitext(store, ZH, rows, asset="deduped_bitext")
    return store, decontaminate.run(made, store, ZH)


def test_rows_that_hold_a_text_of_the_evals_in_its_language_are_set_aside(tmp_path: Path) -> None:
    store, manifest = decontaminated(tmp_path)
    assert store.table("decontaminated_bitext", ZH)["src"].to_pylist() == ["Some cat", "大房子", "A river"]
    dropped = store.table("decontaminated_bitext", ZH, "rejected")
    assert dropped["src"].to_pylist() == ["The house.", "the HOUSE", "A dog"]
    assert set(dropped["reason"].to_pylist()) == {"evaluation_overlap"}
    assert dropped["score"].to_pylist() == [None] * 3
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("evaluation_overlap", CORPUS, 6, 3, 3),
        ("evaluation_near", CORPUS, 3, 0, 3),
    ]
    assert manifest.numbers == {"rows_in": 6, "rows_out": 3, "eval_texts": 4}
    assert manifest.corpora[CORPUS]["version"] == "v1"


def test_without_held_out_texts_every_row_stays(tmp_path: Path) -> None:
    store, manifest = decontaminated(tmp_path, held={})
    assert (manifest.rows["data"], manifest.rows["rejected"]) == (6, 0)
    assert store.table("decontaminated_bitext", ZH)["score_x"].to_pylist() == [0.5] * 6


def test_new_held_out_texts_are_a_reason_to_run_again(tmp_path: Path) -> None:
    store, first = decontaminated(tmp_path)
    made = recipe([str(ZH)])
    assert decontaminate.run(made, store, ZH) == first
    store_eval_text(store, {"eng_Latn": ["Some cat"]})
    second = decontaminate.run(made, store, ZH)
    assert second.fingerprint != first.fingerprint
    assert (second.rows["data"], second.rows["rejected"]) == (5, 1)


def test_the_held_out_texts_must_be_there(tmp_path: Path) -> None:
    made = recipe([str(ZH)])
    store = Store.open(tmp_path, made.name)
    store_bitext(store, ZH, ROWS, asset="deduped_bitext")
    with pytest.raises(StoreError, match="has no eval_text"):
        decontaminate.run(made, store, ZH)


def test_nothing_left_is_an_error_unless_allowed(tmp_path: Path) -> None:
    rows = (["The house"], ["房子"])
    with pytest.raises(ValueError, match="none of 1 rows is left; evaluation_overlap dropped 1 of planted/v1"):
        decontaminated(tmp_path / "a", rows)
    rows_left = decontaminated(tmp_path / "b", rows, allow_empty=True)[1].rows
    assert (rows_left["data"], rows_left["rejected"]) == (0, 1)


TEXTS = {
    "eng_Latn": "The committee met on Tuesday morning and agreed to repair the old bridge before winter.",
    "rus_Cyrl": "Комитет решил во вторник отремонтировать старый мост ещё до начала зимы.",
    "arb_Arab": "قررت اللجنة يوم الثلاثاء إصلاح الجسر القديم قبل حلول فصل الشتاء القادم",
    "tha_Thai": "คณะกรรมการตัดสินใจเมื่อวันอังคารว่าจะซ่อมแซมสะพานเก่าก่อนฤดูหนาว",
    "zho_Hans": "委员会在星期二早上开会并同意在冬天到来之前修好那座旧桥以方便村民",
}


@pytest.mark.parametrize("lang", TEXTS)
def test_near_copies_and_longer_texts_that_hold_one_are_set_aside(tmp_path: Path, lang: str) -> None:
    text, pair = TEXTS[lang], Pair(*sorted((lang, "deu_Latn")))
    own = [text[:-2], f"{text[::-1]} {text} {text[::-1]}", text[::-1], text[: len(text) // 2], text]
    other = [f"Zeile {number}" for number in range(len(own))]
    store = Store.open(tmp_path, recipe([str(pair)]).name)
    store_eval_text(store, {lang: [text]})
    store_bitext(store, pair, (own, other) if pair.src == lang else (other, own), asset="deduped_bitext")
    manifest = decontaminate.run(recipe([str(pair)]), store, pair)
    dropped = store.table("decontaminated_bitext", pair, "rejected").to_pylist()
    assert [(row["reason"], row["src" if pair.src == lang else "tgt"]) for row in dropped] == [
        ("evaluation_near", own[0]),
        ("evaluation_near", own[1]),
        ("evaluation_overlap", text),
    ]
    assert 0.9 < dropped[0]["score"] < 1 == dropped[1]["score"]
    assert dropped[2]["score"] is None
    assert [(row.step, row.into, row.dropped) for row in manifest.ledger] == [
        ("evaluation_overlap", 5, 1), ("evaluation_near", 4, 2)
    ]  # fmt: skip
    only_equal = decontaminate.run(recipe([str(pair)], decontaminate={"near": None}), store, pair)
    assert [(row.step, row.dropped) for row in only_equal.ledger] == [("evaluation_overlap", 1)]


def test_texts_of_the_lists_are_set_aside_in_every_language(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.txt").write_bytes("\ufeffsome CAT\r\n\r\n一个房子\n".encode())
    (lists / "b.txt").write_text(TEXTS["eng_Latn"])
    rows = ([*ROWS[0], TEXTS["eng_Latn"] + " So there!"], [*ROWS[1], "桥"])
    settings = {"lists": [str(lists / "*.txt"), str(lists / "a.txt")]}
    store, manifest = decontaminated(tmp_path / "store", rows, decontaminate=settings)
    assert [(row.step, row.into, row.dropped) for row in manifest.ledger] == [
        ("evaluation_overlap", 7, 3), ("evaluation_near", 4, 0), ("list_overlap", 4, 1), ("list_near", 3, 1)
    ]  # fmt: skip
    assert store.table("decontaminated_bitext", ZH)["src"].to_pylist() == ["大房子", "A river"]
    assert manifest.numbers["list_texts"] == 3
    (lists / "b.txt").write_text("A river")
    again = decontaminate.run(recipe([str(ZH)], decontaminate=settings), store, ZH)
    assert [row.dropped for row in again.ledger] == [3, 0, 2, 0]


def test_lists_that_are_missing_or_unreadable_are_named(tmp_path: Path) -> None:
    wanted = recipe([str(ZH)], decontaminate={"lists": [str(tmp_path / "no*.txt")]})
    with pytest.raises(ValueError, match=r"corpus.decontaminate.lists\[0\]: '.*no\*.txt': found no such file"):
        wanted.notes()
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt, line 1: byte 0xFC at byte 3 is not UTF-8; .* windows-1252. Exp"):
        decontaminated(tmp_path / "store", decontaminate={"lists": [str(tmp_path / "latin.txt")]})
