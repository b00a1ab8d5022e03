import math
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignment_train.config import TrainConfig
from alignment_train.losses import batch_language_means, info_nce, language_means
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.training.data import language_numbers
from pipelines.config import validate
from pipelines.registry import build
from tests.support.models import bitext, tiny
from tests.support.trained import assert_a_kill_changes_nothing

SETTINGS = {"layer": 2, "rows": 8}


def centered(**settings: Any) -> Contrastive:
    plugin = build("alignment_train.objectives", {"contrastive": {**SETTINGS, **settings}})
    assert isinstance(plugin, Contrastive)
    return plugin


def three_languages(rows: int, first: int = 1000) -> pa.Table:
    """Of every four German rows one passes for Dutch."""
    table = bitext(rows, first)
    codes = ["nld_Latn" if i % 4 == 1 else "deu_Latn" for i in range(rows)]
    return table.set_column(2, table.schema.field(2), pa.array(codes))


def by_hand(
    objective: Contrastive, model, rows: list[dict], memory: dict[str, tuple[torch.Tensor, int]]
) -> torch.Tensor:
    """The loss, one text after another, and the language means in `memory` moved on."""
    states, languages = [], []
    for side in ("src", "tgt"):
        for row in rows:
            ids = torch.tensor([model.tokenizer(row[side])["input_ids"]])
            states.append(model.hidden_states(ids, torch.ones_like(ids))[2][0, 1:].mean(0))  # without BOS
            languages.append(row[f"{side}_lang"])
    of = defaultdict(list)
    for state, code in zip(states, languages, strict=True):
        of[code].append(state)
    mean = {}
    for code, own in of.items():
        old, count = memory.get(code, (torch.stack(states).mean(0).detach(), 1))
        mean[code] = (old * count + torch.stack(own).sum(0)) / (count + len(own))
        seen = memory[code][1] if code in memory else 0
        memory[code] = (mean[code].detach(), min(seen + len(own), objective.memory))
    left = [
        s - mean[code] + (mean[objective.pivot] if objective.pivot else 0)
        for s, code in zip(states, languages, strict=True)
    ]
    src, tgt = left[: len(rows)], left[len(rows) :]
    losses = []
    for one, two in ((src, tgt), (tgt, src)):
        for i, state in enumerate(one):
            near = torch.stack([torch.cosine_similarity(state, other, dim=0) / objective.temperature for other in two])
            losses.append(near.logsumexp(0) - near[i])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("more", [{}, {"pivot": "en"}, {"memory": 3, "temperature": 0.3}])
def test_loss_means_and_gradient_over_batches_are_those_computed_by_hand(more):
    objective, table = centered(**more), three_languages(24)
    model, same = tiny(), tiny()
    held, memory, rows = objective.setup(model, table), {}, table.to_pylist()
    for start in (0, 8, 16):
        some = rows[start : start + 8]
        batch = objective.collate(some, model, 64)
        loss, _ = objective.loss(model, batch, held)
        wanted = by_hand(objective, same, some, memory)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        loss.backward()
        wanted.backward()
    for ours, other in zip(model.lm.parameters(), same.lm.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None)
        if ours.grad is not None and other.grad is not None:
            torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-5)
    for i, code in enumerate(sorted(memory)):
        torch.testing.assert_close(held.means[i], memory[code][0], rtol=1e-5, atol=1e-6)
        assert held.counts[i] == memory[code][1]


def test_a_mean_is_the_plain_one_until_memory_is_full_and_forgets_from_then_on():
    torch.manual_seed(0)
    states, one = torch.randn(400, 3), torch.zeros(4, dtype=torch.long)
    means, counts = language_means(states[:4], one, torch.zeros(2, 3), torch.zeros(2), 100)
    torch.testing.assert_close(means[0], states[:4].mean(0))  # the batch's own mean is the row it begins with
    for start in range(4, 100, 4):
        means, counts = language_means(states[start : start + 4], one, means, counts, 100)
    torch.testing.assert_close(means[0], states[:100].mean(0), rtol=1e-4, atol=1e-5)
    assert counts.tolist() == [100, 0]
    assert means[1].tolist() == [0, 0, 0]
    moved, counts = language_means(states[100:104] + 5, one, means, counts, 100)
    torch.testing.assert_close(moved[0], (100 * means[0] + (states[100:104] + 5).sum(0)) / 104)
    assert counts[0] == 100


