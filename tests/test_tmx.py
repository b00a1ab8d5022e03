import gzip
import io
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.schema import BITEXT
from pipelines.sources import _files, _xml
from pipelines.sources.tmx import Tmx, read_tmx
from pipelines.text import text_files

EN_DE = Pair.parse("en-de")
HOME = Path("unused")


def tmx(*units: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> str:
    body = "".join(f"<tu>{unit}</tu>" for unit in units)
    return f'{head}\n<tmx version="1.4"><header srclang="en"/><body>{body}</body></tmx>'


def unit(**texts: str) -> str:
    return "".join(f'<tuv xml:lang="{lang.replace("_", "-")}"><seg>{text}</seg></tuv>' for lang, text in texts.items())


def found(data: str | bytes, pair: Pair = EN_DE) -> list[tuple[str, str]]:
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return [row for src, tgt in read_tmx(stream, pair, "x.tmx") for row in zip(src, tgt, strict=True)]


def rows(source: Tmx, pair: Pair = EN_DE) -> list[tuple[str, str]]:
    batches = list(source.fetch(pair, HOME))
    assert all(batch.schema == BITEXT for batch in batches)
    return [(row["src"], row["tgt"]) for batch in batches for row in batch.to_pylist()]


def packed(name: str, data: bytes, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as package:
        package.writestr(name, data)
    return out.getvalue()


MANY = tmx(
    unit(en="one", de="eins", fr="un", zh_TW="一", th="หนึ่ง"),
    unit(fr="deux", en="two"),
    unit(de="drei", EN_us="three", ar="ثلاثة"),
)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("en-de", [("eins", "one"), ("drei", "three")]),
        ("fr-en", [("one", "un"), ("two", "deux")]),
        ("zh_TW-en", [("one", "一")]),
        ("zh_TW-th", [("หนึ่ง", "一")]),
        ("ar-de", [("ثلاثة", "drei")]),
        ("sw-en", []),
    ],
)
def test_a_unit_of_many_languages_gives_every_pair_in_sorted_order(pair: str, expected: list[tuple[str, str]]) -> None:
    assert found(MANY, Pair.parse(pair)) == expected


@pytest.mark.parametrize("lang", ["de", "DE", "de-DE", "de_AT", "deu", "ger", "DEU-Latn", "deu_Latn"])
@pytest.mark.parametrize("attribute", ["xml:lang", "lang"])
def test_languages_are_known_by_any_usual_code(attribute: str, lang: str) -> None:
    text = tmx(unit(en="a") + f'<tuv {attribute}="{lang}"><seg>b</seg></tuv>')
    assert found(text) == [("b", "a")]


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        ("a <ph>{0}</ph>b", "a b"),
        ("<bpt i='1'>&lt;b></bpt>bold<ept i='1'>&lt;/b></ept>", "bold"),
        ("x<it pos='begin'>[</it>y<ut>]</ut>z", "xyz"),
        ("<hi>high <hi>higher</hi></hi> low", "high higher low"),
        ("one<ph type='lb'/>two", "one two"),
        ("k<ph>&lt;img alt='<sub>cat <hi>dog</hi> <ph/></sub>'></ph>l", "kl"),
        ("a &amp; b &lt;c&gt;", "a & b <c>"),
        ("<![CDATA[<b>ไทย</b>]]>", "<b>ไทย</b>"),
        ("", ""),
    ],
)
def test_codes_go_with_their_content_and_highlights_stay(segment: str, text: str) -> None:
    assert found(tmx(unit(en=segment, de="x"))) == [("x", text)]


def test_variants_of_one_language_are_paired_each_with_each() -> None:
    text = tmx(unit(en="a", en_GB="b", de="x", de_CH="y"))
    assert found(text) == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    many = [f'<tuv xml:lang="{lang}"><seg>{lang}{i}</seg></tuv>' for i in range(10) for lang in ("en", "de")]
    assert len(found(tmx("".join(many)))) == 100


