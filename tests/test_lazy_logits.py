"""Logits made a chunk at a time give the losses and gradients of all logits at once, and no tensor is larger."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from alignment_train import losses
from alignment_train.evaluation.lm import LM
from alignment_train.losses import LazyLogits, kl_divergence, token_logprobs, token_loss
from alignment_train.models.model import Model
from alignment_train.objectives.kl_self_teaching import KlSelfTeaching
from alignment_train.objectives.meta import Clusters, Meta
from alignment_train.objectives.retain import Retain
from alignment_train.objectives.soft_cluster import SoftCluster
from alignment_train.training.data import texts
from tests.support.families import BLOCKS, DECODERS, tokens
from tests.support.models import SHAPES, bitext, tiny

P, H, V = 11, 5, 7
LABELS = torch.tensor([0, 3, 3, 3, 6, 1, 0, 0, 2, 5, 3])
TEXTS = [*bitext(9)["tgt"].to_pylist(), *bitext(4)["src"].to_pylist()]


def head_and_states() -> tuple[torch.nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    head = torch.nn.Linear(H, V).double()
    return head, torch.randn(P, H, dtype=torch.float64, requires_grad=True), torch.randn(P, H, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 100])
def test_cross_entropy_in_chunks_has_the_value_and_gradients_of_the_plain_one(monkeypatch, chunk: int):
    monkeypatch.setattr(losses, "MAX_LOGITS", chunk * V)
    head, states, _ = head_and_states()
    plain = F.cross_entropy(head(states).float(), LABELS)
    lazy = token_loss(LazyLogits(states, head, V), LABELS)
    assert lazy.item() == pytest.approx(plain.item(), rel=1e-6)
    inputs = [states, *head.parameters()]
    for found, wanted in zip(torch.autograd.grad(lazy, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    nats, likeliest = token_logprobs(LazyLogits(states, head, V), LABELS)
    assert -nats.mean().item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.equal(likeliest, head(states).argmax(1) == LABELS)


@pytest.mark.parametrize("chunk", [1, 4, 11])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_kl_in_chunks_has_the_value_and_gradients_of_the_plain_one(monkeypatch, chunk: int, temperature: float):
    monkeypatch.setattr(losses, "MAX_LOGITS", chunk * 2 * V)
    head, states, taught = head_and_states()
    with torch.no_grad():
        p = (head(taught) / temperature).log_softmax(1)
    plain = (p.exp() * (p - (head(states) / temperature).log_softmax(1))).sum(1).mean()
    lazy = kl_divergence(LazyLogits(taught, head, V), LazyLogits(states, head, V), temperature)
    assert lazy.item() == pytest.approx(plain.item(), rel=1e-5)
    inputs = [states, *head.parameters()]  # none reaches the head through the teacher
    for found, wanted in zip(torch.autograd.grad(lazy, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def lora_on_the_head() -> Model:
    model = tiny()
    get_peft_model(model.lm, LoraConfig(r=2, lora_dropout=0.0, target_modules=["lm_head", "q_proj"]))
    for name, weight in model.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return model


MODELS: dict[str, Callable[[], Model]] = {
    **{kind: lambda kind=kind: tiny(kind) for kind in SHAPES},
    "tied": lambda: tiny(tie_word_embeddings=True),
    "untied": lambda: tiny(tie_word_embeddings=False),
    "lora on the head": lora_on_the_head,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_s_gradients_are_those_of_its_own_loss(monkeypatch, name: str):
    model = MODELS[name]()
    batch = texts(TEXTS, model, 64)
    weights = [p for p in model.lm.parameters() if p.requires_grad]
    labels = batch["labels"]
    logits = model.lm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    plain = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    wanted = torch.autograd.grad(plain, weights)
    assert model.head_kind == ("forward" if name == "gemma2" else "linear")
    monkeypatch.setattr(losses, "MAX_LOGITS", 10 * model.lm.config.vocab_size)
    loss = model.language_model_loss(batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for found, gradient in zip(torch.autograd.grad(loss, weights), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_family_s_logits_are_made_of_its_states(kind: str):
    tokenizer, ids = tokens()
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**DECODERS[kind], **ids})).eval()
    model = Model(lm, tokenizer)
    assert len(model.blocks) == BLOCKS
    assert model.head_kind == ("forward" if kind in ("cohere", "roberta", "electra") else "linear")
    rows = torch.arange(12).view(2, 6)
    with torch.no_grad():
        whole = lm(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits
        found = model.logits(rows, torch.ones_like(rows), torch.ones_like(rows, dtype=torch.bool)).materialize()
    assert torch.allclose(found, whole.flatten(0, 1), atol=1e-5)


def test_a_head_that_is_no_function_of_a_state_is_run_with_the_whole_model(monkeypatch):
    model = tiny()
    forward = model.lm.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits + out.logits.cumsum(1)
        return out

    monkeypatch.setattr(model.lm, "forward", shifted)
    batch = texts(TEXTS, model, 64)
    logits, labels, _ = model.predictions(batch)
    assert model.head_kind is None
    own = model.lm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    keep = batch["labels"][:, 1:] != -100
    assert token_loss(logits, labels).item() == pytest.approx(F.cross_entropy(own[keep], labels).item(), rel=1e-5)


def test_a_recomputation_has_the_weights_of_its_forward_pass(monkeypatch):
    """`meta` runs the model with other weights than its own; its gradient is the same in chunks."""
    settings = {"rows": 8, "clusters": 2, "query": "own", "inner_steps": 2, "inner_learning_rate": 0.5}
    objective = Meta.model_validate(settings)
    rows = [
        {"text": row[side], "language": row[f"{side}_lang"]} for row in bitext(4).to_pylist() for side in ("src", "tgt")
    ]
    found = []
    for at_once in (1 << 25, 1 << 11):
        monkeypatch.setattr(losses, "MAX_LOGITS", at_once)
        model = tiny(tie_word_embeddings=True)
        batch = objective.collate(rows, model, 32)
        clusters = Clusters(batch["language"].unique(), torch.tensor([0, 1]))
        loss, _ = objective.loss(model, batch, clusters)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.lm.parameters())])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)


class Largest(TorchDispatchMode):
    """The numbers of the largest floating-point tensor that is made within, weights and their gradients aside."""

    def __init__(self, model: Model):
        super().__init__()
        self.numel, self.weights = 0, {tuple(p.shape) for p in model.lm.parameters()}
        self.weights |= {shape[::-1] for shape in self.weights}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, Tensor) and item.is_floating_point() and tuple(item.shape) not in self.weights:
                self.numel = max(self.numel, item.numel())
        return out


VOCABULARY, AT_ONCE = 6000, 30_000


def large(kind: str) -> Model:
    """A model with far more tokens than its tokenizer uses."""
    model = tiny(kind)
    model.lm.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    assert model.head_kind
    return model


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_no_tensor_is_larger_than_the_bound(monkeypatch, kind: str):
    model = large(kind)
    monkeypatch.setattr(losses, "MAX_LOGITS", AT_ONCE)
    monkeypatch.setattr("alignment_train.evaluation.lm.MAX_LOGITS", AT_ONCE)
    rows = bitext(8).to_pylist()
    objectives = [
        KlSelfTeaching.model_validate({"rows": 8}),
        Retain.model_validate({"rows": 8}),
        SoftCluster.model_validate({"rows": 8}),
    ]
    batch = texts(TEXTS, model, 64)
    positions = int((batch["labels"][:, 1:] != -100).sum())
    assert positions * VOCABULARY > 10 * AT_ONCE
    with Largest(model) as largest:
        model.language_model_loss(batch).backward()
    assert 5 * VOCABULARY <= largest.numel <= AT_ONCE
    for objective in objectives:
        table = bitext(8).rename_columns(["text", "tgt", "language", "tgt_lang", "corpus"])
        own = table.to_pylist() if objective.reads == "segments" else rows
        held = objective.setup(model, bitext(8))
        batch = objective.collate(own, model, 64)
        with Largest(model) as largest:
            loss, _ = objective.loss(model, batch, held)
            loss.backward()
        assert VOCABULARY < largest.numel <= AT_ONCE, objective.name
    lm = LM(model, 1, 64, torch.device("cpu"))
    with Largest(model) as largest:
        nats, counts = lm.loss(TEXTS)
        lm.loglikelihood([(text, " one two") for text in TEXTS])
        lm.generate([text[:9] for text in TEXTS], [], 3)
    assert VOCABULARY < largest.numel <= AT_ONCE
    assert (nats / counts).mean() == pytest.approx(math.log(VOCABULARY), abs=0.5)
