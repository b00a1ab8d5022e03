import gzip
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.sources import _moses
from pipelines.sources.lines import Lines
from pipelines.text import text_files

EN_DE, EN_PT = Pair.parse("en-de"), Pair.parse("en-pt")


def lines(path: Path | str, **more: Any) -> Lines:
    return Lines.model_validate({"corpus": "flores", "version": "200", "path": str(path), **more})


def rows(source: Lines, pair: Pair = EN_DE) -> list[tuple[str, str]]:
    batches = list(source.fetch(pair, Path("unused")))
    assert all(batch.schema == BITEXT for batch in batches)
    return [(row["src"], row["tgt"]) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize("names", [("en", "de"), ("eng_Latn", "deu_Latn"), ("eng", "deu"), ("EN", "D")])
def test_files_are_found_by_what_they_call_languages(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, text in zip(names, ("one\ntwo\n", "eins\nzwei"), strict=True):
        (tmp_path / f"dev.{name}.txt").write_text(text)
    source = lines(tmp_path / "dev.{lang}.txt", languages={"EN": "en", "D": "de"})
    source.check([EN_DE])
    assert rows(source) == [("eins", "one"), ("zwei", "two")]  # of a pair the codes are in order: deu, eng
    [(corpus, facts)] = source.provenance(EN_DE, Path("unused")).items()
    assert corpus == "flores/200"
    assert len({file["sha256"] for file in facts["files"]}) == 2


@pytest.mark.parametrize("order", ["de-en", "en-de"])
def test_a_pair_in_the_name_goes_in_either_order(tmp_path: Path, order: str) -> None:
    (tmp_path / f"Europarl.{order}.de").write_text("eins\n")
    (tmp_path / f"Europarl.{order}.en").write_text("one\n")
    assert rows(lines(tmp_path / "Europarl.{pair}.{lang}")) == [("eins", "one")]


def test_what_a_line_holds_is_repaired_and_rows_go_over_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 7)
    monkeypatch.setattr(_moses, "ROWS", 3)
    english = [f"word {i}" for i in range(8)]
    (tmp_path / "en").write_bytes("\ufeff".encode() + "\r\n".join(english).encode())
    (tmp_path / "de").write_bytes(b"\xffeins\t1\n\n" + b"".join(b"Wort %d\n" % i for i in range(2, 8)))
    assert rows(lines(tmp_path / "{lang}")) == [
        ("\ufffdeins 1", "word 0"), ("", "word 1"), *((f"Wort {i}", f"word {i}") for i in range(2, 8)),
    ]  # fmt: skip


def test_packed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_bytes(gzip.compress(b"one\n", mtime=0))
    with zipfile.ZipFile(tmp_path / "x.de", "w") as package:
        package.writestr("inside.txt", "eins\n")
    assert rows(lines(tmp_path / "x.{lang}")) == [("eins", "one")]


def test_a_pair_without_both_files_has_no_rows_and_none_at_all_is_refused(tmp_path: Path) -> None:
    for code in ("en", "de"):
        (tmp_path / code).write_text("x\n")
    source = lines(tmp_path / "{lang}")
    source.check([EN_PT, EN_DE])
    assert rows(source, EN_PT) == []
    assert source.pin(EN_PT, Path("unused")) == []
    with pytest.raises(ValueError, match=r"lines', path: found no two files of eng_Latn-por_Latn.*/en, .*/pt, "):
        source.check([EN_PT])


def test_unequal_files_and_a_path_without_a_language_are_refused(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("one\ntwo\nthree\n")
    (tmp_path / "de").write_text("eins\n")
    with pytest.raises(ValueError, match=r"flores: found 1 lines in \S+/de and 3 in \S+/en, or more. Allowed: as many"):
        rows(lines(tmp_path / "{lang}"))
    with pytest.raises(ValueError, match="Needed: the place of the language"):
        lines(tmp_path / "corpus.txt")
