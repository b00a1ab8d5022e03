"""Encodings, packed files, line ends and JSON, as every source, task and evaluation reads them."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import UserError
from pipelines.text import text_files
from pipelines.text.text_files import (
    check_sizes,
    decoded,
    file_lines,
    numbered_lines,
    objects,
    parse_json,
    streams,
    text_blocks,
    unpacked_name,
)

SENTENCES = {
    "en": "The baker opens his shop at seven.\nWe waited until midnight.\n",
    "ru": "Пекарь открывает магазин в семь.\nМы ждали до полуночи.\n",
    "zh": "面包师七点开门。\n我们一直等到半夜。\n",
    "hi": "बेकर सात बजे दुकान खोलता है।\nहम आधी रात तक रुके।\n",
    "ar": "يفتح الخباز متجره في السابعة.\nانتظرنا حتى منتصف الليل.\n",
    "emoji": "😀 a😀\n😀\n",
}
BOMS = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
}  # fmt: skip
ZSTD = pa.Codec("zstd")
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: ZSTD.compress(data, asbytes=True),
}


def read(data: bytes, encoding: str | None = None, strict: bool = False) -> str:
    return "".join(decoded(io.BytesIO(data), "x.txt", encoding, strict=strict))


def lines(data: bytes) -> list[str]:
    return [line for _, line in numbered_lines(io.BytesIO(data), "x.txt")]


@pytest.mark.parametrize("text", SENTENCES.values(), ids=SENTENCES)
@pytest.mark.parametrize("encoding", BOMS)
@pytest.mark.parametrize("marked", [True, False])
def test_utf_is_recognised_with_and_without_a_byte_order_mark(encoding: str, text: str, marked: bool) -> None:
    for written in (text, text.replace("\n", "\r\n")):
        assert read(BOMS[encoding] * marked + written.encode(encoding)) == written


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("encoding", BOMS)
def test_characters_go_over_blocks(encoding: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(SENTENCES.values())
    data = io.BytesIO(BOMS[encoding] + text.encode(encoding))
    head = data.read(8)  # the mark is looked for in what comes first
    monkeypatch.setattr(text_files, "BLOCK", block)
    assert "".join(decoded(data, "x.txt", head=head)) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        (b"a\0b c d e f g h i j\n", "a\0b c d e f g h i j\n"),  # one zero byte is no encoding
        (b"a\xffb\n" + "ä".encode(), "a\ufffdb\nä"),  # one wrong byte is none either
        ("äöü".encode() + b"\xff\xfe\xfd\n", "äöü\ufffd\ufffd\ufffd\n"),
        ("ä\ufffd\ufffd\ufffd".encode() + b"\xff", "ä\ufffd\ufffd\ufffd\ufffd"),
        (b"a \xed\xa0\xbd b \xed\xb8\x80", "a \ufffd\ufffd\ufffd b \ufffd\ufffd\ufffd"),  # raw surrogates
        (b"\xff\xfeA\0\x3d\xd8B\0", "A\ufffdB"),  # half a surrogate pair of UTF-16
        ("é".encode()[:1], "\ufffd"),  # cut off
    ],
)
def test_single_bytes_that_are_wrong_are_replaced(data: bytes, text: str) -> None:
    assert read(data) == text


@pytest.mark.parametrize(
    ("encoding", "named", "text"),
    [
        ("cp1252", "windows-1252", "Die Jahre – hart für das Dorf, größere Bäcker öffnen.\nÜber den Fluß\n"),
        ("cp1252", "windows-1252", "I don’t think the baker’s shop opens.\nNous étions là, l’été dernier.\n"),
        ("cp1250", "windows-1250", "Zażółć gęślą jaźń. Moja siostra kupiła trzy nowe książki.\n"),
        ("cp1251", "windows-1251", SENTENCES["ru"]),
        ("koi8_r", "koi8-r", SENTENCES["ru"]),
        ("cp1253", "windows-1253", "Ο φούρναρης ανοίγει το μαγαζί του στις επτά.\n"),
        ("cp1256", "windows-1256", "يفتح الخباز متجره في السابعة صباحا\n"),
        ("gb18030", "gb18030", SENTENCES["zh"]),
        ("shift_jis", "shift-jis", "パン屋は七時に店を開けます。妹は新しい本を三冊買いました。\n"),
        ("euc_kr", "euc-kr", "빵집은 일곱 시에 문을 엽니다. 언니는 새 책 세 권을 샀다.\n"),
    ],
)
def test_another_encoding_is_named_with_line_and_byte(encoding: str, named: str, text: str) -> None:
    data = b"one\r\ntwo\r\n" + text.encode(encoding)
    with pytest.raises(
        UserError, match=rf"x.txt, line 3: byte 0x\w\w at byte \d+ is not UTF-8; .* looks like {named}\."
    ):
        read(data)
    assert read(data, encoding) == "one\r\ntwo\r\n" + text
    assert "\ufffd" in read(data, "utf-8")


def test_the_place_of_a_wrong_byte_is_that_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 4)
    with pytest.raises(UserError, match=r"x.txt, line 4: byte 0xFC at byte 12 is not UTF-8"):
        read(b"a\nbcd\nefg\n\x61\xfc\xe4\xf6\n")
    with pytest.raises(UserError, match=r"x.txt, line 2: byte 0xFF at byte 6 is not UTF-8"):
        read("ä\r\na\xff".encode()[:-2] + b"\xff", strict=True)


@pytest.mark.parametrize(
    "data", [b"\0" * 100, bytes(range(256)) * 4, b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0\xb8" + b"\0" * 60]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"x.txt.*(no byte order mark; it is no UTF-8|is not UTF-8)"):
        read(data)


def test_a_tar_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as package:
        package.add(__file__, "a.txt")
    with pytest.raises(UserError, match=r"a.tar.gz: a tar archive. Expected: a text file. Fix: unpack it"):
        list(file_lines(str(tmp_path / "a.tar.gz")))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\r", [""]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\ntwo\n", ["one", "two"]),
        (b"one\rtwo\rthree", ["one", "two", "three"]),
        (b"one\rtwo\r", ["one", "two"]),
        (b"\r\rone\r", ["", "", "one"]),
        (b"the\rshop\nthe door\n", ["the shop", "the door"]),
        (b"the\rshop\r\nthe door\r\n", ["the shop", "the door"]),
        (b"one\r\r\ntwo\r\r\n", ["one ", "two "]),
        (b"one\v\f\x1c\0two\xe2\x80\xa8three\n", ["one\v\f\x1c\0two\u2028three"]),
        ("don\x92t \x85\nhe\x85said\n".encode(), ["don’t …", "he said"]),
    ],
)
def test_lines_end_alike_in_all_files(data: bytes, found: list[str]) -> None:
    assert lines(data) == found


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ends = draw.choice([("\n",), ("\r\n", "\n"), ("\r",), ("\n", "\r", "\r\n", "\x92")])
        text = "".join(draw.choice(["a", "ß", "中", "😀", *ends]) for _ in range(draw.randrange(30)))
        data = text.encode()
        monkeypatch.setattr(text_files, "BLOCK", 1 << 20)
        whole = lines(data)
        monkeypatch.setattr(text_files, "BLOCK", draw.randrange(1, 9))
        assert lines(data) == whole, text
        if "\n" in text:
            expected = text.replace("\r\n", "\n").replace("\r", " ").replace("\x92", "’")
        else:
            expected = text.replace("\r", "\n").replace("\x92", "’")
        assert whole == expected.removesuffix("\n").split("\n")[: 0 if not text else None], text


def test_long_lines_are_refused_and_long_mac_files_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 8)
    with pytest.raises(UserError, match="x.txt: found a line of more than 10 characters. Allowed: shorter ones"):
        list(text_blocks(io.BytesIO(b"a" * 30 + b"\n"), "x.txt", longest=10))
    text = "".join(text_blocks(io.BytesIO(b"one\rtwo\r" * 10), "x.txt", longest=10))
    assert text == "one\ntwo\n" * 10


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@pytest.mark.parametrize("name", ["{}", "plain"])
def test_packed_files_are_read_by_their_bytes(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    text = "".join(SENTENCES.values())
    expected = [line for line in text.split("\n") if line]
    path = tmp_path / name
    for encoding in ("utf-8", "utf-16"):
        path.write_bytes(
            pack(text[:20].encode(encoding)) + pack(text[20:].encode(encoding)[2 * (encoding != "utf-8") :])
        )
        assert [line for _, line in file_lines(str(path))] == expected  # also of two streams, one after the other
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as package:
        package.writestr("b.txt", "b\n")
        package.writestr("a.txt.x", pack(b"a\n"))
    assert list(file_lines(str(tmp_path / "a.zip"))) == [
        (f"{tmp_path}/a.zip, 'a.txt.x', line 1", "a"), (f"{tmp_path}/a.zip, 'b.txt', line 1", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_damaged_files_are_one_sentence_with_the_file(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = pack(random.Random(1).randbytes(3000).hex().encode())
    damaged = {"cut": data[:-20], "half": data[: len(data) // 2], "head": data[:11]}
    if pack is not PACK["zst"]:  # written here without a checksum
        damaged["byte"] = data[:1500] + bytes([data[1500] ^ 0xFF]) + data[1501:]
    for name, content in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: not a sound archive: .* Needed: a whole .gz, .bz2, .xz or .zst"):
            list(file_lines(str(path)))


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_bombs_are_refused(tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "SMALL", 1 << 16)
    (tmp_path / "a").write_bytes(pack(b"a\n" * (8 << 20)))
    with pytest.raises(
        UserError, match=r"/a: unpacks [\d,]+ bytes to [\d,]+ or more. Allowed: at most 200 times as many"
    ):
        list(file_lines(str(tmp_path / "a")))


def test_zip_files_without_members_or_of_overlapping_ones_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(UserError, match="a.zip: found nothing. Needed: members that end in"):
        list(streams(str(tmp_path / "a.zip"), (".txt",)))
    members = []
    for number in range(100):  # each a hundred times its packed size, which all of them share
        member = zipfile.ZipInfo(f"{number}.txt")
        member.header_offset, member.compress_size, member.file_size = 50, 1 << 20, 100 << 20
        members.append(member)
    check_sizes("a.zip", members[:2])
    with pytest.raises(UserError, match=r"^a.zip: unpacks 1,048,626 bytes to 10,485,760,000 or more"):
        check_sizes("a.zip", members)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a.tsv", "a.tsv"), ("A.TSV.GZ", "a.tsv"), ("b.zip, 'x.csv.xz'", "b.zip, 'x.csv"), ("a.csv.zst", "a.csv")],
)
def test_names_without_what_packs_them(name: str, plain: str) -> None:
    assert unpacked_name(name) == plain


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"a\udc00b"', "a\ufffdb"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\ud83d\ud83d\ude00\ude00"', "\ufffd😀\ufffd"),
        (r'"\\ud83d"', r"\ud83d"),
        (r'{"\udfff": ["\ud800", {"a": "\uDBFF"}]}', {"\ufffd": ["\ufffd", {"a": "\ufffd"}]}),
        (r'["\udfff", 1, null, 2.5]', ["\ufffd", 1, None, 2.5]),
        (r'"don\u0092t"', "don’t"),
        ('"don\x92t"', "don’t"),
    ],
)  # fmt: skip
def test_texts_of_json_are_sound(written: str, value: object) -> None:
    assert parse_json("x", written) == value
    json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ["{", '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "", "[1,]"])
def test_what_is_no_json_is_named(text: str) -> None:
    with pytest.raises(UserError, match="x.jsonl, line 7: not readable as JSON: "):
        parse_json("x.jsonl, line 7", text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_objects_of_lines_and_lists(end: str, encoding: str) -> None:
    text = end.join(["", '{"a": "x\u2028\u0085 y"}', "", '{"a": "\\ud83d"}', ""])
    found = list(objects("x", io.BytesIO(text.encode(encoding))))
    assert found == [("x, line 2", {"a": "x\u2028… y"}), ("x, line 4", {"a": "\ufffd"})]
    text = end.join(["[", '{"a": "b"},', '{"a": "c"}', "]"])
    found = list(objects("x", io.BytesIO(text.encode(encoding))))
    assert found == [("x, element 1", {"a": "b"}), ("x, element 2", {"a": "c"})]


def test_a_network_error_is_no_damaged_archive() -> None:
    with pytest.raises(OSError, match="^When reading"), text_files.reading("x"):
        raise OSError("When reading information for key: timeout")