def test_gradient_goes_through_the_share_of_the_mean_that_the_batch_is():
    states = torch.randn(3, 2, requires_grad=True)
    means, _ = language_means(states, torch.tensor([0, 1, 1]), torch.ones(2, 2), torch.tensor([9.0, 2.0]), 100)
    (own,) = torch.autograd.grad(means[:, 0].sum(), states)
    torch.testing.assert_close(own, torch.tensor([[1 / 10, 0], [1 / 4, 0], [1 / 4, 0]]))


def test_a_language_vector_hides_meaning_from_plain_contrast_but_not_from_this():
    torch.manual_seed(0)
    meaning, vectors = torch.randn(64, 16), 8 * torch.randn(3, 16)
    language = torch.tensor([0, 1] * 32 + [2] * 64)
    states = torch.cat([meaning, meaning]) + vectors[language]
    means, _ = language_means(states, language, torch.zeros(3, 16), torch.zeros(3), 128)
    left = states - means[language]
    plain, centred = (info_nce(both[:64], both[64:], 0.1).item() for both in (states, left))
    assert plain > 1.5
    assert centred < 0.1


def test_a_single_row_of_a_language_first_seen_has_a_direction_and_a_gradient():
    torch.manual_seed(0)
    states, language = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 1, 1, 1])
    means, counts = language_means(states, language, torch.zeros(2, 3), torch.zeros(2), 100)
    left = (states - means[language])[0]
    torch.testing.assert_close(left, (states[0] - states.mean(0)) / 2)
    (own,) = torch.autograd.grad(left[0], states)
    torch.testing.assert_close(own[0], torch.tensor([0.5, 0, 0]))
    assert counts.tolist() == [1, 4]


def test_the_share_of_language_is_told_and_identical_states_do_no_harm():
    objective, model, table = centered(), tiny(), three_languages(8)
    batch = objective.collate(table.to_pylist(), model, 64)
    _, figures = objective.loss(model, batch, objective.setup(model, table))
    assert 0.1 < figures["language_share"] < 1
    alike = objective.collate(table.slice(0, 1).to_pylist() * 8, model, 64)
    alike = {
        **alike,
        "input_ids": alike["input_ids"][:1].repeat(16, 1),
        "attention_mask": alike["attention_mask"][:1].repeat(16, 1),
    }
    loss, figures = objective.loss(model, alike, objective.setup(model, table))
    loss.backward()
    assert torch.isfinite(torch.tensor(list(figures.values()))).all()
    assert all(torch.isfinite(p.grad).all() for p in model.lm.parameters() if p.grad is not None)


def test_means_are_kept_by_a_state_dict_so_that_a_resumed_run_goes_on_alike(tmp_path):
    objective, model, table = centered(), tiny(), three_languages(24)
    batches = [objective.collate(table.slice(i, 8).to_pylist(), model, 64) for i in (0, 8, 16)]
    held = objective.setup(model, table)
    objective.loss(model, batches[0], held)
    objective.loss(model, batches[1], held)
    torch.save(held.state_dict(), tmp_path / "state")
    resumed = objective.setup(model, table)
    fresh = objective.loss(model, batches[2], objective.setup(model, table))[0].item()
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    wanted = objective.loss(model, batches[2], held)[0].item()
    assert objective.loss(model, batches[2], resumed)[0].item() == wanted
    assert abs(fresh - wanted) > 1e-4
    assert set(held.state_dict()) == {"numbers", "means", "counts"}


