import gzip
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.config import Recipe, read_recipe
from pipelines.evals.retrieval import Retrieval
from pipelines.fetching import lock, ranged
from pipelines.languages import Pair
from pipelines.sources import _moses, _packages
from pipelines.sources._releases import with_credentials
from pipelines.sources.opus import Opus
from pipelines.stages import clean, collect
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks.translation import Translation
from pipelines.text import text_files
from tests.support.opus_server import FAULTS, Mirror, lines, package

EN_DE = Pair.parse("en-de")


def _rows(source: Opus, pair: Pair, home: Path) -> list[tuple[str, str, str]]:
    table = pa.Table.from_batches(source.fetch(pair, home))
    assert set(table["src_lang"].to_pylist()) == {pair.src}
    assert set(table["tgt_lang"].to_pylist()) == {pair.tgt}
    return list(zip(*(table[name].to_pylist() for name in ("src", "tgt", "corpus")), strict=True))


def _collect(root: Path, *corpora: str, pairs: tuple[str, ...] = ("en-de",)) -> tuple[Recipe, Store, list[Manifest]]:
    raw = {"name": "t", "corpus": {"pairs": list(pairs), "sources": [{"opus": {"corpora": list(corpora)}}]}}
    recipe, store = Recipe.model_validate(raw), Store.open(root, "t")
    return recipe, store, [collect.run(recipe, store, pair) for pair in recipe.corpus.pairs]


def _releases(home: Path) -> dict[str, list[str]]:
    return {key: [item["version"] for item in items] for key, items in lock.read(home, "opus").items()}


@pytest.mark.parametrize(
    ("ours", "theirs", "rows"),
    [
        ("en-zh", {"A/v1": "en-zh", "B/v1": "en-zh_CN"}, [("en", "zh", "A/v1"), ("en", "zh_CN", "B/v1")]),
        ("en-sw", {"A/v1": "en-sw"}, [("en", "sw", "A/v1")]),
        ("en-cs", {"A/v1": "cs-en"}, [("cs", "en", "A/v1")]),
        ("en-pt", {"A/v1": "en-pt", "B/v1": "en-pt_BR"}, [("en", "pt", "A/v1"), ("en", "pt_BR", "B/v1")]),
        ("en-ckb", {"A/v1": "ckb-en"}, [("ckb", "en", "A/v1")]),
        ("sq-en", {"A/v1": "en-sq"}, [("sq", "en", "A/v1")]),  # als_Latn sorts before eng_Latn, sq after en
    ],
)
def test_sides_keep_their_language_whatever_order_the_server_has(
    opus_server: Mirror, tmp_path: Path, ours: str, theirs: dict[str, str], rows: list[tuple[str, str, str]]
) -> None:
    for release, pair in theirs.items():
        src, tgt = pair.split("-")
        opus_server.add(release, pair, src.encode(), tgt.encode())
    assert _rows(Opus(corpora=list(theirs)), Pair.parse(ours), tmp_path) == rows


def test_all_codes_of_a_language_are_read_the_usual_one_first(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "en-zh_CN", b"two\n", "二\n".encode())
    opus_server.add("A/v1", "en-zh", b"one\n", "一\n".encode())
    opus_server.add("A/v1", "en-zh_TW", b"three\n", "三\n".encode())
    source, pair = Opus(corpora=["A"]), Pair.parse("en-zh")
    assert _rows(source, pair, tmp_path) == [("one", "一", "A/v1"), ("two", "二", "A/v1")]
    known = source.provenance(pair, tmp_path)["A/v1"]
    assert [file["url"].rpartition("/")[2] for file in known["files"]] == ["en-zh.txt.zip", "en-zh_CN.txt.zip"]


LATIN, CYRILLIC = "Danas je vreme veoma lepo.", "Данас је време веома лепо."


@pytest.mark.parametrize(
    ("ours", "theirs", "codes"),
    [
        (["en", "sr-Latn"], ["en-sr"], ["sr"]),
        (["en", "sr-Latn"], ["en-sr", "en-sr_Latn", "en-sh"], ["sr_Latn", "sr", "sh"]),
        (["en", "sr"], ["en-sr", "en-sr_Latn", "en-sh"], ["sr", "sh"]),
        (["en", "sh"], ["en-sh", "en-sr"], ["sh", "sr"]),
        (["en", "uz-Cyrl"], ["en-uz", "en-uz_Cyrl"], ["uz_Cyrl", "uz"]),
        (["en", "zh-Hant"], ["en-zh", "en-zh_TW"], ["zh_TW", "zh"]),
        (["en", "ro"], ["en-ro", "en-mo"], ["ro", "mo"]),
        (["en", "mo-Cyrl"], ["en-mo"], ["mo"]),
        (["en", "pnb"], ["en-pa"], ["pa"]),
        (["en", "ckb"], ["ckb-en", "en-ku"], ["ckb", "ku"]),
        (["en", "azb"], ["az-en"], ["az"]),
        (["en", "kk-Latn"], ["en-kk"], ["kk"]),
        (["en", "de"], ["de-en", "en-sr"], ["de"]),
    ],
)
def test_a_code_that_holds_several_scripts_serves_each_language(
    opus_server: Mirror, tmp_path: Path, ours: list[str], theirs: list[str], codes: list[str]
) -> None:
    for package_of in theirs:
        src, tgt = package_of.split("-")
        opus_server.add("A/v1", package_of, src.encode(), tgt.encode())
    pair = Pair.parse(ours)
    rows = _rows(Opus(corpora=["A"]), pair, tmp_path)
    assert [row[0] if pair.tgt == "eng_Latn" else row[1] for row in rows] == codes
    assert _rows(Opus(corpora=["A"]), pair, tmp_path) == rows  # as the lock has it


