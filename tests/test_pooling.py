"""States are pooled over the tokens that are text: an attention sink at a special token changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, processors

from alignment_train.evaluation.lm import LM
from alignment_train.evaluation.probe import measure
from alignment_train.losses import pool, pooling_mask
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.settings import Guards
from alignment_train.training.guards import TrainingMonitor
from pipelines.registry import build
from tests.support.models import bitext, tiny
from tests.test_retrieval import DE, held_out, retrieval

NORM = 1e5  # of BOS in Gemma 3
ROWS = bitext(12).to_pylist()


def with_sink(model: Model) -> Model:
    """The model with a state of norm 100,000 at every BOS, the same in all layers and texts."""
    hidden, hidden_states = model.hidden, model.hidden_states
    direction = torch.randn(16, generator=torch.Generator().manual_seed(5))

    def sunk(ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        at = (ids == model.tokenizer.bos_token_id)[..., None]
        return torch.where(at, NORM * direction / direction.norm(), states)

    model.hidden = lambda ids, *rest: sunk(ids, hidden(ids, *rest))  # type: ignore[method-assign]
    model.hidden_states = lambda ids, *rest: tuple(  # type: ignore[method-assign]
        sunk(ids, states) for states in hidden_states(ids, *rest)
    )
    return model


def lm(model: Model) -> LM:
    return LM(model, trained_layer=2, max_length=64, device=torch.device("cpu"))


def test_the_text_mask_leaves_out_padding_and_special_tokens_on_either_side():
    model = tiny()
    bos, eos, pad = (getattr(model.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    ids = torch.tensor([[bos, 40, 41, eos, pad], [pad, pad, bos, 42, 43], [bos, eos, pad, pad, pad]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    text = model.text_mask(ids, mask)
    assert text.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]], "a row of special tokens keeps them"
    hidden = torch.arange(30.0).view(3, 5, 2)
    assert pool(hidden, text, "mean").tolist() == [[3, 4], [17, 18], [21, 22]]
    assert pool(hidden, text, "last").tolist() == [[4, 5], [18, 19], [22, 23]]


def test_the_unknown_token_is_text():
    model = tiny()
    unk, bos = model.tokenizer.unk_token_id, model.tokenizer.bos_token_id
    ids = torch.tensor([[bos, unk]])
    assert model.text_mask(ids, torch.ones_like(ids)).tolist() == [[0, 1]]
    model.tokenizer.unk_token = model.tokenizer.bos_token  # as of GPT-2
    ids = torch.tensor([[bos, 40]])
    assert model.text_mask(ids, torch.ones_like(ids)).tolist() == [[0, 1]]


def test_encoded_texts_have_a_mask_of_text_and_an_empty_one_a_token():
    model = tiny()
    batch, _ = model.encode(["eins zwei", "", "neun"], 32)
    text, attended = pooling_mask(batch), pooling_mask(batch, special_tokens=True)
    assert attended is batch["attention_mask"]
    assert (attended.sum(1) - text.sum(1)).tolist() == [1, 0, 1], "BOS; of an empty text it is all there is"
    assert text[0, 0] == 0
    assert text[1].sum() == 1


def test_last_pooling_takes_the_last_token_of_text_before_an_eos():
    model = tiny()
    tokenizer: Any = model.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    text = "eins zwei"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert ids[0, -1] == tokenizer.eos_token_id
    states = model.hidden_states(ids, torch.ones_like(ids))[2][0].detach().numpy()
    for pooling, place in (("last", -2), ("last+special", -1)):
        assert np.allclose(lm(model).embed([text], [2], pooling)[2][0], states[place], atol=1e-5), pooling


@pytest.mark.parametrize("settings", [
    {"contrastive": {}},
    {"contrastive": {"center": "none", "chunk": 5}},
    {"contrastive": {"center": "batch"}},
    {"lens": {"layer": 2}},
    {"retain": {"by": "hidden", "layer": 2}},
])  # fmt: skip
def test_a_sink_changes_no_loss_unless_special_tokens_are_pooled(settings: dict[str, Any]):
    ((name, own),) = settings.items()

    def losses(**more: Any) -> list[float]:
        out = []
        for model in (tiny(), with_sink(tiny())):
            table = bitext(12)
            objective = build("alignment_train.objectives", {name: {**own, **more}})
            assert isinstance(objective, Objective)
            held = objective.setup(model, table)
            with torch.no_grad():
                torch.manual_seed(1)
                model.lm.model.layers[0].mlp.down_proj.weight.normal_()  # or nothing has moved from the base
            out.append(objective.loss(model, objective.collate(ROWS, model, 64), held)[0].item())
        return out

    plain, sunk = losses()
    assert sunk == pytest.approx(plain, rel=1e-6)
    assert abs(plain) > 1e-6
    plain, sunk = losses(special_tokens=True)
    assert abs(sunk - plain) > 1e-6


def test_a_sink_changes_neither_retrieval_nor_what_the_probe_finds():
    item = retrieval(rows=10, lexical=False)
    texts = held_out(item, DE)
    texts = texts.set_column(texts.schema.get_field_index("text"), "text", [_spelt(texts["text"].to_pylist())])
    plain, sunk = (item.run(lm(model), texts) for model in (tiny(), with_sink(tiny())))
    assert plain.keys() == sunk.keys()
    assert {key: metric["value"] for key, metric in sunk.items()} == {
        key: metric["value"] for key, metric in plain.items()
    }
    for pooling in ("mean", "mean, centered"):
        assert measure(lm(tiny()), texts, pooling) == measure(lm(with_sink(tiny())), texts, pooling)
    special = item.model_copy(update={"pooling": "mean+special"})
    key = "representation/eng_Latn/effective_rank"
    assert special.run(lm(with_sink(tiny())), texts)[key]["value"] < 1.5 < plain[key]["value"]


def test_the_guard_sees_the_states_of_text():
    objective: Any = build("alignment_train.objectives", {"contrastive": {"layer": 2}})
    kept = objective.model_copy(update={"special_tokens": True})
    ranks = {}
    for name, model in (("plain", tiny()), ("sunk", with_sink(tiny()))):
        batch = objective.collate(ROWS, model, 64)
        probes = {"text": (objective, batch), "all": (kept, batch)}
        ranks[name] = TrainingMonitor(Guards.model_validate({}), model, probes).check_states()
    assert ranks["sunk"]["effective_rank/text"] == pytest.approx(ranks["plain"]["effective_rank/text"])
    assert ranks["sunk"]["effective_rank/all"] < 1.1


def _spelt(texts: list[str]) -> list[str]:
    """Numbered sentences as texts of the tiny model's languages, each another one."""
    rows = bitext(len(texts))
    return [rows["src" if text.startswith("deu") else "tgt"][i].as_py() for i, text in enumerate(texts)]