def test_a_killed_run_resumes_with_the_means_that_it_had(tmp_path):
    assert_a_kill_changes_nothing(tmp_path, centered(), three_languages(48))


def test_it_trains_the_blocks_below_its_layer_and_nothing_else():
    objective, model, table = centered(rows=16), tiny(), three_languages(96)
    held = objective.setup(model, table)
    assert not list(held.parameters())
    before = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=3e-3, weight_decay=0.0)
    rows, losses = table.to_pylist(), []
    for step in range(36):
        start = 16 * (step % 6)
        loss, _ = objective.loss(model, objective.collate(rows[start : start + 16], model, 64), held)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6]), losses
    moved = {name for name, p in model.lm.named_parameters() if not torch.equal(p, before[name])}
    below = {name for name in before if "embed_tokens" in name or ".layers.0." in name or ".layers.1." in name}
    assert moved == below


def test_the_mean_of_the_batch_is_plain_but_for_a_single_row():
    torch.manual_seed(0)
    states, language = torch.randn(6, 3, requires_grad=True), torch.tensor([9, 2, 9, 5, 2, 9])
    means = batch_language_means(states, language)
    for rows in ([0, 2, 5], [1, 4]):
        torch.testing.assert_close(means[rows], states[rows].mean(0).expand(len(rows), 3))
    left = (states - means)[3]
    torch.testing.assert_close(left, (states[3] - states.mean(0)) / 2)
    (own,) = torch.autograd.grad(left[0], states)
    torch.testing.assert_close(own[3], torch.tensor([0.5, 0, 0]))


@pytest.mark.parametrize("center", ["none", "language", "batch"])
def test_the_centered_loss_is_that_of_states_less_their_means(center: str):
    objective, model, table = centered(center=center), tiny(), three_languages(8)
    batch = objective.collate(table.to_pylist(), model, 64)
    held = objective.setup(model, table)
    assert (held is None) == (center != "language")
    loss, figures = objective.loss(model, batch, held)
    states = objective.states(model, batch)
    means = torch.zeros_like(states)
    for number in batch["language"].unique():
        rows = batch["language"] == number
        if center == "batch":
            means[rows] = states[rows].mean(0)
        elif center == "language":
            means[rows] = (states[rows].sum(0) + states.mean(0)) / (rows.sum() + 1)
    src, tgt = (states - means).chunk(2)
    assert loss.item() == pytest.approx(info_nce(src, tgt, 0.1, "both", batch["same"]).item(), rel=1e-5)
    assert ("language_share" in figures) == (center != "none")


@pytest.mark.parametrize("center", ["language", "batch"])
def test_loss_and_gradients_are_the_same_in_chunks(center: str):
    """GradCache: the means are of the whole batch, whatever runs at once."""
    table, found = three_languages(24), []
    for chunk in (None, 5):
        objective, model = centered(center=center, chunk=chunk, rows=12), tiny()
        held = objective.setup(model, table)
        losses = []
        for start in (0, 12):  # the second batch meets means that the first one left
            batch = objective.collate(table.slice(start, 12).to_pylist(), model, 64)
            loss, _ = objective.loss(model, batch, held)
            loss.backward()
            losses.append(loss.item())
        gradients = {name: p.grad for name, p in model.lm.named_parameters() if p.grad is not None}
        found.append((losses, gradients, held.state_dict() if held else {}))
    (whole, gradients, kept), (parts, other, same) = found
    assert parts == pytest.approx(whole, rel=1e-6)
    assert gradients.keys() == other.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)
    for name, value in kept.items():
        torch.testing.assert_close(same[name], value)


