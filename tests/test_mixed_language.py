import itertools
import math
from typing import Any

import pytest
import torch

from alignment_train.objectives.mixed_language import MixedLanguage
from pipelines.registry import build
from tests.support.models import bitext, tiny
from tests.support.trained import assert_a_kill_changes_nothing, trained


def rows(count: int, *langs: str) -> list[dict[str, Any]]:
    """Pairs `s0`, `t0` and so on, the language of src by turns one of `langs`, that of tgt English."""
    return [
        {"src": f"s{i}", "tgt": f"t{i}", "src_lang": langs[i % len(langs)], "tgt_lang": "eng_Latn"}
        for i in range(count)
    ]


def objective(**settings: Any) -> MixedLanguage:
    return MixedLanguage.model_validate(settings)


def drawn(documents: list[str]) -> list[list[tuple[str, int]]]:
    """(side, number of the pair) of each sentence of each document."""
    return [[(word[0], int(word[1:])) for word in document.split(" ")] for document in documents]


def test_each_sentence_of_a_batch_stands_once_with_its_own_pair_and_in_order():
    documents = drawn(objective(sentences=3).documents(rows(11, "deu_Latn", "swh_Latn")))
    numbers = [[number for _, number in document] for document in documents]
    assert numbers == [[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9]]


def test_pairs_in_either_order_of_languages_are_kept_apart():
    turned = [{**row, "src_lang": row["tgt_lang"], "tgt_lang": row["src_lang"]} for row in rows(4, "swh_Latn")]
    assert [len(d) for d in drawn(objective().documents(rows(3, "swh_Latn") + turned[3:]))] == [3, 1]


def test_sides_are_drawn_with_equal_chance_and_independently():
    one = drawn(objective(sentences=4096).documents(rows(4096, "deu_Latn")))[0]
    sides = [side for side, _ in one]
    same = sum(a == b for a, b in itertools.pairwise(sides))
    bound = 4 * math.sqrt(4096) / 2  # four standard deviations of a fair coin
    assert abs(sides.count("s") - 2048) < bound
    assert abs(same - 2047.5) < bound


def test_the_draw_hangs_on_the_rows_alone_and_changes_with_the_neighbours():
    batch, more = rows(64, "deu_Latn"), rows(65, "deu_Latn")
    assert objective().documents(batch) == objective().documents([dict(row) for row in batch])
    torch.manual_seed(5)
    assert objective(sentences=64).documents(batch)[0].split(" ") == " ".join(objective().documents(batch)).split(" ")
    one, other = (drawn(objective(sentences=65).documents(some))[0] for some in (batch, more))
    changed = sum(a != b for a, b in zip(one, other, strict=False))
    assert 16 < changed < 48


def test_the_draw_is_the_one_written_down_here_so_that_every_process_makes_it():
    assert objective(sentences=8).documents(rows(8, "deu_Latn")) == ["s0 t1 s2 t3 s4 s5 s6 s7"]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_loss_is_the_mean_over_all_tokens_of_the_documents(kind: str):
    model, some = tiny(kind), bitext(10).to_pylist()
    made = objective(rows=10)
    documents = made.documents(some)
    assert [len(document.split()) for document in documents] == [16, 16, 8]
    total, tokens = 0.0, 0
    for document in documents:
        ids = [*model.tokenizer(document)["input_ids"], model.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):  # the first is BOS
            total -= logits[place - 1, ids[place]].item()
            tokens += 1
    batch = made.collate(some, model, 128)
    loss, metrics = made.loss(model, batch)
    assert loss.item() == pytest.approx(total / tokens, rel=1e-5)
    assert int((batch["labels"] != -100).sum()) == tokens
    assert metrics == {"sentences": pytest.approx(10 / 3)}
    assert int(batch["cut"]) == 0


def test_documents_hold_both_languages():
    german, english = (set(" ".join(bitext(64)[side].to_pylist()).split()) for side in ("src", "tgt"))
    documents = [set(document.split()) for document in objective().documents(bitext(64).to_pylist())]
    assert len(documents) == 16
    assert sum(bool(words & german) and bool(words & english) for words in documents) > 8


def test_gradients_reach_every_weight_and_nothing_is_added_to_the_model():
    made, model = objective(rows=8), tiny()
    assert made.setup(model, bitext(8)) is None
    made.loss(model, made.collate(bitext(8).to_pylist(), model, 128))[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.lm.parameters())


def test_a_document_longer_than_the_length_is_cut_and_counted():
    made, model = objective(rows=8), tiny()
    batch = made.collate(bitext(8).to_pylist(), model, 8)
    assert batch["input_ids"].shape == (2, 8)
    assert int(batch["cut"]) == 2


def test_a_row_is_as_long_as_its_longer_side():
    model, some = tiny(), bitext(5).to_pylist()
    wanted = [max(len(model.tokenizer(row[side])["input_ids"]) for side in ("src", "tgt")) for row in some]
    assert objective().token_lengths(some, model) == wanted


def test_it_trains_and_the_control_goes_without_it(tmp_path):
    _, outcome, reporter = trained(tmp_path, objective(rows=16), bitext(64), 20, max_length=128)
    first, last = reporter.ends()
    assert last["mixed_language"] < 0.8 * first["mixed_language"], (first, last)
    assert outcome.rows == {"mixed_language": 320}
    assert objective().is_alignment


def test_a_killed_run_ends_with_the_very_weights_of_an_unbroken_one(tmp_path):
    assert_a_kill_changes_nothing(tmp_path, objective(rows=16), bitext(32))  # two steps an epoch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentences": 1}, "found 1. Expected: more than 1"),
        ({"rows": 1}, "found 1. Expected: more than 1"),
        ({"sentence": 4}, "unknown key. Did you mean 'sentences'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build("alignment_train.objectives", {"mixed_language": settings})