def test_a_package_between_two_languages_that_share_its_codes_is_read_once(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "sh-sr", LATIN.encode(), CYRILLIC.encode())
    rows = _rows(Opus(corpora=["A"]), Pair.parse(["sr", "sr-Latn"]), tmp_path)
    assert len(rows) == 1
    assert {*rows[0][:2]} == {LATIN, CYRILLIC}


@pytest.mark.parametrize(("language", "kept"), [("sr-Latn", LATIN), ("sr", CYRILLIC)])
def test_the_filter_script_sorts_the_rows_and_without_it_there_is_a_note(
    opus_server: Mirror, tmp_path: Path, language: str, kept: str
) -> None:
    opus_server.add("A/v1", "en-sr", b"One.\nTwo.", f"{LATIN}\n{CYRILLIC}".encode())
    raw = {"pairs": [["en", language]], "sources": [{"opus": {"corpora": ["A"]}}]}
    recipe = Recipe.model_validate({"name": "t", "corpus": {**raw, "filters": ["script"]}})
    store, (pair,) = Store.open(tmp_path, "t"), recipe.corpus.pairs
    collect.run(recipe, store, pair)
    manifest = clean.run(recipe, store, pair)
    assert store.table("clean_bitext", pair)["tgt"].to_pylist() == [kept]
    assert [(row.step, row.dropped) for row in manifest.ledger if row.dropped] == [("script", 1)]
    assert recipe.notes() == []
    (note,) = Recipe.model_validate({"name": "t", "corpus": raw}).notes()
    assert note.startswith(f"opus: packages of Serbian{' (Latin)' * (language != 'sr')} ({pair.tgt}) may contain ")
    assert note.endswith(f"those rows stay under {pair.tgt}. Add script to corpus.filters.")


def test_evals_and_tasks_leave_rows_in_another_script_out(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "en-sr", b"One.\nTwo.", f"{LATIN}\n{CYRILLIC}".encode())
    opus_server.add("A/v1", "en-sr_Latn", b"Three.", b"Deca se igraju.")
    source = {"opus": {"corpora": ["A"]}}
    pair = Pair.parse(["en", "sr-Latn"])
    evals = Retrieval.model_validate({"source": source})
    texts = pa.Table.from_batches(list(evals.texts([pair], tmp_path)))
    assert sorted(texts.filter(pc.equal(texts["lang"], "srp_Latn"))["text"].to_pylist()) == [LATIN, "Deca se igraju."]
    task = Translation.model_validate({"source": source, "train": [["en", "sr-Latn"]]})
    asked = [example.given for example in task.examples(str(pair), tmp_path)]
    assert {*asked} == {"One.", "Three.", LATIN, "Deca se igraju."}


def test_text_is_repaired_as_stated(opus_server: Mirror, tmp_path: Path) -> None:
    src = b"\xef\xbb\xbfeins\r\nzwei\t\x00drei\n\n\xe2\x80\xa8vier\xff\n"
    opus_server.add("A/v1", "de-en", src, b"one\ntwo\nthree\nfour")
    assert [row[:2] for row in _rows(Opus(corpora=["A/v1"]), EN_DE, tmp_path)] == [
        ("eins", "one"),
        ("zwei drei", "two"),
        ("", "three"),
        (" vier\ufffd", "four"),
    ]
    (manifest,) = _collect(tmp_path / "s", "A/v1")[2]
    assert manifest.numbers == {"rows_in": 4, "rows_out": 4, "empty_segments": 1, "replacement_characters": 1}


def test_blocks_and_batches_do_not_show(opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 7)
    monkeypatch.setattr(_moses, "ROWS", 3)
    src, tgt = ("".join(f"{letter}{'ß' * i}\n" for i in range(10)) for letter in "xy")
    opus_server.add("A/v1", "de-en", src.encode(), tgt.encode())
    source = Opus(corpora=["A/v1"])
    assert [(row[0] + "\n", row[1] + "\n") for row in _rows(source, EN_DE, tmp_path)] == list(
        zip(src.splitlines(True), tgt.splitlines(True), strict=True)
    )
    assert [batch.num_rows for batch in source.fetch(EN_DE, tmp_path)] == [3, 3, 3, 1]


