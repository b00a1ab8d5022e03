import struct
from pathlib import Path

import polib
import pytest

from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.sources.gettext import Gettext

SIMPLE = '\n\nmsgid "Open"\nmsgstr "{0}"\n'
ARABIC = "nplurals=6; plural=(n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5);"
RUSSIAN = "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);"
CZECH = "nplurals=3; plural=(n==1) ? 0 : (n>=2 && n<=4) ? 1 : 2;"


def po(entries: str, lang: str = "", plural: str = "nplurals=2; plural=(n != 1);", charset: str = "UTF-8") -> str:
    return (
        f'msgid ""\nmsgstr ""\n"Language: {lang}\\n"\n"Content-Type: text/plain; charset={charset}\\n"\n'
        f'"Plural-Forms: {plural}\\n"\n\n{entries}'
    )


def plural(*forms: str) -> str:
    texts = "".join(f'msgstr[{i}] "{form}"\n' for i, form in enumerate(forms))
    return f'msgid "one file"\nmsgid_plural "%d files"\n{texts}'


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


def rows(root: Path, pair: str, **settings: object) -> list[tuple[str, str]]:
    source = Gettext.model_validate({"corpus": "acme", "root": str(root), **settings})
    batches = list(source.fetch(Pair.parse(pair), root))
    assert all(batch.schema == BITEXT for batch in batches)
    return [(row["src"], row["tgt"]) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("name", "header", "lang"),
    [
        ("locale/de/LC_MESSAGES/app.po", "", "deu_Latn"),
        ("locale/ast/LC_MESSAGES/app.po", "de", "ast_Latn"),
        ("po/de.po", "", "deu_Latn"),
        ("po/zh_CN.po", "", "zho_Hans"),
        ("po/zh_Hant_TW.po", "", "zho_Hant"),
        ("sr@latin.po", "", "srp_Latn"),
        ("po/sr.po", "", "srp_Cyrl"),
        ("de_DE.UTF-8/app.po", "", "deu_Latn"),
        ("app-pt_BR.po", "", "por_Latn"),
        ("messages.th.po", "", "tha_Thai"),
        ("fr/app.po", "", "fra_Latn"),  # app is a language, too: Apma
        ("app.po", "ja", "jpn_Jpan"),
        ("po/hsb.po", "", "hsb_Latn"),
        ("x/hsb/app.po", "hsb", "hsb_Latn"),
    ],
)
def test_the_place_of_a_catalogue_or_its_header_says_its_language(
    name: str, header: str, lang: str, tmp_path: Path
) -> None:
    assert rows(tree(tmp_path, {name: po(SIMPLE.format("T"), header)}), f"{lang}-eng_Latn") == [
        (("T", "Open") if lang < "eng" else ("Open", "T"))
    ]


def test_a_catalogue_without_a_language_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    tree(tmp_path, {"german/messages.po": po(SIMPLE.format("Öffnen"))})
    with pytest.raises(
        ValueError, match=r"german/messages.po: its language is not known. Allowed: folders as in de/LC_"
    ):
        rows(tmp_path, "en-de")
    assert rows(tmp_path, "en-de", languages={"German": "de"}) == [("Öffnen", "Open")]


def test_fuzzy_obsolete_and_untranslated_entries_stay_out(tmp_path: Path) -> None:
    entries = (
        'msgid "a"\nmsgstr "A"\n\n#, fuzzy\nmsgid "b"\nmsgstr "B"\n\n#~ msgid "c"\n#~ msgstr "C"\n\n'
        'msgid "d"\nmsgstr ""\n\nmsgid "e"\nmsgstr " "\n\n#, python-format\n#| msgid "old"\nmsgid ""\n"f "\n"%d\\n"\n'
        'msgstr "F \\"%d\\"\\n"\n'
    )
    assert rows(tree(tmp_path, {"de.po": po(entries)}), "en-de") == [("A", "a"), ('F "%d"', "f %d")]


