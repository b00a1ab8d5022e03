import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignment_train import losses
from alignment_train.losses import kl_divergence
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.retain import Retain
from alignment_train.settings import Optimiser
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.progress_log import Reporter
from pipelines.progress import no_progress
from pipelines.registry import build
from pipelines.schema import BITEXT
from tests.support.models import SHAPES, bitext, tiny

ROWS = [
    {"src": "eins zwei", "tgt": "one two", "src_lang": "deu_Latn", "tgt_lang": "eng_Latn"},
    {"src": "four zero seven three", "tgt": "vier null sieben drei", "src_lang": "eng_Latn", "tgt_lang": "deu_Latn"},
    {"src": "neun", "tgt": "nueve", "src_lang": "deu_Latn", "tgt_lang": "spa_Latn"},
    {"src": "six", "tgt": "six six", "src_lang": "eng_Latn", "tgt_lang": "eng_Latn"},
]
ENGLISH = ["one two", "four zero seven three", "six", "six six"]
EVERY = [row[side] for row in ROWS for side in ("src", "tgt")]


def retain(**settings) -> Retain:
    return Retain.model_validate(settings)


def opened(kind: str = "llama", noise: float = 0.1, **settings: Any):
    """An objective, a model, and what it opened before noise moved the model's weights."""
    objective, model = retain(**settings), tiny(kind)
    held = objective.setup(model, bitext(5))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.lm.parameters():
            weight += noise * torch.randn_like(weight)
    return objective, model, held


@pytest.mark.parametrize(
    ("kind", "language", "texts"),
    [*((kind, "en", ENGLISH) for kind in ("llama", "gemma2", "gpt2", "xglm")), ("llama", "every", EVERY)],
)
def test_kl_is_the_mean_over_every_token_of_the_texts_in_the_language(kind: str, language: str, texts: list[str]):
    objective, model, held = opened(kind, language=language)
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32), held)
    sums = []
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            base, now = held.lm(input_ids=ids).logits[0].double(), model.lm(input_ids=ids).logits[0].double()
        for p, q in zip(base.softmax(-1), now.softmax(-1), strict=True):
            sums.append(sum(float(p[v]) * math.log(float(p[v]) / float(q[v])) for v in range(len(p))))
    assert len(sums) == sum(len(model.tokenizer(text)["input_ids"]) for text in texts)
    assert loss.item() == pytest.approx(sum(sums) / len(sums), rel=1e-4)
    assert loss.item() > 0.001


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("layer", [1, "middle", -1])
def test_hidden_is_the_squared_distance_of_mean_states(layer, special: bool):
    objective, model, held = opened(by="hidden", layer=layer, special_tokens=special)
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32), held)
    index = {"middle": 1, -1: 3}.get(layer, layer)
    squares = []
    for text in ENGLISH:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = [m.lm(input_ids=ids, output_hidden_states=True).hidden_states[index][0] for m in (model, held)]
        one, other = (own[0 if special else 1 :].mean(0) for own in states)
        squares += [float(a - b) ** 2 for a, b in zip(one, other, strict=True)]
    assert loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)


@pytest.mark.parametrize("by", ["kl", "hidden"])
def test_a_model_that_has_not_moved_loses_nothing(by: str):
    objective, model, held = opened(noise=0, by=by)
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32), held)
    assert loss.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("by", ["kl", "hidden"])
def test_training_brings_a_moved_model_back_and_leaves_the_base_alone(by: str):
    objective, model, held = opened(by=by)
    kept = {name: weight.clone() for name, weight in held.lm.state_dict().items()}
    batch = objective.collate(ROWS, model, 32)
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss, _ = objective.loss(model, batch, held)
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.3 * losses[0]
    assert all(torch.equal(weight, kept[name]) for name, weight in held.lm.state_dict().items())
    assert not any(weight.requires_grad for weight in held.lm.parameters())
    assert all(weight.grad is None for weight in held.lm.parameters())


@pytest.mark.parametrize(
    ("by", "layer", "untouched"),
    [("kl", 1, ()), ("hidden", 1, ("model.layers.1.", "model.layers.2.", "model.norm", "lm_head"))],
)
def test_gradients_reach_every_weight_by_kl_and_what_is_below_the_layer_by_hidden(by: str, layer: int, untouched):
    objective, model, held = opened(by=by, layer=layer)
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32), held)
    loss.backward()
    for name, weight in model.lm.named_parameters():
        if name.startswith(untouched):
            assert weight.grad is None, name
        else:
            assert float(weight.grad.norm()) > 0, name


def test_the_base_is_asked_without_dropout():
    objective, model = retain(), tiny(attention_dropout=0.5)
    model.lm.train()
    held = objective.setup(model, bitext(5))
    batch = objective.collate(ROWS, model, 32)
    with torch.no_grad():
        twice = [held.logits(batch["input_ids"], batch["attention_mask"], batch["positions"]).states for _ in range(2)]
    assert torch.equal(*twice)
    assert model.lm.training
    assert not held.lm.training
    assert objective.loss(model, batch, held)[0].item() > 1e-9  # the model's own dropout stays


