from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from alignment_train.losses import language_subspaces
from alignment_train.objectives.lens import Lens, Probed
from pipelines.registry import build, load
from tests.support.models import SHAPES, bitext, tiny
from tests.support.trained import assert_a_kill_changes_nothing

LANGUAGES = ["deu_Latn", "nld_Latn", "dan_Latn"]


def lens(**settings: Any) -> Lens:
    plugin = build("alignment_train.objectives", {"lens": {"rows": 6, **settings}})
    assert isinstance(plugin, Lens)
    return plugin


def languages(rows: int) -> pa.Table:
    """German; its words reversed, for Dutch; with a word more, for Danish. Every fifth row is turned, English first."""
    out = []
    for i, row in enumerate(bitext(rows).to_pylist()):
        words = row["src"].split()
        row["src"] = " ".join([words, words[::-1], [*words, "null"]][i % 3])
        row["src_lang"] = LANGUAGES[i % 3]
        if i % 5 == 0:
            row = {**row, "src": row["tgt"], "tgt": row["src"], "src_lang": "eng_Latn", "tgt_lang": row["src_lang"]}
        out.append(row)
    return pa.Table.from_pylist(out)


def sides(row: dict) -> tuple[str, str, str]:
    if row["src_lang"] == "eng_Latn":
        return row["src"], row["tgt"], row["tgt_lang"]
    return row["tgt"], row["src"], row["src_lang"]


def state(model, text: str, layer: int) -> torch.Tensor:
    """[T, H] of one text by itself."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    return model.hidden_states(ids, torch.ones_like(ids))[layer][0]


def lsar(means: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """arXiv 2401.05792, algorithm 1, step by step. means: [H, L]; returns [H] and [H, rank]."""
    ones = np.ones(means.shape[1])
    first = means.mean(1)
    u, s, vh = np.linalg.svd(means - np.outer(first, ones))
    low = np.outer(first, ones) + u[:, :rank] @ np.diag(s[:rank]) @ vh[:rank]
    shared = np.linalg.pinv(low).T @ ones
    shared /= (shared**2).sum()
    return shared, np.linalg.svd(low - np.outer(shared, ones))[0][:, :rank]


def projector(basis: np.ndarray) -> torch.Tensor:
    basis = basis.reshape(len(basis), -1)
    return torch.tensor(basis @ np.linalg.pinv(basis), dtype=torch.float32)


def moved(model, by: float = 0.02):
    """The model after something has trained it."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.lm.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