@pytest.mark.parametrize("longer", [0, 1])
@pytest.mark.parametrize("by", [1, 25_000])
def test_unequal_line_counts_are_refused(opus_server: Mirror, tmp_path: Path, longer: int, by: int) -> None:
    sides = [b"a\n" * 5, b"b\n" * 5]
    sides[longer] += b"more\n" * by
    opus_server.add("A/v1", "de-en", sides[0], sides[1])
    counts = [f"{5 + by * (side == longer):,}" for side in (0, 1)]
    text = rf"A/v1, de-en: found {counts[0]} lines in 'A\.de-en\.de' and {counts[1]} in 'A\.de-en\.en'"
    with pytest.raises(ValueError, match=text):
        _rows(Opus(corpora=["A/v1"]), EN_DE, tmp_path)


def test_members_are_found_by_name_and_never_unpacked(opus_server: Mirror, tmp_path: Path) -> None:
    evil = {"../../evil.de-en.de": b"evil\n", "/etc/evil.de-en.en": b"evil\n"}
    opus_server.add("A/v1", "de-en", b"gut\n", b"good\n", more=evil)
    assert _rows(Opus(corpora=["A/v1"]), EN_DE, tmp_path / "home") == [("gut", "good", "A/v1")]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    path = opus_server.add("B/v1", "de-en", b"", b"")
    opus_server.files[path] = package(evil)
    with pytest.raises(ValueError, match=r"Needed: one file '<corpus>\.de-en\.de'"):
        _rows(Opus(corpora=["B/v1"]), EN_DE, tmp_path / "home")


def test_a_bomb_is_refused_before_it_is_unpacked(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"\n" * (11 << 20), b"\n" * (11 << 20))
    with pytest.raises(
        ValueError, match=r"'A\.de-en\.de': unpacks .* to 11,534,336 or more\. Allowed: at most 200 times"
    ):
        _rows(Opus(corpora=["A/v1"]), EN_DE, tmp_path)


def test_a_line_without_end_is_refused(opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1 << 20)
    opus_server.add("A/v1", "de-en", b"x" * (3 << 20) + b"\n", lines(1, "x"))
    with pytest.raises(ValueError, match=r"'A\.de-en\.de': found a line of more than 1,048,576 characters"):
        _rows(Opus(corpora=["A/v1"]), EN_DE, tmp_path)


def test_a_version_stays_and_a_bare_name_is_the_latest(opus_server: Mirror, tmp_path: Path) -> None:
    for version, latest in (("v9", False), ("v10", True), ("v11", False)):
        opus_server.add(f"A/{version}", "de-en", version.encode(), version.encode(), latest=latest)
    assert _rows(Opus(corpora=["A/v9"]), EN_DE, tmp_path) == [("v9", "v9", "A/v9")]
    assert _rows(Opus(corpora=["A"]), EN_DE, tmp_path) == [("v10", "v10", "A/v10")]
    for record in opus_server.records:
        record["latest"] = "False"
    assert _rows(Opus(corpora=["A"]), EN_DE, tmp_path / "other") == [("v11", "v11", "A/v11")]