@pytest.mark.parametrize(("english", "german", "rows"), [(101, 0, 0), (11, 10, 110), (1, 101, 101), (100, 100, 200)])
def test_a_unit_that_would_multiply_its_text_is_refused(english: int, german: int, rows: int) -> None:
    variants = ["en"] * english + ["de"] * german
    text = "".join(f'<tuv xml:lang="{lang}"><seg>{i}</seg></tuv>' for i, lang in enumerate(variants))
    with pytest.raises(ValueError, match=f"x.tmx, line 2: found .* in a unit, which make {rows} rows. Allowed: 100 v"):
        found(tmx(text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso-8859-1"])
def test_every_encoding_reads_alike(encoding: str) -> None:
    declared = "iso-8859-1" if encoding == "iso-8859-1" else encoding[:6].rstrip("-")
    text = tmx(unit(en="café", de="Straße"), head=f'<?xml version="1.0" encoding="{declared}"?>')
    assert found(text.encode(encoding)) == [("Straße", "café")]


def test_a_declaration_that_the_bytes_belie_is_passed_over_and_an_unknown_one_refused() -> None:
    assert found(tmx(unit(en="é", de="ß"), head='<?xml version="1.0" encoding="UTF-16"?>')) == [("ß", "é")]
    with pytest.raises(ValueError, match="x.tmx, line 1: no encoding 'utf-9'. Allowed: what Python knows"):
        found(tmx(head='<?xml version="1.0" encoding="utf-9"?>'))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"a\xed\xa0\x80b", "a\ufffd\ufffd\ufffdb"),
        (b"a\0\x01b", "a\ufffd\ufffdb"),
        (b"a\xef\xbf\xbfb", "a\ufffdb"),
        (b"a&#0;&#x1F;b", "a\ufffd\ufffdb"),
        (b"&#xD83D;&#xDE00;&#55357;&#56832;", "😀😀"),
        (b"&#xD83D;x&#xDE00;", "\ufffdx\ufffd"),
        (b"&#x110000;&#xFFFF;", "\ufffd\ufffd"),
        (b"a&nbsp;b&eacute;&nosuch;", "a\xa0bé&nosuch;"),
    ],
)
@pytest.mark.parametrize("doctype", ["", '<!DOCTYPE tmx SYSTEM "http://127.0.0.1:9/tmx14.dtd">'])
def test_what_xml_forbids_is_repaired(doctype: str, written: bytes, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmx(unit(en="@", de="x"), head=f'<?xml version="1.0"?>{doctype}').encode().replace(b"@", written)
    assert found(data) == [("x", text)]
    for block in (1, 3, 7):  # wherever a block ends
        monkeypatch.setattr(text_files, "BLOCK", block)
        assert found(data) == [("x", text)]


BOMB = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))


@pytest.mark.parametrize(
    "dtd",
    [
        f'<!DOCTYPE tmx [<!ENTITY a0 "ha">{BOMB}]>',
        '<!DOCTYPE tmx [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE tmx [<!ENTITY % a9 SYSTEM "http://127.0.0.1:9/x.dtd"> %a9;]>',
    ],
)
def test_entity_declarations_are_refused(dtd: str) -> None:
    with pytest.raises(ValueError, match="x.tmx, line 2: found the declaration of an entity, 'a.', which can unfold"):
        found(tmx(unit(en="&a9;", de="x"), head=f'<?xml version="1.0"?>\n{dtd}'))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (tmx(unit(en="a", de="b"))[:-20], "x.tmx, line 2: not well-formed XML: (no element found|unclosed token)"),
        (tmx(unit(en="a\n\n<b>", de="b")), "x.tmx, line 4: not well-formed XML: mismatched tag. Needed: a whole"),
        ("", "x.tmx, line 1: not well-formed XML: no element found"),
        ("<html></html>", "x.tmx: found no element <tmx>. Needed: a file in TMX"),
        (tmx(unit(en="<hi>" * 300, de="x")), "x.tmx, line 2: found elements 201 deep. Allowed: 200"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        found(text)


@pytest.mark.parametrize("place", ["en='{}'", "tag='{}'", "<!--{}-->"])
def test_absurd_lengths_are_refused_in_bounded_memory(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_xml, "LONGEST", 1 << 20)
    monkeypatch.setattr("pipelines.sources.tmx.LONGEST", 1 << 20)
    monkeypatch.setattr(text_files, "BLOCK", 1 << 16)
    long = "x" * (4 << 20)
    text = {
        "en='{}'": tmx(unit(en=long, de="x")),
        "tag='{}'": tmx(unit(en=f"<ph x='{long}'/>", de="x")),
        "<!--{}-->": tmx(unit(en=f"<!--{long}-->", de="x")),
    }[place]
    with pytest.raises(ValueError, match=r"found a (segment|tag or comment) of more than 1,048,576 (characters|bytes)"):
        found(text)


def test_memory_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 1 << 14)

    def peak(units: int) -> int:
        stream = io.BytesIO(tmx(*[unit(en="one two three", de="eins zwei drei")] * units).encode())
        tracemalloc.start()
        count = sum(len(src) for src, _ in read_tmx(stream, EN_DE, "x.tmx"))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == units
        return top

    assert peak(8_000) < 1.2 * peak(2_000)


