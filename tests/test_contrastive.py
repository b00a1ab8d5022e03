import pytest
import torch

from alignment_train.losses import info_nce, pool
from alignment_train.objectives.contrastive import Contrastive
from tests.support.models import SHAPES, bitext, tiny

ROWS = bitext(13).to_pylist()


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.lm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.lm.named_parameters() if p.grad is not None}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("chunk", [1, 5, 26])
def test_loss_and_gradients_are_the_same_in_chunks(family: str, chunk: int):
    model = tiny(family)
    whole, parts = (Contrastive.model_validate({"layer": 2, "center": "none", "chunk": n}) for n in (None, chunk))
    batch = whole.collate(ROWS, model, 32)
    (expected, _), (found, _) = whole.loss(model, batch), parts.loss(model, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    same(gradients(model, parts.loss(model, batch)[0]), gradients(model, whole.loss(model, batch)[0]))


def test_dropout_is_the_same_when_a_chunk_is_run_again():
    model = tiny(attention_dropout=0.4)
    model.lm.train()
    item = Contrastive.model_validate({"layer": 2, "center": "none", "special_tokens": True, "chunk": 5})
    batch = item.collate(ROWS, model, 32)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    torch.manual_seed(7)
    states = [pool(model.hidden(i, m, 2), m, "mean") for i, m in zip(ids.split(5), mask.split(5), strict=True)]
    src, tgt = torch.cat(states).chunk(2)
    loss = info_nce(src, tgt, item.temperature, "both", batch["same"])
    after, expected = torch.rand(1), gradients(model, loss)
    torch.manual_seed(7)
    found = item.loss(model, batch)[0]
    assert torch.equal(found, loss)
    assert torch.equal(torch.rand(1), after)
    same(gradients(model, found), expected)
    torch.manual_seed(8)
    assert not torch.equal(item.loss(model, batch)[0], loss)


def test_each_chunk_is_run_again_by_itself(monkeypatch: pytest.MonkeyPatch):
    model = tiny()
    sizes: list[int] = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, *rest: sizes.append(len(ids)) or hidden(ids, *rest))
    item = Contrastive.model_validate({"layer": 2, "center": "none", "chunk": 10})
    loss, _ = item.loss(model, item.collate(ROWS, model, 32))
    assert sizes == [10, 10, 6]
    loss.backward()
    assert sorted(sizes[3:]) == [6, 10, 10]