def test_subspaces_are_those_of_the_published_algorithm_and_at_right_angles():
    rng = np.random.default_rng(0)
    for languages_, size in ((2, 8), (5, 8), (8, 8)):
        means = rng.normal(size=(languages_, size)) + 2
        shared, specific = language_subspaces(torch.tensor(means))
        wanted, basis = lsar(means.T, languages_ - 1)
        torch.testing.assert_close(torch.outer(shared, shared), projector(wanted), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(specific @ specific.T, projector(basis), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(specific.T @ specific, torch.eye(languages_ - 1), rtol=1e-4, atol=1e-5)
        assert torch.linalg.norm(shared @ specific).item() == pytest.approx(0, abs=1e-5)


def test_what_differs_between_languages_alone_is_in_the_specific_subspace():
    common, own = torch.zeros(6), torch.eye(6)[1:4]
    common[0] = 3.0
    shared, specific = language_subspaces(torch.cat([common[None], common + own]))
    torch.testing.assert_close(shared.abs(), torch.eye(6)[0] * 1.0)
    torch.testing.assert_close(specific @ specific.T, torch.diag(torch.tensor([0.0, 1, 1, 1, 0, 0])))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer": 1, "push": 0.5, "pull": 2.0, "retain": 3.0},
        {"layer": "middle", "pull": 0, "retain": 0, "special_tokens": True},
    ],
)
def test_loss_parts_and_gradient_are_those_computed_text_by_text_from_projections(settings):
    objective, model, base, table = lens(**settings), tiny(), tiny(), languages(12)
    layer = {-1: 3, 1: 1, "middle": 1}[objective.layer]
    held = objective.setup(model, table)
    rows = table.to_pylist()
    own, other = defaultdict(list), defaultdict(list)
    for row in rows:
        one, two, code = sides(row)
        own[code].append(state(base, one, layer)[-1].detach())
        other[code].append(state(base, two, layer)[-1].detach())
    pivot = torch.stack([torch.stack(found).mean(0) for found in own.values()]).mean(0)
    delta = {code: torch.stack(other[code]).mean(0) - torch.stack(own[code]).mean(0) for code in own}
    shared, specific = lsar(np.stack([pivot, *(pivot + delta[code] for code in sorted(delta))], 1), 3)
    project_shared, project_specific = projector(shared), projector(specific)

    moved(model)
    same = moved(tiny())
    some = rows[3:9]
    retain, push, pull = [], defaultdict(list), defaultdict(list)
    for row in some:
        one, two, code = sides(row)
        english, foreign = state(same, one, layer), state(same, two, layer)[-1]
        first = 0 if objective.special_tokens else 1
        retain.append((english[first:].mean(0) - state(base, one, layer).detach()[first:].mean(0)).square())
        gap = project_specific @ foreign - project_specific @ state(base, two, layer)[-1].detach()
        push[code].append((gap - objective.push * project_specific @ delta[code]).square())
        pull[code].append((project_shared @ (english[-1] - foreign)).square())
    parts = {
        "retain": torch.stack(retain).mean(),
        "push": torch.stack([torch.stack(found).mean() for found in push.values()]).sum(),
        "pull": torch.stack([torch.stack(found).mean() for found in pull.values()]).sum(),
    }
    wanted = objective.retain * parts["retain"] + parts["push"] + objective.pull * parts["pull"]

    loss, figures = objective.loss(model, objective.collate(some, model, 64), held)
    assert figures == pytest.approx({name: part.item() for name, part in parts.items()}, rel=1e-3)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)
    loss.backward()
    wanted.backward()
    for ours, theirs in zip(model.lm.parameters(), same.lm.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-3 * theirs.grad.abs().max().item())


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_before_training_nothing_is_lost_and_the_way_ahead_is_the_distance_of_languages(kind: str):
    objective, model, table = lens(), tiny(kind), languages(12)
    held = objective.setup(model, table)
    batch = objective.collate(table.slice(0, 6).to_pylist(), model, 64)
    _, figures = objective.loss(model, batch, held)
    assert figures["retain"] == 0
    assert figures["push"] == pytest.approx(held.directions.square().sum().item() / 16, rel=1e-4)
    still, figures = lens(push=0, pull=0).loss(model, batch, held)
    assert figures["push"] == 0
    assert still.item() == 0
    assert not any(p.requires_grad for p in held.base.lm.parameters())


def test_it_trains_the_model_and_not_the_base_which_stays_as_it_was():
    objective, model, table = lens(rows=12), tiny(attention_dropout=0.1), languages(48)
    held = objective.setup(model, table)
    assert isinstance(held, Probed)
    assert model.lm.training is False
    assert all(p.requires_grad for p in model.lm.parameters())
    kept = {name: value.clone() for name, value in held.base.lm.state_dict().items()}
    model.lm.train()
    assert not held.base.lm.training
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-2, weight_decay=0.0)
    rows, losses, parts = table.to_pylist(), [], []
    for step in range(40):
        start = 12 * (step % 4)
        loss, figures = objective.loss(model, objective.collate(rows[start : start + 12], model, 64), held)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        parts.append(figures)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4]), losses
    assert parts[-1]["push"] < 0.5 * parts[0]["push"]
    assert parts[-1]["pull"] < 0.5 * parts[0]["pull"]
    assert all(torch.equal(value, kept[name]) for name, value in held.base.lm.state_dict().items())


def test_a_killed_run_resumes_against_the_same_base(tmp_path):
    assert_a_kill_changes_nothing(tmp_path, lens(), languages(48))


def test_under_autocast_too_nothing_is_lost_before_training():
    objective, model, table = lens(push=0, pull=0), tiny(), languages(12)
    held = objective.setup(model, table)
    with torch.autocast("cpu", torch.bfloat16):
        loss, figures = objective.loss(model, objective.collate(table.slice(0, 6).to_pylist(), model, 64), held)
    assert loss.dtype == torch.float32
    assert (figures["push"], figures["retain"]) == (0, 0)


