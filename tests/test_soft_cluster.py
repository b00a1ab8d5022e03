"""XLM-P's pool: the text's own mixture of prompts stands before it, labels follow it, and the model learns under it."""

import math

import pytest
import torch

from alignment_train.config import TrainConfig
from alignment_train.losses import prompt_mixture
from alignment_train.models.model import Model
from alignment_train.objectives.soft_cluster import SoftCluster
from alignment_train.training.data import segments, texts
from pipelines.config import validate
from tests.support.models import SHAPES, bitext, sentence, tiny
from tests.support.trained import trained

ROWS = [{"text": sentence(number, language)} for number in (4, 5207, 318846) for language in ("eng_Latn", "deu_Latn")]
TABLE = segments(bitext(120))


def objective(**settings) -> SoftCluster:
    return SoftCluster.model_validate({"rows": 6, "size": 5, "length": 3, **settings})


def opened(model: Model, item: SoftCluster):
    torch.manual_seed(1)
    return item.setup(model, TABLE)


def by_hand(model: Model, held, ids: list[int], asked: int, first: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Nats of the tokens `first` and on of one text without padding, and the shares of its prompts."""
    embed = model.lm.get_input_embeddings()
    words = [embed(torch.tensor([token]))[0] for token in ids]
    query = torch.stack(words[:asked]).sum(0) / asked
    query = (query - query.mean()) / torch.sqrt(((query - query.mean()) ** 2).mean() + 1e-5)
    scores = [(query * key).sum().item() / math.sqrt(len(query)) for key in held.keys]
    total = sum(math.exp(score) for score in scores)
    shares = [math.exp(score) / total for score in scores]
    prompt = torch.zeros(3, len(query))
    for share, own in zip(shares, held.prompts, strict=True):
        prompt = prompt + share * own
    logits = model.lm(inputs_embeds=torch.cat([prompt, torch.stack(words)])[None]).logits[0]
    return [-logits[3 + t - 1].log_softmax(-1)[ids[t]] for t in range(first, len(ids))], torch.tensor(shares)


@pytest.mark.parametrize("query", ["text", "start"])
@pytest.mark.parametrize("kind", SHAPES)
def test_the_loss_is_that_of_each_text_alone_after_its_own_prompt(kind: str, query: str) -> None:
    model, item = tiny(kind), objective(query=query)
    held = opened(model, item)
    batch = item.collate(ROWS, model, 40)
    assert batch["attention_mask"].sum(1).unique().numel() > 1  # there is padding
    loss, metrics = item.loss(model, batch, held)
    nats, shares = [], []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        own = ids[: int(mask.sum())].tolist()
        half = len(own) // 2
        found, share = by_hand(model, held, own, len(own) if query == "text" else half, 1 if query == "text" else half)
        nats += found
        shares.append(share)
    assert loss.item() == pytest.approx(torch.stack(nats).mean().item(), rel=1e-4)
    share = torch.stack(shares)
    entropy = -(share * share.log()).sum(1).mean()
    batch_entropy = -(share.mean(0) * share.mean(0).log()).sum()
    assert metrics["prompts_per_text"] == pytest.approx(entropy.exp().item(), rel=1e-4)
    assert metrics["prompts_per_batch"] == pytest.approx(batch_entropy.exp().item(), rel=1e-4)
    assert 1 < metrics["prompts_per_text"] < metrics["prompts_per_batch"] <= 5


def test_a_mixture_is_a_softmax_over_keys_divided_by_the_root_of_their_size() -> None:
    query, keys = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.eye(4)[:2]
    share, prompt = prompt_mixture(query, keys, torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]]]))
    wanted = math.e / (math.e + 1)  # 2 / sqrt(4) = 1
    assert share[0].tolist() == pytest.approx([wanted, 1 - wanted])
    assert prompt[0, 0].tolist() == pytest.approx([wanted, 1 - wanted, 0, 0])


def test_start_does_not_look_at_what_it_predicts() -> None:
    model, item = tiny(), objective(query="start")
    held = opened(model, item)
    batch = texts([row["text"] for row in ROWS[-1:]], model, 40)
    count = int(batch["attention_mask"].sum())
    changed = {name: value.clone() for name, value in batch.items()}
    changed["input_ids"][0, -2] = 7
    _, one = item.loss(model, batch, held)
    _, other = item.loss(model, changed, held)
    assert one == other
    assert count > 6
    whole = objective()
    assert whole.loss(model, batch, held)[1] != whole.loss(model, changed, held)[1]


def test_the_prompt_counts_towards_max_length() -> None:
    model, item = tiny(), objective(length=4)
    batch = item.collate(ROWS, model, 10)
    assert batch["input_ids"].shape[1] == 6
    assert batch["cut"] == 2
    assert math.isfinite(item.loss(model, batch, opened(model, item))[0].item())
    with pytest.raises(ValueError, match=r"soft_cluster.length: found 4 with max_length 5. Allowed: at most .* raise"):
        item.collate(ROWS, model, 5)


def test_gradient_reaches_keys_prompts_and_backbone() -> None:
    model, item = tiny(), objective()
    held = opened(model, item)
    item.loss(model, item.collate(ROWS, model, 40), held)[0].backward()
    assert set(held.state_dict()) == {"keys", "prompts"}
    assert all(p.grad.abs().sum() > 0 for p in [*held.parameters(), *model.lm.parameters()])
    assert held.keys.grad.abs().amin(1).gt(0).all()


def test_prompts_begin_as_embeddings_that_are_not_the_models_own() -> None:
    for kind in ("llama", "xglm"):
        model = tiny(kind)
        held = opened(model, objective())
        table = model.lm.get_input_embeddings()(torch.arange(len(model.tokenizer)))
        assert (held.prompts.flatten(0, 1)[:, None] == table[None]).all(-1).any(-1).all()
        assert held.prompts.data_ptr() != model.lm.get_input_embeddings().weight.data_ptr()
        assert all(p.requires_grad for p in held.parameters())


def test_a_batch_without_a_label_is_no_loss() -> None:
    model, item = tiny(), objective(query="start")
    batch = model.pad([[model.tokenizer.eos_token_id]], [[model.tokenizer.eos_token_id]])
    loss, _ = item.loss(model, batch, opened(model, item))
    loss.backward()
    assert loss.item() == 0


def test_it_trains_with_its_pool_and_the_backbone_alone_has_learnt_too(tmp_path) -> None:
    model = tiny()
    held_out = texts([sentence(n, "eng_Latn") for n in (90417, 33521, 78064)], model, 40)
    with torch.no_grad():
        untrained = model.language_model_loss(held_out).item()
    backbone, _, reporter = trained(tmp_path, objective(rows=16), TABLE, 40)
    first, last = (ends["soft_cluster"] for ends in reporter.ends())
    assert last < 0.8 * first
    with torch.no_grad():
        assert backbone.language_model_loss(held_out).item() < 0.8 * untrained
    assert set(backbone.lm.state_dict()) == set(model.lm.state_dict())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 0}, "size"),
        ({"length": 0}, "length"),
        ({"query": "end"}, "query"),
        ({"pool": 4}, "unknown key. "),
    ],
)
def test_settings_out_of_range_are_told(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match="soft_cluster") as caught:
        validate(TrainConfig, {"objectives": [{"soft_cluster": settings}]}, "recipe x", "train")
    assert told in str(caught.value)
    assert validate(TrainConfig, {"objectives": ["soft_cluster"]}, "x", "train").control == []
