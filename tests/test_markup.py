import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.filters.markup import CODE, ROLES, TAGS, Markup, bare, may_contain_markup
from pipelines.schema import bitext_batch

TABLE = [  # text, score beside a plain side, verdict of the default
    ("Das ist ein Haus.", 0.0, True),
    ("a < b und c > d", 0.0, True),
    ("100 % sicher, 5 % mehr", 0.0, True),
    ("AT&T & Co.", 0.0, True),
    ("<b>Haus</b>", 7 / 11, False),
    ('<a href="x">ein großes Haus im alten Dorf</a>', 16 / 45, True),
    ("<br/>", 1.0, False),
    ("&nbsp;&#160;&#xA0;", 1.0, False),
    ("%(name)s", 1.0, False),
    ("%s von %1$s", 6 / 11, False),
    ("{0} und {name}", 9 / 14, False),
    ("${x}{{y}}%{z}{ -brand }", 1.0, False),
    ("https://example.org/a?b=1", 1.0, False),
    ("siehe www.example.org", 15 / 21, False),
    ("看https://example.org看看这个网站吧", 19 / 27, False),
    ("ดู <b>บ้านหลังใหญ่</b>", 7 / 22, True),
    ("<p>بيت</p>", 7 / 10, False),
    ("Die Funktion :func:`open` öffnet eine Datei.", 8 / 44, True),
    ("[[Haus]]", 1.0, False),
    ("<!-- Haus -->", 1.0, False),
    ("<!--{}" * 50_000, 1 / 3, True),  # comments without an end, in time linear in the length
    ("", 0.0, True),
]


@pytest.mark.parametrize(("text", "score", "kept"), TABLE)
def test_score_is_the_share_of_marks_on_the_worse_side(text: str, score: float, kept: bool) -> None:
    item = Markup()
    scores = item.score(bitext_batch(["a house", text], [text, "a house"], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == pytest.approx([score, score])
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_bare_text_has_neither_marks_nor_code() -> None:
    texts = pa.array(["Die Methode :meth:`str.join` und ``x = 1``", "<b>Haus</b>", "房子", ""])
    assert [text.strip() for text in bare(texts).to_pylist()] == ["Die Methode   und", "Haus", "房子", ""]


def test_text_that_is_passed_over_holds_no_markup() -> None:
    texts = [text for text, _, _ in TABLE] + [":ref:`x`", "``x``", "why www", "a:b [c]"]
    matched = pc.match_substring_regex(pa.array(texts), f"{TAGS}|{ROLES}|{CODE}").to_pylist()
    candidates = may_contain_markup(pa.array(texts)).tolist()
    assert candidates == [match or text in PASSED_ON for text, match in zip(texts, matched, strict=True)]


PASSED_ON = {"a < b und c > d", "100 % sicher, 5 % mehr", "AT&T & Co.", "why www"}