@pytest.mark.parametrize(
    ("lang", "rule", "forms", "singular", "many"),
    [
        ("de", "nplurals=2; plural=n != 1;", ["0", "1"], "0", "1"),
        ("fr", "nplurals=2; plural=n > 1;", ["0", "1"], "0", "1"),
        ("ru", RUSSIAN, ["0", "1", "2"], "0", "2"),
        ("cs", CZECH, ["0", "1", "2"], "0", "2"),
        ("ar", ARABIC, ["0", "1", "2", "3", "4", "5"], "1", "3"),
        ("ja", "nplurals=1; plural=0;", ["0"], None, "0"),
        ("zh_CN", "nplurals=INTEGER; plural=EXPRESSION;", ["0", "1"], "0", "1"),
    ],
)
def test_plural_forms_pair_by_number_not_by_place(
    lang: str, rule: str, forms: list[str], singular: str | None, many: str, tmp_path: Path
) -> None:
    tree(tmp_path, {f"{lang}.po": po(plural(*forms), plural=rule)})
    expected = [{"one file", singular}] * (singular is not None) + [{"%d files", many}]
    assert [set(row) for row in rows(tmp_path, f"{lang}-en")] == expected


def test_two_translations_meet_through_msgid_context_and_catalogue(tmp_path: Path) -> None:
    def menu(text: str) -> str:
        return f'msgctxt "menu"\nmsgid "Open"\nmsgstr "{text}"\n\n'

    tree(
        tmp_path,
        {
            "locale/de/LC_MESSAGES/app.po": po(menu("Öffnen") + SIMPLE.format("Offen") + plural("eine", "%d Dateien")),
            "locale/ru/LC_MESSAGES/app.po": po(
                SIMPLE.format("Открыто") + menu("Открыть") + plural("%d файл", "%d файла", "%d файлов"), plural=RUSSIAN
            ),
            "locale/ja/LC_MESSAGES/app.po": po(plural("%dファイル") + menu("開く"), plural="nplurals=1; plural=0;"),
            "locale/ja/LC_MESSAGES/other.po": po(SIMPLE.format("空き")),
        },
    )
    assert rows(tmp_path, "de-ru") == [
        ("Öffnen", "Открыть"),
        ("Offen", "Открыто"),
        ("eine", "%d файл"),
        ("%d Dateien", "%d файлов"),
    ]
    assert rows(tmp_path, "de-ja") == [("Öffnen", "開く"), ("%d Dateien", "%dファイル")]
    assert rows(tmp_path, "ja-en") == [("%d files", "%dファイル"), ("Open", "開く"), ("Open", "空き")]
    assert rows(tmp_path, "de-sw") == []


def test_msgids_may_be_keys_or_another_language(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {"en.po": po(SIMPLE.format("Open it")), "de.po": po(SIMPLE.format("Öffnen") + SIMPLE.replace("Open", "Key"))},
    )
    assert rows(tmp_path, "en-de") == [("Öffnen", "Open it"), ("{0}", "Key")]
    assert rows(tmp_path, "en-de", source_language=None) == [("Öffnen", "Open it")]
    tree(tmp_path, {"en_GB.po": po(SIMPLE.format("Again")), "en@quot.po": po(SIMPLE.format("Open’"))})
    assert rows(tmp_path, "en-de") == [("Öffnen", "Open it"), ("{0}", "Key")]
    assert rows(tmp_path, "en-de", source_language=None) == [("Öffnen", "Open it"), ("Öffnen", "Again")]
    assert rows(tmp_path, "fr-de", source_language="fr") == [("Öffnen", "Open"), ("{0}", "Key")]


