import math

import pytest
import torch

from alignment_train.losses import info_nce, pool, token_loss


def test_identical_rows_give_the_logarithm_of_the_batch():
    rows = torch.ones(6, 4)
    assert info_nce(rows, rows, 0.1).item() == pytest.approx(math.log(6))


def test_info_nce_is_the_mean_of_both_directions_and_ignores_norms():
    torch.manual_seed(0)
    src, tgt = torch.randn(5, 3), torch.randn(5, 3)
    logits = torch.nn.functional.cosine_similarity(src[:, None], tgt[None], dim=-1) / 0.2
    forward = -logits.log_softmax(1).diag().mean()
    backward = -logits.log_softmax(0).diag().mean()
    assert info_nce(3 * src, 7 * tgt, 0.2, "src_to_tgt").item() == pytest.approx(forward.item(), rel=1e-6)
    assert info_nce(src, tgt, 0.2).item() == pytest.approx(((forward + backward) / 2).item(), rel=1e-6)


def test_a_repeated_sentence_is_no_negative():
    torch.manual_seed(1)
    src, tgt = torch.randn(3, 4), torch.randn(3, 4)
    twice = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    logits = torch.nn.functional.cosine_similarity(src[:, None], tgt[None], dim=-1) / 0.1
    kept = [logits[0, [0, 2]], logits[1, [1, 2]], logits[2, [2, 0, 1]]]
    wanted = sum(-row.log_softmax(0)[0] for row in kept) / 3
    assert info_nce(src, tgt, 0.1, "src_to_tgt", twice).item() == pytest.approx(float(wanted), rel=1e-6)


def test_pooling_sees_real_tokens_alone_on_either_side_of_the_padding():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[1.0, 2.0], [9.0, 10.0]]
    assert pool(hidden, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_token_loss_of_even_logits_is_the_logarithm_of_the_vocabulary():
    assert token_loss(torch.zeros(4, 9), torch.tensor([0, 3, 8, 1])).item() == pytest.approx(math.log(9))


def test_info_nce_is_as_exact_under_autocast():
    src, tgt = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)).unbind()
    whole = info_nce(src, tgt, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert info_nce(src, tgt, 0.05).item() == whole.item()