@pytest.mark.parametrize("center", ["language", "batch"])
def test_a_batch_with_one_row_of_a_language_has_finite_gradients(center: str):
    objective, model, table = centered(center=center, rows=6), tiny(), three_languages(6)
    rows = table.slice(1, 4).to_pylist()
    assert [row["src_lang"] for row in rows].count("nld_Latn") == 1
    batch = objective.collate(rows, model, 64)
    src, tgt = objective.states(model, batch).chunk(2)
    src, _, _ = objective.centered(src, tgt, batch, objective.setup(model, table))
    assert src[0].norm() > 1e-3
    loss, _ = objective.loss(model, batch, objective.setup(model, table))
    loss.backward()
    norms = [float(p.grad.norm()) for p in model.lm.parameters() if p.grad is not None]
    assert 0 < max(norms) < 1e3


def test_centering_makes_a_contrast_of_anisotropic_states_fall():
    """A constant that is far longer than they are, in all states, holds the raw loss at ln B."""
    table, losses = three_languages(16), {}
    for center in ("none", "language", "batch"):
        objective, model = centered(center=center, rows=16), tiny()
        hidden = model.hidden
        model.hidden = lambda *args, hidden=hidden: hidden(*args) + 100  # type: ignore[method-assign]
        batch, held = objective.collate(table.to_pylist(), model, 64), objective.setup(model, table)
        optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-3)
        for _ in range(30):
            loss, _ = objective.loss(model, batch, held)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        losses[center] = loss.item()
    assert losses["none"] == pytest.approx(math.log(16), abs=0.05)
    assert max(losses["language"], losses["batch"]) < 1


def test_rows_of_a_batch_are_numbered_by_their_own_language():
    objective, model, table = centered(), tiny(), three_languages(4)
    batch = objective.collate(table.to_pylist(), model, 64)
    codes = ["deu_Latn", "nld_Latn", "deu_Latn", "deu_Latn", *["eng_Latn"] * 4]
    assert batch["language"].tolist() == language_numbers(codes, model.device).tolist()
    plain = Contrastive.model_validate(SETTINGS).collate(table.to_pylist(), model, 64)
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    every = ["zho_Hans", "arb_Arab", "zho_Hant", "eng_Latn"]
    numbers = language_numbers(every, model.device).tolist()
    assert [code for _, code in sorted(zip(numbers, every, strict=True))] == sorted(every)


def test_a_recipe_that_says_centered_is_told_what_to_write():
    with pytest.raises(ValueError, match=r"no objective 'centered': .* Write 'contrastive: \{center: language\}'"):
        build("alignment_train.objectives", {"centered": {"temperature": 0.1}})
    with pytest.raises(ValueError, match=r"train.objectives\[0\]: no objective 'centered': .* 'contrastive: \{cen"):
        validate(TrainConfig, {"objectives": ["centered"]}, "recipe own", "train")


def test_settings_are_written_out_and_read_back():
    objective = centered(pivot="en")
    assert objective.settings()["contrastive"]["pivot"] == "eng_Latn"
    assert objective.settings()["contrastive"]["center"] == "language"
    assert build("alignment_train.objectives", objective.settings()) == objective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": 0}, "found 0. Expected: at least 1"),
        ({"pivot": "klingonese"}, "language 'klingonese': not a known language. Allowed: ISO 639"),
        (
            {"decay": 0.9},
            "unknown key. Expected: center, chunk, direction, layer, memory, pivot, pooling, rows, special_tokens",
        ),
        ({"center": "mean"}, "found 'mean'. Expected: 'none', 'language' or 'batch'"),
        ({"center": "batch", "pivot": "en"}, "pivot: found eng_Latn with center batch. Allowed: with center language"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message: str):
    with pytest.raises(ValueError, match=message):
        centered(**settings)
    with pytest.raises(ValueError, match="layer: found 9. Expected: 'middle', a fraction between 0 and 1, or -4 to 3"):
        centered(layer=9).check(3)


def test_a_pivot_that_no_pair_has_is_refused():
    with pytest.raises(ValueError, match="pivot: found fra_Latn, which no pair has. Allowed: deu_Latn, eng_Latn"):
        centered(pivot="fr").setup(tiny(), bitext(4))
