import pytest

from pipelines.filters.number_mismatch import NumberMismatch, numbers
from pipelines.schema import bitext_batch
from pipelines.text.characters import decode_column

TABLE = [  # src, tgt, shared and all numbers, verdict of the default
    ("Das Haus", "the house", (0, 0), True),
    ("3 Häuser", "three houses", (0, 1), True),
    ("3 Häuser", "3 houses", (1, 1), True),
    ("3 Häuser", "4 houses", (0, 2), True),
    ("3 und 5 Häuser", "4 and 6 houses", (0, 4), False),
    ("1, 2, 3, 4", "1, 2, 3", (3, 4), True),
    ("2 2 2", "2", (1, 3), True),
    ("10 Euro", "100 euros", (0, 2), True),
    ("1.234.567,89", "1,234,567.89", (2, 2), True),
    ("1 234,5", "1234.5", (2, 2), True),
    ("12.10.2020", "10/12/2020", (3, 3), True),
    ("um 08:00 und um 15.30", "at 8 and at 15:30", (3, 3), True),
    ("في عام ٢٠٢٠", "in 2020", (1, 1), True),
    ("۱۹۷۶", "1976", (1, 1), True),
    ("२,३४५ घर", "2,345 houses", (1, 1), True),
    ("ปี ๒๕๖๓", "2563", (1, 1), True),
    ("２０２０年３月", "March 2020", (1, 2), True),
    ("5日、7人、9件", "6 days, 8 people, 10 cases", (0, 6), False),
    ("0, 00 und 000", "none", (0, 0), True),
    ("9" * 30, "9" * 30, (1, 1), True),
    ("1" + "0" * 70, "2" + "0" * 70, (0, 0), True),  # beyond 64 digits only the last ones count
    ("12,50,000 रुपये", "1,250,000 rupees", (1, 1), True),  # lakh
    ("१,२५,००,००० और ८७,५०,०००", "12,500,000 and 8,750,000", (2, 2), True),  # crore
    ("৳ ১২,৫০,০০০.৭৫", "1250000.75", (2, 2), True),  # Bengali
    ("12,34,56,78,901", "12345678901", (1, 1), True),
    ("1,2345,6789", "123,456,789", (1, 1), True),  # groups of four
    ("123,4567,8901", "12345678901", (1, 1), True),
    ("1'250'000", "1’250’000", (1, 1), True),
    ("1\u2009250\u2009000", "1 250\u00a0000", (1, 1), True),
    ("1\u202f250\u202f000,50", "1.250.000,50", (2, 2), True),
    ("١٬٢٥٠٬٠٠٠٫٥٠", "1,250,000.50", (2, 2), True),  # Arabic
    ("۱٬۲۵۰٬۰۰۰", "1250000", (1, 1), True),  # Persian
    ("௧,௨௫௦ ၁,၂၅၀ ១.២៥០", "1250 1250 1250", (3, 3), True),  # Tamil, Burmese, Khmer
    ("１，２５０，０００", "1250000", (1, 1), True),
    ("10² m² ½ ①", "10", (1, 1), True),  # superscripts, fractions and circles are no digits
    ("007", "7", (1, 1), True),
    ("2019-2020", "2019 2020", (2, 2), True),
    ("2019,2020,2021", "2019, 2020, 2021", (3, 3), True),
    ("12.10.2020", "12,10,2020", (3, 3), True),
    ("10,20,30", "10, 20, 30", (3, 3), True),  # no lakh: it ends in three digits
    ("10.20.300", "10, 20.300", (2, 2), True),  # lakhs have commas
    ("3,1415", "3.1415", (2, 2), True),
    ("1,2345", "1.2345", (2, 2), True),
    ("12.345,678", "12345.678", (2, 2), True),  # three decimals
    ("1 234\u00a0567,891", "1,234,567.891", (2, 2), True),
    ("12,34,567.125", "1234567.125", (2, 2), True),
    ("३४,५६७.१२५", "34567.125", (2, 2), True),
    ("", "7", (0, 1), True),
    ("", "", (0, 0), True),
]


@pytest.mark.parametrize(("src", "tgt", "found", "kept"), TABLE)
def test_score_is_the_smoothed_share_of_equal_numbers(src: str, tgt: str, found: tuple[int, int], kept: bool) -> None:
    item = NumberMismatch()
    scores = item.score(bitext_batch([src, "x", tgt], [tgt, "y", src], "deu_Latn", "eng_Latn", "t/v1"))
    score = (1 + found[0]) / (1 + found[1])
    assert scores.to_pylist() == [score, 1, score]
    assert item.keep(scores).to_pylist() == [kept, True, kept]


def test_numbers_of_one_text_do_not_run_into_the_next() -> None:
    batch = bitext_batch(["12", "345 6"], ["12", "345; 6"], "deu_Latn", "eng_Latn", "t/v1")
    assert NumberMismatch().score(batch).to_pylist() == [1, 1]
    found = numbers(decode_column(batch["src"]))
    assert (found.row.tolist(), found.value.tolist()) == ([0, 1, 1], [12, 345, 6])


@pytest.mark.parametrize(("chinese", "score"), [("123,4567人", 1), ("1,2345,6789人", 1 / 3), ("3，2019年", 1 / 4)])
def test_a_single_group_of_four_is_one_where_no_comma_stands_before_decimals(chinese: str, score: float) -> None:
    batch = bitext_batch(["1,234,567 people"], [chinese], "eng_Latn", "zho_Hans", "t/v1")
    assert NumberMismatch().score(batch).to_pylist() == [score]
    batch = bitext_batch(["1,234,567 people"], ["123,4567 Leute"], "eng_Latn", "deu_Latn", "t/v1")
    assert NumberMismatch().score(batch).to_pylist() == [1 / 4]


def test_no_rows_give_no_scores() -> None:
    assert len(NumberMismatch().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
