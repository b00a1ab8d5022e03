import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.sources.xliff import Xliff

EN_DE = Pair.parse("en-de")
OLD = "urn:oasis:names:tc:xliff:document:1.2"
NEW = "urn:oasis:names:tc:xliff:document:2.0"


def old(*units: str, langs: str = 'source-language="en-US" target-language="de"') -> str:
    body = "".join(f'<trans-unit id="{i}">{unit}</trans-unit>' for i, unit in enumerate(units))
    return f'<xliff version="1.2" xmlns="{OLD}"><file {langs}><body><group>{body}</group></body></file></xliff>'


def new(*units: str, langs: str = 'srcLang="en" trgLang="de"') -> str:
    body = "".join(f'<unit id="{i}">{unit}</unit>' for i, unit in enumerate(units))
    return (
        f'<xliff version="2.1" {langs} xmlns="{NEW}" xmlns:m="urn:m"><file id="f"><group>{body}</group></file></xliff>'
    )


def both(source: str, target: str) -> str:
    return f"<source>{source}</source><target>{target}</target>"


def rows(tmp_path: Path, text: str, pair: Pair = EN_DE, **settings: list[str]) -> list[tuple[str, str]]:
    (tmp_path / "a.xlf").write_text(text, encoding="utf-8")
    source = Xliff.model_validate({"corpus": "acme", "paths": [f"{tmp_path}/a.xlf"], **settings})
    batches = list(source.fetch(pair, tmp_path))
    assert all(batch.schema == BITEXT for batch in batches)
    return [(row["src"], row["tgt"]) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a <g id='1'>b <g id='2'>c</g></g>", "a b c"),
        ("a<x id='1'/>b<bx id='2'/><ex id='2'/>", "ab"),
        ("one<x id='1' ctype='lb'/>two", "one two"),
        ("<bpt id='1'>&lt;b></bpt>bold<ept id='1'>&lt;/b><sub>no</sub></ept>", "bold"),
        ("<ph id='1'>%s</ph> <it id='2'>[</it>ok", "ok"),
        ("<mrk mtype='seg' mid='1'>one.</mrk> <mrk mtype='seg' mid='2'>two.</mrk>", "one. two."),
    ],
)
def test_inline_elements_of_1_2(source: str, text: str, tmp_path: Path) -> None:
    assert rows(tmp_path, old(both(source, "x"))) == [("x", text)]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a <pc id='1'>b <pc id='2'>c</pc></pc>", "a b c"),
        ("a<ph id='1'/>b<sc id='2'/><ec startRef='2'/>", "ab"),
        ("one<ph id='1' subType='xlf:lb'/>two", "one two"),
        ("<mrk id='1'>ไทย</mrk><sm id='2'/>漢字<em startRef='2'/>", "ไทย漢字"),
        ("a<cp hex='0001'/>b", "a b"),
    ],
)
def test_inline_elements_of_2(source: str, text: str, tmp_path: Path) -> None:
    assert rows(tmp_path, new(f"<segment>{both(source, 'x')}</segment>")) == [("x", text)]


def test_only_what_is_translated_counts(tmp_path: Path) -> None:
    text = old(
        both("one", "eins"),
        "<source>two</source>",
        both("three", "  "),
        both("four", "vier") + f"<alt-trans>{both('no', 'nein')}</alt-trans><note>note</note>",
        f"<seg-source>no</seg-source>{both('five', 'fünf')}",
    ).replace('<trans-unit id="4">', '<trans-unit id="4" translate="no">')
    assert rows(tmp_path, text) == [("eins", "one"), ("vier", "four")]
    text = new(
        f"<m:matches><m:match>{both('no', 'nein')}</m:match></m:matches><originalData><data id='1'>no</data>"
        f"</originalData><segment>{both('one', 'eins')}</segment><ignorable>{both(' ', ' ')}</ignorable>"
        f"<segment>{both('two', 'zwei')}</segment>",
        "<segment><source>three</source></segment><segment><source>four</source><target/></segment>",
    )
    assert rows(tmp_path, text) == [("eins", "one"), ("zwei", "two")]
    barred = text.replace('<file id="f">', '<file id="f" translate="no">').replace('id="0"', 'id="0" translate="yes"')
    assert rows(tmp_path, barred) == [("eins", "one"), ("zwei", "two")]
    assert rows(tmp_path, text.replace('<file id="f">', '<file id="f" translate="no">')) == []


def test_states_can_be_chosen(tmp_path: Path) -> None:
    stated = [
        '<source>a</source><target state="new">A</target>',
        '<source>b</source><target state="needs-translation">B</target>',
        '<source>c</source><target state="translated" state-qualifier="mt-suggestion">C</target>',
        '<source>d</source><target state="final">D</target>',
        "<source>e</source><target>E</target>",
    ]
    assert rows(tmp_path, old(*stated)) == [("C", "c"), ("D", "d"), ("E", "e")]
    assert rows(tmp_path, old(*stated), skip_states=["mt-suggestion", "final"]) == [("A", "a"), ("B", "b"), ("E", "e")]
    segments = [
        f'<segment state="initial">{both("a", "A")}</segment>',
        f'<segment state="reviewed" subState="acme:draft">{both("b", "B")}</segment>',
        f"<segment>{both('c', 'C')}</segment>",
    ]
    assert rows(tmp_path, new(*segments)) == [("B", "b"), ("C", "c")]
    assert rows(tmp_path, new(*segments), skip_states=["acme:draft"]) == [("A", "a"), ("C", "c")]