@pytest.mark.parametrize("by", ["kl", "hidden"])
def test_a_batch_without_the_language_gives_zero_and_no_gradient(by: str):
    objective, model, held = opened(by=by)
    batch = objective.collate(ROWS[2:3], model, 32)
    loss, _ = objective.loss(model, batch, held)
    loss.backward()
    assert loss.item() == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.lm.parameters())
    assert any(weight.grad is not None for weight in model.lm.parameters())
    assert objective.token_lengths(ROWS[2:3], model) == [0]


def test_rows_without_the_language_change_nothing():
    objective, model = retain(), tiny()
    whole, part = (objective.collate(rows, model, 32) for rows in (ROWS, ROWS[:2] + ROWS[3:]))
    assert torch.equal(whole["input_ids"], part["input_ids"])


def test_rows_are_as_long_as_their_longest_text_in_the_language():
    model = tiny()
    longest = [["one two"], ["four zero seven three"], [], ["six", "six six"]]
    assert retain().token_lengths(ROWS, model) == [
        max((len(model.tokenizer(text)["input_ids"]) for text in texts), default=0) for texts in longest
    ]


def test_texts_are_cut_and_counted():
    objective, model, held = opened()
    batch = objective.collate(ROWS, model, 4)
    assert batch["cut"].item() == 1
    assert batch["input_ids"].shape == (4, 4)
    assert math.isfinite(objective.loss(model, batch, held)[0].item())


def test_wanted_marks_the_rows_with_a_side_in_the_language():
    columns = [[row[name] for row in ROWS] for name in BITEXT.names[:4]] + [["c/v1"] * 4]
    table = pa.table([pa.array(column) for column in columns], schema=BITEXT)

    def wanted(rows: pa.Table, language: str) -> list[bool] | None:
        found = retain(language=language).row_mask(rows)
        return found if found is None else found.to_pylist()

    assert wanted(table, "en") == [True, True, False, True]
    assert wanted(table, "every") is None
    assert wanted(pa.concat_tables([table, table]), "de") == [True, True, True, False] * 2


@pytest.mark.parametrize(("rows", "there"), [(5, "deu_Latn, eng_Latn"), (0, "some bitext")], ids=["other", "empty"])
def test_a_language_that_no_row_has_is_an_error(rows: int, there: str):
    message = (
        f"train.objectives.retain.language: found no row in swh_Latn among {rows} rows of bitext. "
        f"Expected: {there}. Fix: name one"
    )
    with pytest.raises(ValueError, match=message):
        retain(language="sw").row_mask(bitext(rows))


def test_settings_are_read_and_refused_in_sentences():
    assert retain(language="en").language == "eng_Latn"
    assert not Retain.is_alignment
    with pytest.raises(ValueError, match="language 'english words': not a known language. Allowed: ISO 639"):
        build("alignment_train.objectives", {"retain": {"language": "english words"}})
    with pytest.raises(ValueError, match="Expected: 'kl' or 'hidden'"):
        build("alignment_train.objectives", {"retain": {"by": "mse"}})
    with pytest.raises(ValueError, match="layer: found 4. Expected: 'middle', a fraction between 0 and 1, or -4 to 3"):
        retain(by="hidden", layer=4).check(3)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_family_can_be_copied_and_compared(kind: str):
    objective, model, held = opened(kind)
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32), held)
    loss.backward()
    assert 0 < loss.item() < 10
    assert all(weight.grad is not None for weight in model.lm.parameters() if weight.requires_grad)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_kl_in_chunks_is_kl_at_once_with_its_gradient(monkeypatch, temperature: float):
    torch.manual_seed(0)
    teacher, student = torch.randn(11, 7), torch.randn(11, 7, requires_grad=True)
    p, q = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    plain = (p * (p / q).log()).sum(-1).mean()
    (wanted,) = torch.autograd.grad(plain, student)
    for chunk in (3, 11, 256):
        monkeypatch.setattr(losses, "MAX_LOGITS", chunk * 14)
        loss = kl_divergence(teacher, student, temperature)
        (found,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
        assert torch.allclose(found, wanted, atol=1e-7)
    assert kl_divergence(teacher[:0], student[:0]).item() == 0


def test_beside_contrast_it_keeps_english_near_the_base(tmp_path):
    far = {}
    for name, objectives in (("with", [retain(rows=16)]), ("without", [])):
        model, measured = tiny(), retain()
        base = measured.setup(model, bitext(5))
        contrast = Contrastive.model_validate({"rows": 16, "layer": 2})
        optimiser = Optimiser.model_validate({"learning_rate": 3e-3})
        plan = Plan([contrast, *objectives], 30, 32, optimiser, "float32", seed=3, checkpoint_every=10)
        reporter = Reporter("test", tmp_path / f"{name}.jsonl", no_progress)
        train(model, plan, {"bitext": bitext(120)}, tmp_path / name, reporter, torch.device("cpu"))
        with torch.no_grad():
            batch = measured.collate(bitext(20, first=5003).to_pylist(), model, 32)
            far[name] = measured.loss(model, batch, base)[0].item()
    assert 0 < far["with"] < 0.4 * far["without"], far


@pytest.mark.parametrize("by", ["kl", "hidden"])
def test_in_bfloat16_the_distance_is_that_of_float32_nearly(by: str):
    objective, model, held = opened(by=by)
    batch = objective.collate(ROWS, model, 32)
    plain = objective.loss(model, batch, held)[0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective.loss(model, batch, held)
        same = objective.loss(held, batch, held)[0].item()
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain, rel=0.05)
    assert same == 0