def test_only_a_refresh_moves_the_lock(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    opus_server.add("A/v1", "en-fr", b"old\n", b"vieux\n")
    opus_server.add("B/v1", "de-en", b"fest\n", b"fixed\n")
    recipe, store, before = _collect(tmp_path, "A", "B/v1", pairs=("en-de", "en-fr"))
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n", latest=False)
    opus_server.add("A/v2", "de-en", b"neu\n", b"new\n")
    opus_server.add("B/v2", "de-en", b"neu\n", b"new\n")
    assert [collect.run(recipe, store, pair) for pair in recipe.corpus.pairs] == before
    assert collect.refresh(recipe, store) == [EN_DE]
    assert _releases(store.sources) == {
        "A deu_Latn-eng_Latn": ["v2"],
        "A eng_Latn-fra_Latn": ["v1"],
        "B/v1 deu_Latn-eng_Latn": ["v1"],
        "B/v1 eng_Latn-fra_Latn": [],
    }
    after = [collect.run(recipe, store, pair) for pair in recipe.corpus.pairs]
    assert list(after[0].corpora) == ["A/v2", "B/v1"]
    assert after[0].fingerprint != before[0].fingerprint
    assert after[1] == before[1]


def test_a_refresh_that_finds_nothing_new_touches_nothing(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    recipe, store, _ = _collect(tmp_path, "A")
    file = store.sources / "lock.json"
    os.utime(file, ns=(1, 1))
    opus_server.requests.clear()
    assert collect.refresh(recipe, store) == []
    assert file.stat().st_mtime_ns == 1
    assert not any(method == "GET" for method, _, _ in opus_server.requests)
    opus_server.records.clear()
    assert collect.refresh(recipe, store) == []
    assert _releases(store.sources) == {"A deu_Latn-eng_Latn": ["v1"]}


def test_the_same_version_with_other_bytes_moves_the_lock_too(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    recipe, store, _ = _collect(tmp_path, "A")
    opus_server.add("A/v1", "de-en", b"neu\n", b"new\n")
    assert collect.refresh(recipe, store) == [EN_DE]
    collect.run(recipe, store, EN_DE)
    assert store.table("raw_bitext", EN_DE)["tgt"].to_pylist() == ["new"]


def test_without_a_network_kept_corpora_still_build(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    recipe, store, (before,) = _collect(tmp_path, "A")
    (store.folder("raw_bitext", EN_DE) / "manifest.json").unlink()
    opus_server.close()
    after = collect.run(recipe, store, EN_DE)
    assert (after.files, after.fingerprint) == (before.files, before.fingerprint)


def test_a_damaged_or_deleted_file_comes_back_from_where_the_server_is_now(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    source = Opus(corpora=["A"])
    source.prepare(EN_DE, tmp_path)
    before = (tmp_path / "lock.json").read_bytes()
    (file,) = (tmp_path / "downloads").rglob("*.zip")
    moved = Mirror()
    moved.add("A/v1", "de-en", b"alt\n", b"old\n")
    opus_server.close()
    monkeypatch.setenv("OPUS_URL", moved.url)  # the path of the API may be left out
    file.write_bytes(b"damaged")
    assert _rows(source, EN_DE, tmp_path) == [("alt", "old", "A/v1")]
    file.unlink()
    assert _rows(source, EN_DE, tmp_path) == [("alt", "old", "A/v1")]
    assert (tmp_path / "lock.json").read_bytes() == before
    moved.close()


def test_the_fingerprint_covers_the_data_and_not_the_address(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    opus_server.add("B/v1", "en-fr", b"old\n", b"vieux\n")
    (first,) = _collect(tmp_path / "1", "A/v1")[2]
    (second,) = _collect(tmp_path / "2", "A/v1", "B/v1")[2]  # B has nothing of this pair
    other = Mirror()
    other.add("A/v1", "de-en", b"alt\n", b"old\n")
    monkeypatch.setenv("OPUS_URL", f"{other.url}/opusapi/")
    (third,) = _collect(tmp_path / "3", "A/v1")[2]
    assert first.fingerprint == second.fingerprint == third.fingerprint
    other.add("A/v1", "de-en", b"alt\n", b"old!\n")
    (fourth,) = _collect(tmp_path / "4", "A/v1")[2]
    assert fourth.fingerprint != first.fingerprint
    other.close()


def test_shards_are_the_same_with_every_fault(opus_server: Mirror, tmp_path: Path) -> None:
    for i in range(4):
        opus_server.add(f"C{i}/v1", "de-en", lines(500, f"{i}a"), lines(500, f"{i}b"))
    corpora = [f"C{i}/v1" for i in range(4)]
    (calm,) = _collect(tmp_path / "calm", *corpora)[2]
    assert calm.rows == {"data": 2000}
    opus_server.faults = dict.fromkeys(FAULTS, 0.25)
    for seed in range(3):
        opus_server.seed, opus_server.requests = seed, []
        (rough,) = _collect(tmp_path / f"rough{seed}", *corpora)[2]
        assert (rough.files, rough.fingerprint) == (calm.files, calm.fingerprint)
        assert sum(method == "GET" for method, _, _ in opus_server.requests) > 4


def test_provenance_states_version_licence_address_and_citation(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"a\n", b"a\n", licence="\n  CC-BY-2.0-FR \nhttps://example.org\n")
    opus_server.add("B/v2", "de-en", b"b\n", b"b\n", licence="")
    (manifest,) = _collect(tmp_path, "A/v1", "B/v2")[2]
    known = manifest.corpora["A/v1"]
    assert (known["version"], known["licence"]) == ("v1", "CC-BY-2.0-FR")
    assert known["url"] == f"{opus_server.url}/OPUS-A/v1/moses/de-en.txt.zip"
    assert "Tiedemann" in known["citation"]
    assert manifest.corpora["B/v2"]["licence"] == "not stated in the package"
    assert [(row.corpus, row.into, row.kept) for row in manifest.ledger] == [("A/v1", 1, 1), ("B/v2", 1, 1)]


def test_a_pair_that_no_listed_corpus_has_names_what_the_server_has(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "en-fr", b"a\n", b"a\n")
    opus_server.add("B/v1", "de-en", b"b\n", b"b\n")
    text = "opus.corpora, deu_Latn-eng_Latn: found A, of which .* has none for this pair. Allowed: B/v1. Add one"
    with pytest.raises(ValueError, match=text):
        _collect(tmp_path / "1", "A")
    with pytest.raises(ValueError, match="Allowed: nothing, it has no bitext of this pair"):
        _collect(tmp_path / "2", "A", pairs=("en-tr",))


def test_a_corpus_that_the_server_does_not_know_is_an_error_beside_one_it_knows(
    opus_server: Mirror, tmp_path: Path
) -> None:
    opus_server.add("Tatoeba/v1", "de-en", b"a\n", b"a\n")
    opus_server.add("TED2020/v1", "en-fr", b"a\n", b"a\n")
    with pytest.raises(ValueError, match=r"found 'Tatoebba/v1'\. Did you mean 'Tatoeba'\?"):
        _collect(tmp_path / "1", "Tatoeba/v1", "Tatoebba/v1")
    (manifest,) = _collect(tmp_path / "2", "Tatoeba/v1", "TED2020/v1")[2]
    assert list(manifest.corpora) == ["Tatoeba/v1"]


@pytest.mark.parametrize("corpus", ["", "A/", "/v1", "A/v1/x", "../A", "A/../v1", "A b", "-A"])
def test_a_corpus_is_a_name_or_name_and_version(corpus: str) -> None:
    with pytest.raises(ValueError, match=r"Allowed: a corpus of OPUS with its version, such as 'Tatoeba/v2021-08-07'"):
        Opus(corpora=[corpus])


def test_a_corpus_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found A/v1 twice\. Allowed: each corpus once"):
        Opus(corpora=["A/v1", "B/v1", "A/v1"])


@pytest.mark.parametrize("name", ["opus8", "opus"])
def test_built_in_recipes_pin_every_release_and_hold_out_what_they_ask(name: str) -> None:
    recipe = read_recipe(name).resolved()
    trained = [corpus for source in recipe["corpus"]["sources"] for corpus in source["opus"]["corpora"]]
    asked = [corpus for item in recipe["eval"] for corpus in _settings(item)["source"]["opus"]["corpora"]]
    assert all("/" in corpus for corpus in trained + asked)
    assert asked
    assert not {corpus.split("/")[0] for corpus in trained} & {corpus.split("/")[0] for corpus in asked}


def _settings(item: dict[str, Any]) -> dict[str, Any]:
    return next(iter(item.values()))


def test_releases_with_unsafe_names_are_not_taken(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"a\n", b"a\n")
    opus_server.records.append({**opus_server.records[0], "version": "../../v2"})
    assert _rows(Opus(corpora=["A"]), EN_DE, tmp_path) == [("a", "a", "A/v1")]


def test_an_api_that_is_none_is_named(opus_server: Mirror, tmp_path: Path) -> None:
    bad: Any = {"corpus": "A"}
    opus_server.records.append({"source": "de", "target": "en", **bad})
    with pytest.raises(ValueError, match=r"the answer is not that of an OPUS API: KeyError\('preprocessing'\)"):
        _collect(tmp_path, "A")


def _numbered(rows: int, noise: bool = False) -> tuple[bytes, bytes]:
    """Two sides whose row i says i; with `noise` they hardly compress."""
    rng = random.Random(0)
    tail = [f" {rng.getrandbits(200):x}" if noise else "" for _ in range(rows)]
    src, tgt = ("".join(f"{letter}{i}{tail[i]}\n" for i in range(rows)).encode() for letter in "st")
    return src, tgt


def _ids(source: Opus, pair: Pair, home: Path) -> list[int]:
    found = []
    for src, tgt, _ in _rows(source, pair, home):
        assert src[1:] == tgt[1:]
        found.append(int(src[1:].split()[0]))
    return found


def test_a_cap_draws_at_random_from_the_window_in_order(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_moses, "ROWS", 128)
    opus_server.add("A/v1", "de-en", *_numbered(3_000))
    found = _ids(Opus(corpora=["A"], cap=100), EN_DE, tmp_path)
    assert found == sorted(found)
    assert len(found) == 100
    assert found != list(range(100))
    assert max(found) < 2_000  # 20 times the cap
    assert 800 < np.mean(found) < 1_200
    assert _ids(Opus(corpora=["A"], cap=100), EN_DE, tmp_path / "again") == found
    assert _ids(Opus(corpora=["A"], cap=100, seed=1), EN_DE, tmp_path) != found
    assert max(_ids(Opus(corpora=["A"], cap=100, window=None), EN_DE, tmp_path)) > 2_500
    assert _ids(Opus(corpora=["A"], cap=100, window=1), EN_DE, tmp_path) == list(range(100))
    assert _ids(Opus(corpora=["A"], cap=5_000), EN_DE, tmp_path) == list(range(3_000))
    small, large = (set(_ids(Opus(corpora=["A"], cap=cap, window=None), EN_DE, tmp_path)) for cap in (100, 200))
    assert small < large


def test_caps_are_of_a_corpus_and_pair(opus_server: Mirror, tmp_path: Path) -> None:
    for release, pair in (("A/v1", "en-zh"), ("A/v1", "en-zh_CN"), ("B/v1", "en-zh"), ("C/v1", "en-zh")):
        opus_server.add(release, pair, *_numbered(50))
    source = Opus(corpora=["A", "B/v1", "C/v1"], cap={"A": 10, "B": 60, "C/v1": 5})
    counts = Counter(corpus for _, _, corpus in _rows(source, Pair.parse("en-zh"), tmp_path))
    assert counts == {"A/v1": 10, "B/v1": 50, "C/v1": 5}


def test_a_cap_of_a_corpus_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cap: found 'GNOM'\. Did you mean 'GNOME'\? Allowed: GNOME/v1, GNOME"):
        Opus(corpora=["GNOME/v1"], cap={"GNOM": 5})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Opus(corpora=["GNOME/v1"], cap=0)


def test_the_ledger_says_how_many_rows_the_cap_left_out(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", *_numbered(500), rows=7)  # what the server states is not believed
    opus_server.add("B/v1", "de-en", *_numbered(5))
    manifest = _capped(tmp_path, ["A", "B"], cap=10)
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("collect", "A/v1", 200, 0, 200),
        ("cap", "A/v1", 200, 190, 10),
        ("collect", "B/v1", 5, 0, 5),
    ]
    (file,) = manifest.corpora["A/v1"]["files"]
    assert (file["rows"], file["rows_read"]) == (500, 200)
    assert (manifest.numbers["rows_in"], manifest.numbers["rows_out"]) == (205, 15)


def _capped(root: Path, corpora: list[str], **settings: Any) -> Manifest:
    raw = {"corpus": {"pairs": ["en-de"], "sources": [{"opus": {"corpora": corpora, **settings}}]}}
    return collect.run(Recipe.model_validate({"name": "t", **raw}), Store.open(root, "t"), EN_DE)


def test_cap_window_and_seed_enter_the_fingerprint(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", *_numbered(500))
    settings: list[dict[str, Any]] = [{}, {"cap": 10}, {"cap": 20}, {"cap": 10, "window": 3}, {"cap": 10, "seed": 1}]
    prints = [_capped(tmp_path, ["A"], **item).fingerprint for item in settings]
    assert len(set(prints)) == len(prints)
    assert _capped(tmp_path, ["A"]).fingerprint == prints[0]


@pytest.fixture
def large(opus_server: Mirror, monkeypatch: pytest.MonkeyPatch) -> str:
    """A release that is large for the limits here; its path."""
    monkeypatch.setattr(_packages, "RANGED_FROM", 50_000)
    monkeypatch.setattr(ranged, "BLOCK", 4_000)
    monkeypatch.setattr(text_files, "BLOCK", 1_000)
    monkeypatch.setattr(_moses, "ROWS", 50)
    return opus_server.add("A/v1", "de-en", *_numbered(8_000, noise=True), licence="MIT\n", rows=8_000)


def test_of_a_large_release_only_the_beginnings_come(opus_server: Mirror, large: str, tmp_path: Path) -> None:
    found = _capped(tmp_path / "part", ["A"], cap=40, window=5)
    assert opus_server.sent < len(opus_server.files[large]) / 4
    assert all(wanted for method, _, wanted in opus_server.requests if method == "GET")
    whole = _capped(tmp_path / "whole", ["A"], cap=40, window=None)
    assert opus_server.sent > len(opus_server.files[large])
    assert found.rows == whole.rows == {"data": 40}
    (file,) = found.corpora["A/v1"]["files"]
    assert file == {
        "url": opus_server.url + large, "size": len(opus_server.files[large]), "etag": opus_server.etag(large),
        "rows": 8_000, "rows_read": 200,
    }  # fmt: skip
    assert found.corpora["A/v1"]["licence"] == "MIT"


def test_a_part_gives_the_rows_of_the_whole_with_every_fault_too(
    opus_server: Mirror, large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = _capped(tmp_path / "calm", ["A"], cap=40, window=5)
    opus_server.faults = dict.fromkeys(FAULTS, 0.2)
    rough = _capped(tmp_path / "rough", ["A"], cap=40, window=5)
    assert (rough.files, rough.fingerprint) == (calm.files, calm.fingerprint)
    opus_server.faults, opus_server.ranges = {}, False
    unranged = _capped(tmp_path / "unranged", ["A"], cap=40, window=5)
    assert unranged.files == calm.files
    assert [path.suffix for path in (tmp_path / "unranged" / "sources").glob("downloads/*/*/*/*")] == [".zip"]


def test_a_part_builds_without_a_network_and_grows_when_more_is_asked(
    opus_server: Mirror, large: str, tmp_path: Path
) -> None:
    before = _capped(tmp_path, ["A"], cap=40, window=5)
    entries = lock.read(tmp_path / "sources", "opus")["A deu_Latn-eng_Latn"]
    assert [(item["window"], item["sha256"]) for item in entries] == [(200, "")]
    opus_server.requests.clear()
    larger = _capped(tmp_path, ["A"], cap=80, window=5)
    assert larger.rows == {"data": 80}
    asked = [wanted for method, _, wanted in opus_server.requests if method == "GET"]
    assert 0 < len(asked) < 30  # only blocks that were not there
    (tmp_path / "raw_bitext" / str(EN_DE) / "manifest.json").unlink()
    opus_server.close()
    after = _capped(tmp_path, ["A"], cap=40, window=5)  # a larger part serves a smaller window
    assert after.files == before.files


def test_a_part_that_changed_upstream_is_not_mixed_with_the_new(
    opus_server: Mirror, large: str, tmp_path: Path
) -> None:
    _capped(tmp_path, ["A"], cap=40, window=5)
    opus_server.add("A/v1", "de-en", *_numbered(9_000, noise=True), rows=9_000)
    with pytest.raises(ValueError, match=r"Allowed: .* as in the lock file\. The file changed upstream"):
        _capped(tmp_path, ["A"], cap=80, window=5)


def test_a_part_that_reaches_the_end_of_one_side_alone_is_refused(
    opus_server: Mirror, large: str, tmp_path: Path
) -> None:
    src, tgt = _numbered(2_000, noise=True)
    for sides, counts in (((src, b"x\n" * 170), "200 lines .* and 170"), ((b"x\n" * 100, tgt), "100 lines .* and 150")):
        opus_server.add("B/v1", "de-en", *sides, rows=8_000)
        with pytest.raises(ValueError, match=f"B/v1, de-en: found {counts} in .* Allowed: as many in both"):
            _capped(tmp_path / counts[:3], ["B"], cap=40, window=5)


def test_a_refresh_moves_a_part(opus_server: Mirror, large: str, tmp_path: Path) -> None:
    source = Opus(corpora=["A"], cap=40, window=5)
    before = _ids(source, EN_DE, tmp_path)
    assert source.refresh([EN_DE], tmp_path) == []
    opus_server.add("A/v1", "de-en", b"", b"", latest=False)
    opus_server.add("A/v2", "de-en", *_numbered(9_000, noise=True), rows=9_000)
    assert source.refresh([EN_DE], tmp_path) == [EN_DE]
    assert _ids(source, EN_DE, tmp_path) == before
    assert [item["version"] for item in lock.read(tmp_path, "opus")["A deu_Latn-eng_Latn"]] == ["v2"]


UNITS = "".join(
    f'<tu><tuv xml:lang="de"><seg>satz {i} <ph>x</ph></seg></tuv><tuv xml:lang="en"><seg>sentence {i}</seg></tuv></tu>'
    for i in range(100)
)


def test_tmx_packages_are_read_with_the_licence_beside_them(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"x\n", b"y\n", licence="CC-BY-4.0\n")
    opus_server.add_tmx("A/v1", "de-en", UNITS)
    opus_server.add_tmx("B/v1", "de-en", UNITS)
    source = Opus(corpora=["A", "B"], format="tmx")
    found = _rows(source, EN_DE, tmp_path)
    assert found[:2] == [("satz 0", "sentence 0", "A/v1"), ("satz 1", "sentence 1", "A/v1")]
    assert Counter(corpus for _, _, corpus in found) == {"A/v1": 100, "B/v1": 100}
    known = source.provenance(EN_DE, tmp_path)
    assert [known[name]["licence"] for name in ("A/v1", "B/v1")] == ["CC-BY-4.0", "not stated in the package"]
    assert known["A/v1"]["files"][0]["rows"] == 100
    assert _rows(Opus(corpora=["A"]), EN_DE, tmp_path) == [("x", "y", "A/v1")]  # the lock knows the two apart
    opus_server.close()
    assert _rows(source, EN_DE, tmp_path) == found


def test_tmx_packages_have_caps_and_survive_faults(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add_tmx("A/v1", "de-en", UNITS)
    source = Opus(corpora=["A"], format="tmx", cap=10, window=5)
    calm = _rows(source, EN_DE, tmp_path / "calm")
    assert len(calm) == 10
    assert all(int(src.split()[1]) < 50 for src, _, _ in calm)
    opus_server.faults = dict.fromkeys(FAULTS, 0.2)
    for seed in range(5):
        opus_server.seed = seed
        assert _rows(source, EN_DE, tmp_path / str(seed)) == calm


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # no time in what is packed: it is in the names of the tests, which all workers must agree on
        (b"<html>Moved</html>", "not a gzip file"),
        (gzip.compress(b"<tmx><body></body>", mtime=0), "not well-formed XML"),
        (gzip.compress(b"<html></html>", mtime=0), "found no element <tmx>"),
        (gzip.compress(b"0" * (30 << 20), mtime=0), r"Allowed: at most 200 times as many"),
        (gzip.compress(b'<!DOCTYPE x [<!ENTITY a "b">]><tmx>&a;</tmx>', mtime=0), "declaration of an entity, 'a'"),
    ],
)
def test_a_tmx_package_that_is_none_is_refused(opus_server: Mirror, tmp_path: Path, data: bytes, message: str) -> None:
    path = opus_server.add_tmx("A/v1", "de-en", "")
    opus_server.files[path] = data
    with pytest.raises(ValueError, match=message):
        _rows(Opus(corpora=["A"], format="tmx"), EN_DE, tmp_path)


def test_downloads_that_the_lock_no_longer_names_are_pruned(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    opus_server.add("B/v1", "de-en", b"fest\n", b"fixed\n")
    source = Opus(corpora=["A", "B/v1"])
    source.prepare(EN_DE, tmp_path)
    old = {path for path in tmp_path.rglob("*.zip") if "/A/" in str(path)}
    assert source.prune(tmp_path) == []
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n", latest=False)
    opus_server.add("A/v2", "de-en", b"neu\n", b"new\n")
    source.refresh([EN_DE], tmp_path)
    before = _rows(source, EN_DE, tmp_path)
    assert set(source.prune(tmp_path)) == old
    assert not (tmp_path / "downloads" / "opus" / "A" / "v1").exists()
    opus_server.close()
    assert _rows(source, EN_DE, tmp_path) == before == [("neu", "new", "A/v2"), ("fest", "fixed", "B/v1")]


def test_secrets_in_addresses_are_used_but_stored_nowhere_and_may_change(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.__main__ import main

    path = opus_server.add("GNOME/v1", "de-en", lines(300, "a"), lines(300, "b"))
    (record,), plain = opus_server.records, opus_server.url.replace("http://", "")

    def secret(word: str) -> None:
        """Both the API's address and, in a query, that of the file carry it."""
        monkeypatch.setenv("OPUS_URL", f"http://user:{word}@{plain}/opusapi/")
        record["url"] = f"http://{plain}{path}?token={word}"
        opus_server.files[f"{path}?token={word}"] = opus_server.files[path]

    recipe, store = tmp_path / "mine.yaml", tmp_path / "store"
    recipe.write_text("corpus: {pairs: [de-en], sources: [{opus: {corpora: [GNOME/v1]}}], dev_rows: 0}\n")
    secret("hunter2")
    assert main([str(recipe), "--store", str(store)]) == 0
    assert ("GET", f"{path}?token=hunter2", "") in opus_server.requests
    assert main(["ledger", str(store), "--html", str(tmp_path / "store" / "ledger.html")]) == 0
    for file in store.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file
    assert f"http://***@{plain}{path}?token=***" in (store / "sources" / "lock.json").read_text()
    before = (store / "raw_bitext" / "deu_Latn-eng_Latn" / "manifest.json").read_bytes()

    del opus_server.files[f"{path}?token=hunter2"]
    secret("hunter3")
    for file in (store / "sources" / "downloads").rglob("*.zip"):
        file.unlink()
    shutil.rmtree(store / "raw_bitext" / "deu_Latn-eng_Latn")
    capsys.readouterr()
    assert main([str(recipe), "--store", str(store)]) == 0
    assert ("GET", f"{path}?token=hunter3", "") in opus_server.requests
    shown = capsys.readouterr()
    assert shown.err.count(", unchanged (") >= 4
    after = json.loads((store / "raw_bitext" / "deu_Latn-eng_Latn" / "manifest.json").read_bytes())
    assert [after[key] for key in ("fingerprint", "files", "corpora")] == [
        json.loads(before)[key] for key in ("fingerprint", "files", "corpora")
    ]

    opus_server.files = {}
    for file in (store / "sources" / "downloads").rglob("*.zip"):
        file.unlink()
    shutil.rmtree(store / "raw_bitext" / "deu_Latn-eng_Latn")
    assert main([str(recipe), "--store", str(store)]) == 1
    opus_server.records = []
    assert main([str(recipe), "--store", str(store)]) == 1
    shown = capsys.readouterr()
    assert "the server answers 404" in shown.err
    assert "its password or token is not stored, and the server no longer lists the file" in shown.err
    assert "hunter" not in shown.err + shown.out


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:80/a.zip", "http://u:p@host:80/a.zip"),
        ("http://HOST:80/a.zip?x=1", "http://u:p@HOST:80/a.zip?x=1"),
        ("http://other:80/a.zip", "http://other:80/a.zip"),
        ("http://host:81/a.zip", "http://host:81/a.zip"),
        ("https://host:80/a.zip", "https://host:80/a.zip"),
        ("http://v:q@host:80/a.zip", "http://v:q@host:80/a.zip"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_the_password_of_the_server_is_for_its_own_files_alone(url: str, expected: str) -> None:
    assert with_credentials(url, "http://u:p@host:80/opusapi/") == expected
    assert with_credentials(url, "http://host:80/opusapi/") == url