def test_made_again_it_is_the_same_and_a_row_in_either_direction_is_too():
    objective, table = lens(), languages(30)
    one, two = objective.setup(tiny(), table), objective.setup(tiny(), table)
    for name in ("numbers", "shared", "specific", "directions"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    row = table.to_pylist()[1]
    turned = {"src": row["tgt"], "tgt": row["src"], "src_lang": row["tgt_lang"], "tgt_lang": row["src_lang"]}
    model = tiny()
    batches = [objective.collate([given], model, 64) for given in (row, turned)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


def test_probing_takes_so_many_pairs_of_each_language_over_the_whole_table(monkeypatch):
    seen = []
    last = Lens._last
    monkeypatch.setattr(Lens, "_last", lambda self, base, texts: seen.append(texts) or last(self, base, texts))
    table = languages(90)
    lens(probe_rows=5).setup(tiny(), table)
    assert [len(texts) for texts in seen] == [5] * 6
    german = [sides(row)[1] for row in table.to_pylist() if "deu_Latn" in (row["src_lang"], row["tgt_lang"])]
    dutch = [sides(row)[0] for row in table.to_pylist() if "nld_Latn" in (row["src_lang"], row["tgt_lang"])]
    assert seen[3] == german[::6]  # languages ascending: dan, deu, nld; the pivot's texts first
    assert seen[4] == dutch[::6]


def test_rows_without_the_pivot_are_not_wanted_not_probed_and_refused():
    table = languages(12)
    strange = table.set_column(3, "tgt_lang", pa.array(["fra_Latn" if i % 3 == 0 else c for i, c in enumerate(
        table["tgt_lang"].to_pylist())]))  # fmt: skip
    rows = strange.to_pylist()
    mask = lens().row_mask(strange).to_pylist()
    assert mask == ["eng_Latn" in (row["src_lang"], row["tgt_lang"]) for row in rows]
    assert 0 < sum(mask) < 12
    model = tiny()
    both, one = lens().setup(model, strange), lens().setup(model, strange.filter(lens().row_mask(strange)))
    assert torch.equal(both.directions, one.directions)
    with pytest.raises(ValueError, match="pivot: found a pair deu_Latn-nld_Latn. Allowed: pairs with eng_Latn"):
        lens().collate([{**rows[1], "src_lang": "deu_Latn", "tgt_lang": "nld_Latn"}], model, 64)
    with pytest.raises(
        ValueError, match="lens.pivot: found no row in tam_Taml among 12 rows of bitext. Expected: dan_Latn, deu_Latn"
    ):
        lens(pivot="ta").setup(model, table)


def test_another_pivot_is_turned_to_as_well():
    model, table = tiny(), bitext(6)
    batch = lens(pivot="de").collate(table.to_pylist(), model, 64)
    assert model.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True).startswith("eins")
    held = lens(pivot="de").setup(model, table)
    assert held.numbers.tolist() == [int.from_bytes(b"eng_Latn")]


def test_more_languages_than_numbers_in_a_state_are_refused():
    table = bitext(20)
    codes = [f"{chr(97 + i)}xx_Latn" for i in range(20)]
    with pytest.raises(ValueError, match="found 21 languages for states of 16 numbers. Allowed: as many"):
        lens().setup(tiny(), table.set_column(2, table.schema.field(2), pa.array(codes)))


def test_it_is_the_one_plug_in_of_its_file_and_leaves_the_control():
    assert load("alignment_train.objectives", "lens") is Lens
    assert Lens.is_alignment
    assert lens(pivot="en").settings()["lens"]["pivot"] == "eng_Latn"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pull": -1}, "found -1. Expected: at least 0"),
        ({"probe_rows": 0}, "found 0. Expected: more than 0"),
        ({"pivot": "xx"}, "language 'xx': not a known language. Allowed: ISO 639"),
        (
            {"lambda_push": 1},
            "unknown key. Expected: layer, pivot, probe_rows, pull, push, retain, rows, special",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message: str):
    with pytest.raises(ValueError, match=message):
        lens(**settings)
    with pytest.raises(ValueError, match="layer: found 9. Expected: 'middle', a fraction between 0 and 1, or -4 to 3"):
        lens(layer=9).check(3)
