import re

import pytest

from pipelines.filters.url_or_email import HINT, UrlOrEmail
from pipelines.schema import bitext_batch

TABLE = [  # src, tgt, score, verdict of the default
    ("Das Haus und/oder der Hof, z.B. hier.", "The house", 0, True),
    ("https://example.org/a?b=1", "https://example.org/de/a", 1, False),
    ("Mehr dazu auf www.example.org", "More at www.example.org", 15 / 23, False),
    ("Mehr dazu und zu vielem anderen auf www.example.org", "More of this and that at www.example.org", 15 / 40, True),
    ("Schreiben Sie an info@example.org, wenn Sie wollen", "Do write to us if you want to", 1, False),
    ("Schreiben Sie an a.b+c@mail.example.org", "Please write to a.b+c@mail.example.org", 22 / 38, False),
    ("siehe das Verzeichnis docs.example.org/haus", "see the folder docs.example.org/house", 22 / 37, False),
    ("请看https://example.org这个网站吧", "Please look at this website: https://example.org", 19 / 26, False),
    ("زوروا موقعنا https://example.org", "Visit our website", 1, False),
    ("เยี่ยมชม www.example.org", "Visit our website", 1, False),
    ("@haus ist ein Name", "@house is a name", 0, True),
    ("", "", 0, True),
]


@pytest.mark.parametrize(("src", "tgt", "score", "kept"), TABLE)
def test_score_is_the_share_of_addresses_and_1_where_one_side_has_none(
    src: str, tgt: str, score: float, kept: bool
) -> None:
    item = UrlOrEmail()
    scores = item.score(bitext_batch([src, "x", tgt], [tgt, "y", src], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == pytest.approx([score, 0, score])
    assert item.keep(scores).to_pylist() == [kept, True, kept]


def test_text_that_the_hint_passes_over_holds_no_address() -> None:
    for src, _, score, _ in TABLE:
        assert score == 0 or re.search(HINT, src)


def test_no_rows_give_no_scores() -> None:
    assert len(UrlOrEmail().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
