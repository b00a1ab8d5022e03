import io
import json
import math

import pytest
import sentencepiece

from alignment_train.models.seed import make, sentences, train_tokenizer, unigram_loss
from alignment_train.settings import SeedModel
from tests.support.models import bitext, tiny

SETTINGS = SeedModel.model_validate({"vocab_size": 320, "hidden_size": 16, "layers": 2, "heads": 2, "context": 32})


def test_languages_share_the_sentences_evenly_and_the_seed_sets_their_order():
    table = bitext(50)
    one, two = list(sentences(table, 20, 0)), list(sentences(table, 20, 1))
    assert len(one) == 20
    assert sum(text in set(table["src"].to_pylist()) for text in one) == 10
    assert list(sentences(table, 20, 0)) == one != two


def test_the_same_texts_give_the_same_tokenizer_and_weights(tmp_path):
    for name in ("one", "two"):
        make(SETTINGS, bitext(100), 5).save(tmp_path / name)
    for file in ("tokenizer.json", "model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_pieces_are_those_of_sentencepiece():
    texts = bitext(200)["tgt"].to_pylist()
    tokenizer = train_tokenizer(iter(texts), 300)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=300, hard_vocab_limit=False, byte_fallback=True,
        normalization_rule_name="identity", unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="<pad>", num_threads=2,
        minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in [*texts[:50], "seven élan 中"]:
        assert tokenizer.tokenize(text) == theirs.encode(text, out_type=str)


@pytest.mark.parametrize("text", ["one two", "ein Ü 中文 мир", "a  b", "नमस्ते"])
def test_a_text_survives_encoding_but_for_doubled_spaces(text: str):
    tokenizer = tiny().tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text.replace("  ", " ")
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id


def test_the_shape_is_what_the_recipe_says():
    model = make(SETTINGS, bitext(100), 0)
    config = json.loads(model.lm.config.to_json_string())
    assert (config["num_hidden_layers"], config["hidden_size"], config["max_position_embeddings"]) == (2, 16, 32)
    assert model.lm.get_output_embeddings().weight is model.lm.get_input_embeddings().weight


def test_the_unigram_loss_is_the_cross_entropy_of_smoothed_counts():
    tokenizer = tiny().tokenizer
    (one,), (two,) = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two"))
    total = 2 + 1 + 3 + len(tokenizer)  # two ones, one two, three ends, and one for each piece
    wanted = -(math.log(2 / total) + math.log(4 / total)) / 2
    assert one != two
    assert unigram_loss(tokenizer, ["one", "one", "two"], ["two"]) == pytest.approx(wanted)
