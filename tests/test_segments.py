import numpy as np
import pytest

from pipelines.text.segments import NONE, digests, generator, keys, seeded_order, texts_and_sentences


def test_texts_that_differ_in_case_space_or_punctuation_share_a_key() -> None:
    same = keys(["Hello, World!", "hello  world", "HELLO-WORLD?"])
    assert len(set(same.tolist())) == 1
    other = keys(["hello worlds", "नमस्ते दुनिया", "你好"])
    assert len({*same.tolist(), *other.tolist()}) == 4


def test_texts_without_a_letter_have_no_key() -> None:
    assert keys(["...", "", " !? "]).tolist() == [NONE] * 3


def test_digests_are_the_same_on_every_machine() -> None:
    from_b2sum = ["e4a6a0577479b2b4", "f04dbbe25e2ba039"]  # printf 'ä' | b2sum -l 64
    assert [int(number).to_bytes(8, "little").hex() for number in digests(["", "ä"])] == from_b2sum
    assert len(digests([])) == 0


def test_draws_are_a_uniform_reordering_that_the_salt_decides() -> None:
    numbers = np.arange(10_000, dtype=np.uint64)
    drawn = seeded_order(numbers, 0, "dev")
    assert len(set(drawn.tolist())) == 10_000
    assert np.abs(np.mean(drawn / 2.0**64) - 0.5) < 0.01
    assert not np.array_equal(drawn, seeded_order(numbers, 1, "dev"))
    assert np.array_equal(drawn, seeded_order(numbers, 0, "dev"))


def test_generators_differ_by_salt() -> None:
    assert generator(0, "a").random() == generator(0, "a").random() != generator(0, "b").random()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three", ["One. Two! Three", "One.", "Two!", "Three"]),
        ("你好。再见。", ["你好。再见。", "你好。", "再见。"]),
        ("कौन आया। वह।", ["कौन आया। वह।", "कौन आया।", "वह।"]),
        ("Line\nline", ["Line\nline", "Line", "line"]),
        ("كيف؟ نعم", ["كيف؟ نعم", "كيف؟", "نعم"]),
        ("3.14 stays", ["3.14 stays"]),
        ("", []),
    ],
)
def test_pieces_are_the_text_and_its_sentences(text: str, expected: list[str]) -> None:
    assert texts_and_sentences([text]) == expected