@pytest.mark.parametrize(
    ("langs", "pair", "expected"),
    [
        ('source-language="en" target-language="ar"', "ar-en", [("T", "S")]),
        ('source-language="ar" target-language="en"', "ar-en", [("S", "T")]),
        ('source-language="zh-TW" target-language="th"', "th-zh_TW", [("T", "S")]),
        ('source-language="zh-CN" target-language="th"', "th-zh_TW", []),
    ],
)
def test_the_file_says_its_languages(langs: str, pair: str, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    assert rows(tmp_path, old(both("S", "T"), langs=langs), Pair.parse(pair)) == expected
    newer = langs.replace("source-language", "srcLang").replace("target-language", "trgLang")
    assert rows(tmp_path, new(f"<segment>{both('S', 'T')}</segment>", langs=newer), Pair.parse(pair)) == expected


def test_a_target_may_name_its_language_itself(tmp_path: Path) -> None:
    unit = '<source>S</source><target xml:lang="de">T</target>'
    assert rows(tmp_path, old(unit, langs='source-language="en"')) == [("T", "S")]
    with pytest.raises(
        ValueError, match="a.xlf, line 1: found a target, but no language of the target. Allowed: files"
    ):
        rows(tmp_path, old(both("S", "T"), langs='source-language="en"'))


def test_a_broken_or_other_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.xlf, line 1: not well-formed XML: (no element found|unclosed token)"):
        rows(tmp_path, old(both("a", "b"))[:-12])
    with pytest.raises(ValueError, match="a.xlf: found no element <xliff>"):
        rows(tmp_path, "<tmx/>")
    with pytest.raises(ValueError, match="line 1: found the declaration of an entity, 'a'"):
        rows(tmp_path, f'<!DOCTYPE xliff [<!ENTITY a "b">]>{old(both("&a;", "x"))}')


def test_packed_files_of_all_endings_are_read(tmp_path: Path) -> None:
    for i, name in enumerate(("a.xlf", "b.xliff.gz", "c.sdlxliff")):
        data = old(both(f"s{i}", f"t{i}")).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    source = Xliff(corpus="acme", paths=[f"{tmp_path}/*"])
    (batch,) = source.fetch(EN_DE, tmp_path)
    assert batch["tgt"].to_pylist() == ["s0", "s1", "s2"]
    assert set(batch["corpus"].to_pylist()) == set(source.provenance(EN_DE, tmp_path)) == {"acme/local"}


FR = '<target xml:lang="fr">'


@pytest.mark.parametrize("shape", [old, new])
def test_the_language_of_a_target_is_that_of_its_unit_only(shape: Callable[..., str], tmp_path: Path) -> None:
    units = [
        both("one", "eins"),
        both("two", "deux").replace("<target>", FR),
        both("three", "drei"),
        both("four", "vier"),
    ]
    text = shape(*(f"<segment>{unit}</segment>" if shape is new else unit for unit in units))
    assert rows(tmp_path, text) == [("eins", "one"), ("drei", "three"), ("vier", "four")]
    assert rows(tmp_path, text, Pair.parse("en-fr")) == [("two", "deux")]
    assert rows(tmp_path, text, Pair.parse("de-fr")) == []


def test_the_language_of_a_source_is_that_of_its_unit_only(tmp_path: Path) -> None:
    text = old(both("un", "eins").replace("<source>", '<source xml:lang="fr">'), both("two", "zwei"))
    assert rows(tmp_path, text) == [("zwei", "two")]
    assert rows(tmp_path, text, Pair.parse("fr-de")) == [("eins", "un")]


def test_alternatives_have_languages_of_their_own(tmp_path: Path) -> None:
    other = '<alt-trans xml:lang="fr"><source>x</source><target xml:lang="fr">y</target></alt-trans>'
    text = old(f"<source>one</source>{other}<target>eins</target>{other}", both("two", "zwei"))
    assert rows(tmp_path, text) == [("eins", "one"), ("zwei", "two")]
    assert rows(tmp_path, text, Pair.parse("en-fr")) == []
    match = '<m:matches><m:match ref="#1"><source>x</source><target xml:lang="fr">y</target></m:match></m:matches>'
    text = new(f"{match}<segment>{both('one', 'eins')}</segment>")
    assert rows(tmp_path, text) == [("eins", "one")]


def test_each_file_of_1_2_has_its_languages(tmp_path: Path) -> None:
    def file(langs: str, *units: str) -> str:
        return f"<file {langs}><body>{''.join(f'<trans-unit>{unit}</trans-unit>' for unit in units)}</body></file>"

    files = [
        file('source-language="en" target-language="de"', both("a", "A"), both("b", "B").replace("<target>", FR)),
        file('source-language="en" target-language="fr"', both("c", "C")),
        file('source-language="en"', both("d", "D").replace("<target>", FR), "<source>e</source>"),
        file('source-language="de" target-language="en"', both("F", "f")),
    ]
    text = f'<xliff version="1.2" xmlns="{OLD}">{"".join(files)}</xliff>'
    assert rows(tmp_path, text) == [("A", "a"), ("F", "f")]
    assert rows(tmp_path, text, Pair.parse("en-fr")) == [("b", "B"), ("c", "C"), ("d", "D")]
    for langs in ('source-language="en"', 'target-language="de"'):  # those of the file before do not count
        text = f'<xliff version="1.2" xmlns="{OLD}">{files[0]}{file(langs, both("x", "y"))}</xliff>'
        with pytest.raises(ValueError, match="found a target, but no language of the"):
            rows(tmp_path, text)