def test_files_archives_and_globs_are_read_in_order(tmp_path: Path) -> None:
    for i, (name, pack) in enumerate(
        {
            "a.tmx": lambda data: data,
            "b.tmx.gz": gzip.compress,
            "c.zip": lambda data: packed("../../d.tmx", data),
            "d.zip": lambda data: packed("x.tmx.gz", gzip.compress(data)),
            "e.tmx": gzip.compress,  # what it is is seen from its bytes
        }.items()
    ):
        (tmp_path / name).write_bytes(pack(tmx(unit(en=f"n{i}", de=f"{name}\n {i}\t\u2028x ")).encode()))
    source = Tmx(corpus="acme", version="v2", paths=[f"{tmp_path}/*.*", f"{tmp_path}/a.tmx"])
    assert rows(source) == [
        ("a.tmx  0  x", "n0"),
        ("b.tmx.gz  1  x", "n1"),
        ("c.zip  2  x", "n2"),
        ("d.zip  3  x", "n3"),
        ("e.tmx  4  x", "n4"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tmx", "b.tmx.gz", "c.zip", "d.zip", "e.tmx"]
    assert not (tmp_path.parent.parent / "d.tmx").exists()


@pytest.mark.parametrize("size", [1, 7, 20_000])
def test_batches_are_the_same_however_the_file_is_cut(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "ROWS", 7)
    monkeypatch.setattr(text_files, "BLOCK", size)
    (tmp_path / "a.tmx").write_text(tmx(*(unit(en=f"e{i}", de=f"d{i}") for i in range(23))))
    batches = list(Tmx(corpus="a", paths=[f"{tmp_path}/a.tmx"]).fetch(EN_DE, HOME))
    assert [batch.num_rows for batch in batches] == [7, 7, 7, 2]
    assert pa.Table.from_batches(batches)["src"].to_pylist() == [f"d{i}" for i in range(23)]


def test_bombs_are_refused(tmp_path: Path) -> None:
    bomb = (tmx() + " " * (40 << 20)).encode()
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(bomb))
    (tmp_path / "b.zip").write_bytes(packed("b.tmx", bomb))
    for name, where in (("a.tmx.gz", r"a\.tmx\.gz"), ("b.zip", r"b\.zip, 'b\.tmx'")):
        with pytest.raises(
            ValueError, match=rf"{where}: unpacks [\d,]+ bytes to [\d,]+ or more. Allowed: at most 200 t"
        ):
            rows(Tmx(corpus="a", paths=[f"{tmp_path}/{name}"]))


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.tmx.gz", gzip.compress(MANY.encode(), mtime=0)[:-40], "not a sound archive"),
        ("a.zip", packed("a.tmx", MANY.encode())[:-30], "not a sound archive"),
        ("a.zip", packed("a.tmx", MANY.encode(), 0).replace(b"eins", b"zwei"), "not a sound archive: Bad CRC-32"),
        (
            "a.zip",
            packed("a.tmx", MANY.encode(), zipfile.ZIP_LZMA),
            "'a.tmx' is encrypted, or packed by another method",
        ),
        ("a.zip", packed("a.tmx", MANY.encode())[40:].join([b"PK\3\4", b""]), "not a sound archive: "),
        ("a.zip", packed("a.txt", b""), r"a.zip: found 'a.txt'. Needed: members that end in .tmx, .tmx.gz"),
    ],
)
def test_a_damaged_archive_is_named(name: str, data: bytes, error: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=error):
        rows(Tmx(corpus="a", paths=[f"{tmp_path}/{name}"]))


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed("a.tmx", MANY.encode()))
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(
        ValueError, match="'a.tmx' is encrypted, or packed by another method. Needed: a whole .gz, .bz2, .xz or"
    ):
        rows(Tmx(corpus="a", paths=[f"{tmp_path}/a.zip"]))


def test_names_of_languages_can_be_said_and_are_asked_for(tmp_path: Path) -> None:
    text = tmx(unit(en="a") + '<tuv xml:lang="ENGLISH"><seg>b</seg></tuv><tuv xml:lang="x-Alman"><seg>c</seg></tuv>')
    (tmp_path / "a.tmx").write_text(text)
    settings = {"corpus": "a", "paths": [f"{tmp_path}/a.tmx"]}
    with pytest.raises(ValueError, match="languages that are not known: ENGLISH, x-Alman. Allowed: codes of ISO 639"):
        rows(Tmx.model_validate(settings))
    named = Tmx.model_validate({**settings, "languages": {"x-alman": "de", "English": "en"}})
    assert rows(named) == [("c", "a"), ("c", "b")]
    with pytest.raises(ValueError, match="language 'Alman': not a known language"):
        Tmx.model_validate({**settings, "languages": {"x": "Alman"}})


def test_the_pin_is_the_content_and_provenance_what_the_recipe_states(tmp_path: Path) -> None:
    file = tmp_path / "a.tmx"
    file.write_text(MANY)
    source = build(
        "pipelines.sources",
        {"tmx": {"paths": [str(file)], "corpus": "acme", "version": "3", "licence": "CC0-1.0", "cite": "Acme 2026"}},
    )
    assert isinstance(source, Tmx)
    before = source.pin(EN_DE, HOME)
    known = source.provenance(EN_DE, HOME)["acme/3"]
    assert (known["licence"], known["citation"], known["url"]) == ("CC0-1.0", "Acme 2026", "")
    assert known["files"] == [{"url": str(file), "sha256": before[0]}]
    file.write_text(MANY.replace("eins", "zwei"))
    assert source.pin(EN_DE, HOME) != before
    assert source.corpora_named == ["acme/3"]
    assert Tmx(corpus="a", paths=[str(file)]).provenance(EN_DE, HOME)["a/local"]["licence"] == "not stated"


def test_a_missing_file_names_the_setting() -> None:
    with pytest.raises(ValueError, match="source 'tmx', paths: 'nowhere/x.tmx': found no such file below the working"):
        Tmx(corpus="a", paths=["nowhere/x.tmx"]).pin(EN_DE, HOME)
