import numpy as np
import pytest
import torch

from alignment_train import lm
from alignment_train.lm import LM
from tests.models import bitext, tiny

TEXTS = [*bitext(30)["src"].to_pylist(), "neun", "eins zwei " * 9]


@pytest.fixture(params=[8192, 60], ids=["one batch", "many batches"])
def model(request, monkeypatch) -> LM:
    monkeypatch.setattr(lm, "TOKENS", request.param)
    return LM(tiny(), trained_layer=1, max_length=64, device=torch.device("cpu"))


def test_states_come_in_the_order_of_the_texts_whatever_the_batches(model: LM):
    got = model.embed(TEXTS, [0, 3], "mean")
    for i in (0, 17, 30, 31):
        batch, _ = model.model.encode([TEXTS[i]], 64)
        states = model.model.hidden_states(batch["input_ids"], batch["attention_mask"])
        for layer in (0, 3):
            assert np.allclose(got[layer][i], states[layer][0].mean(0).detach().numpy(), atol=1e-5)


def test_last_pooling_takes_the_last_real_token(model: LM):
    got = model.embed(TEXTS, [2], "last")[2]
    batch, _ = model.model.encode([TEXTS[30]], 64)
    state = model.model.hidden_states(batch["input_ids"], batch["attention_mask"])[2][0, -1]
    assert np.allclose(got[30], state.detach().numpy(), atol=1e-5)


def test_loss_is_the_sum_over_all_tokens_and_eos(model: LM):
    nats, counts = model.loss(TEXTS)
    for i in (0, 30, 31):
        ids = torch.tensor([[*model.model.tokenizer(TEXTS[i])["input_ids"], model.model.tokenizer.eos_token_id]])
        logits = model.model.lm(input_ids=ids).logits[0, :-1].log_softmax(-1)
        assert counts[i] == ids.shape[1] - 1
        assert nats[i] == pytest.approx(-logits.gather(1, ids[0, 1:, None]).sum().item(), rel=1e-5)


def test_one_layer_is_what_it_is_among_all(model: LM):
    """It is had without the blocks above it."""
    every = model.embed(TEXTS, [0, 1, 2, 3], "mean")
    for layer in range(4):
        assert np.allclose(model.embed(TEXTS, [layer], "mean")[layer], every[layer], atol=1e-6)
