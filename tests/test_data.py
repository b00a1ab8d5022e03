import numpy as np
import pyarrow as pa
import pytest

from alignment_train.models.chat import plain
from alignment_train.training.data import Rows, conversations, pack, segments, texts, token_counts
from tests.support.models import bitext, tiny


def numbered(sizes: np.ndarray, rows: int, seed: int) -> Rows:
    table = pa.table({"number": np.arange(len(sizes)), "size": sizes})
    return Rows(table, rows, seed, lambda found: [row["size"] for row in found])


def numbers(rows: Rows, steps: range) -> list[int]:
    return [row["number"] for step in steps for row in rows.at(step)]


def test_every_row_is_seen_once_an_epoch_in_an_order_the_seed_sets():
    sizes = np.random.default_rng(0).integers(5, 90, 1003)
    one, two, other = numbered(sizes, 10, 7), numbered(sizes, 10, 7), numbered(sizes, 10, 8)
    epochs = [numbers(one, range(first, first + 100)) for first in (0, 100)]
    assert [len(set(epoch)) for epoch in epochs] == [1000, 1000]
    assert epochs[0] != epochs[1]
    assert numbers(two, range(137, 138)) == numbers(one, range(137, 138)), "a step's rows need no history"
    assert numbers(other, range(10)) != numbers(one, range(10))


def test_rows_of_a_batch_have_like_lengths():
    sizes = np.random.default_rng(0).integers(1, 500, 6400)
    rows = numbered(sizes, 100, 0)
    spread = np.mean([np.ptp([row["size"] for row in rows.at(step)]) for step in range(64)])
    assert spread < 40  # of 500 at random


def test_fewer_rows_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="found 3 rows. Expected: at least one batch of 10"):
        numbered(np.ones(3), 10, 0)


def test_segments_are_both_sides_of_every_pair():
    table = bitext(3)
    assert segments(table)["text"].to_pylist() == table["src"].to_pylist() + table["tgt"].to_pylist()
    assert segments(table)["language"].to_pylist() == ["deu_Latn"] * len(table) + ["eng_Latn"] * len(table)


def test_token_counts_are_those_of_the_tokenizer():
    model = tiny()
    assert token_counts(["one", "one two"], model) == [2, 3]


def labelled(model, batch, row: int) -> str:
    kept = batch["labels"][row] != -100
    return model.tokenizer.decode(batch["input_ids"][row][kept])


def test_a_language_model_batch_labels_all_but_the_first_token_and_the_padding():
    model = tiny()
    batch = texts(["one two", "three"], model, 64)
    assert labelled(model, batch, 0) == "one two</s>"
    assert labelled(model, batch, 1) == "three</s>"
    assert batch["labels"][:, 0].tolist() == [-100, -100]
    assert int(batch["cut"]) == 0


def test_only_the_response_and_its_eos_are_labelled():
    model = tiny()
    talk = [{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "vier fünf"}]
    batch = conversations([talk], model, 64)
    assert labelled(model, batch, 0) == "vier fünf</s>"
    assert plain(talk) == ("one two three ", "vier fünf")


def test_a_chat_template_is_used_where_the_tokenizer_has_one():
    model = tiny()
    model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    talk = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "vier"}]
    batch = conversations([talk], model, 64)
    assert labelled(model, batch, 0).strip() == "vier</s>"


def test_a_prompt_that_fills_the_length_gives_way_to_the_response():
    model = tiny()
    talk = [{"role": "user", "content": "one two three " * 20}, {"role": "assistant", "content": "vier fünf"}]
    batch = conversations([talk], model, 12)
    assert int(batch["cut"]) == 1
    assert labelled(model, batch, 0) == "vier fünf</s>"


def test_packed_rows_hold_every_token_once_in_few_rows():
    model = tiny()
    rng = np.random.default_rng(0)
    ids = [[1, *rng.integers(5, 90, size).tolist()] for size in rng.integers(1, 40, 60)]
    batch = pack(ids, [[7] * len(row) for row in ids], model, 64)
    starts, real = batch["position_ids"] == 0, batch["attention_mask"].bool()
    assert sorted(batch["input_ids"][real].tolist()) == sorted(token for row in ids for token in row)
    assert int((starts & real).sum()) == 60
    assert batch["input_ids"][starts & real].tolist() == [1] * 60
    assert set(batch["labels"][starts].tolist()) == {-100}, "nothing is predicted from another text"
    assert set(batch["labels"][real & ~starts].tolist()) == {7}
    assert set(batch["labels"][~real].tolist()) <= {-100}
    assert batch["input_ids"].shape[1] <= 64
    assert len(batch["input_ids"]) <= 1.1 * np.ceil(sum(map(len, ids)) / 64)


def test_packed_texts_are_cut_and_counted_as_others():
    model = tiny()
    long = "one two three " * 20
    padded, packed = (texts([long, "three", "four"], model, 12, packed) for packed in (False, True))
    assert int(padded["cut"]) == int(packed["cut"]) == 1
    assert len(padded["input_ids"]) == 3
    assert len(packed["input_ids"]) == 2
    assert int((packed["labels"] != -100).sum()) == int((padded["labels"][:, 1:] != -100).sum())
