import numpy as np
import pytest

from alignment_train.data import Order, Rows, conversations, lengths, render, texts
from tests.models import bitext, tiny


def test_every_row_is_seen_once_an_epoch_in_an_order_the_seed_sets():
    sizes = np.random.default_rng(0).integers(5, 90, 103)
    one, two, other = Order(sizes, 10, 7), Order(sizes, 10, 7), Order(sizes, 10, 8)
    epochs = [np.concatenate([one.at(step) for step in range(e * 10, e * 10 + 10)]) for e in range(2)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 100
    assert not np.array_equal(*epochs)
    assert np.array_equal(two.at(13), one.at(13)), "a step's rows need no history"
    assert not np.array_equal(other.at(0), one.at(0))


def test_rows_of_a_batch_have_like_lengths():
    sizes = np.random.default_rng(0).integers(1, 500, 3200)
    order = Order(sizes, 100, 0)
    spread = np.mean([np.ptp(sizes[order.at(step)]) for step in range(32)])
    assert spread < 40  # of 500 at random


def test_fewer_rows_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="found 3 rows. Allowed: at least one batch of 10"):
        Order(np.ones(3), 10, 0)


def test_rows_come_with_all_their_columns():
    rows = Rows(bitext(40), 8, 0).at(2)
    assert len(rows) == 8
    assert all(row["src_lang"] == "deu_Latn" and row["src"] and row["tgt"] for row in rows)


def test_lengths_count_both_sides_or_all_messages():
    import pyarrow as pa

    talk = [[{"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}]]
    assert lengths(pa.table({"messages": talk * 2})).tolist() == [5, 5]
    table = bitext(1)
    assert lengths(table).tolist() == [len(table["src"][0].as_py()) + len(table["tgt"][0].as_py())]


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
    assert render(talk) == ("one two three ", "vier fünf")


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