def test_mo_files_read_like_the_po_they_were_made_from(tmp_path: Path) -> None:
    text = po(
        'msgctxt "menu"\nmsgid "Open"\nmsgstr "Открыть"\n\n' + plural("%d файл", "%d файла", "%d файлов"), "ru", RUSSIAN
    )
    tree(tmp_path, {"po/ru/app.po": text})
    (tmp_path / "mo" / "ru").mkdir(parents=True)
    polib.pofile(text).save_as_mofile(str(tmp_path / "mo" / "ru" / "app.mo"))
    wanted = [("Open", "Открыть"), ("one file", "%d файл"), ("%d files", "%d файлов")]
    assert rows(tmp_path / "po", "en-ru") == sorted(rows(tmp_path / "mo", "en-ru"), key=wanted.index) == wanted
    polib.pofile(text).save_as_mofile(str(tmp_path / "po" / "ru" / "app.mo"))
    assert rows(tmp_path / "po", "en-ru") == wanted, "a .mo beside its .po was read as well"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (po(SIMPLE.format("Straße"), charset="ISO-8859-1").encode("iso-8859-1"), "Straße"),
        (po(SIMPLE.format("Straße"), charset="CHARSET").encode(), "Straße"),
        (b"\xef\xbb\xbf" + po(SIMPLE.format("Straße")).encode(), "Straße"),
        (po(SIMPLE.format("a@b")).encode().replace(b"@", b"\xff"), "a\ufffdb"),
        (po(SIMPLE.format("a\u2028b\0c")).encode(), "a b c"),
        (po(SIMPLE.format("a")).replace("\n", "\r\n").encode(), "a"),
    ],
)
def test_bytes_of_any_kind_are_read(text: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "de.po").write_bytes(text)
    assert rows(tmp_path, "en-de") == [(expected, "Open")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (po('msgid "a"\nmsgstr b\n'), r"de.po: not a PO file: \(line 8\): 'msgstr b'. Allowed: comments, msgctxt"),
        (po('msgid "a"\nmsgstr "b'), r"de.po: not a PO file: \(line 8\): "),
        (po('msgid "a"\nmsgid "b"\nmsgstr "c"\n'), r"de.po: not a PO file: .*line 8"),
        (
            po(plural("a", "b"), plural="nplurals=2; plural=n ** 9;"),
            r"de.po: found Plural-Forms 'n \*\* 9'. Allowed: an",
        ),
        (po(plural("a", "b"), plural="nplurals=2; plural=__import__('os');"), "de.po: found Plural-Forms"),
        (po(plural("a", "b"), plural="nplurals=2; plural=1/(n-1);"), "de.po: found Plural-Forms"),
    ],
)
def test_a_broken_po_is_named_with_its_line(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=error):
        rows(tree(tmp_path, {"de.po": text}), "en-de")


def test_a_broken_mo_is_named(tmp_path: Path) -> None:
    whole = polib.pofile(po(SIMPLE.format("Öffnen"))).to_binary()
    count, ids, _ = struct.unpack_from("<3I", whole, 8)
    far = bytearray(whole)
    struct.pack_into("<I", far, ids + 8 * (count - 1), 1 << 30)
    many = bytearray(whole)
    struct.pack_into("<I", many, 8, 1 << 30)
    for data in (whole[:20], whole[:-4], bytes(far), bytes(many)):
        (tmp_path / "de.mo").write_bytes(data)
        with pytest.raises(ValueError, match="de.mo: not a whole MO file: .*Needed: what msgfmt writes"):
            rows(tmp_path, "en-de")


def test_only_catalogues_of_the_pair_are_pinned(tmp_path: Path) -> None:
    tree(tmp_path, {"de.po": po(SIMPLE.format("a")), "fr.po": po(SIMPLE.format("b")), "en.po": po("")})
    source = Gettext(corpus="acme", root=str(tmp_path))
    en_de, en_fr = Pair.parse("en-de"), Pair.parse("en-fr")
    before = source.pin(en_de, tmp_path), source.pin(en_fr, tmp_path)
    (tmp_path / "fr.po").write_text(po(SIMPLE.format("changed")))
    assert source.pin(en_de, tmp_path) == before[0]
    assert source.pin(en_fr, tmp_path) != before[1]
    files = source.provenance(en_de, tmp_path)["acme/local"]["files"]
    assert [Path(file["url"]).name for file in files] == ["de.po", "en.po"]
    assert source.settings()["gettext"]["source_language"] == "eng_Latn"


def test_a_folder_without_catalogues_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source 'gettext', root: .*found no such file"):
        rows(tmp_path, "en-de")
