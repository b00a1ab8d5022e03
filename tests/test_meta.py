"""First-order MAML over clusters of languages: value and gradient are those of copies that took the inner steps."""

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from alignment_train.config import TrainConfig
from alignment_train.objectives.meta import Clusters, Meta, ward
from alignment_train.training.data import segments, texts
from pipelines.config import validate
from tests.support.models import bitext, tiny
from tests.support.trained import assert_a_kill_changes_nothing, trained

KINDS = ("llama", "gemma2", "gpt2", "bloom")  # the last three have tied heads
NAMED = [["deu_Latn", "nld_Latn"], ["eng_Latn"], ["dan_Latn"]]


def meta(**settings: Any) -> Meta:
    return Meta.model_validate({"rows": 12, "clusters": NAMED, "inner_learning_rate": 0.5, **settings})


def table(rows: int) -> pa.Table:
    """Segments: German, some of which passes for Dutch, with a word more for Danish, and English."""
    out = []
    for i, row in enumerate(segments(bitext(rows)).to_pylist()):
        text, code = row["text"], row["language"]
        if code == "deu_Latn":
            code = ("deu_Latn", "nld_Latn", "dan_Latn", "dan_Latn")[i % 4]
        out.append({"text": f"{text} null" if code == "dan_Latn" else text, "language": code})
    return pa.Table.from_pylist(out)


def rows_of(*languages: str) -> list[dict[str, str]]:
    """A row of each of the languages, texts of their own."""
    found = table(40).to_pylist()
    out = []
    for code in languages:
        out.append(next(row for row in found if row["language"] == code and row not in out))
    return out


MIXED = rows_of("deu_Latn", "eng_Latn", "nld_Latn", "dan_Latn", "eng_Latn", "deu_Latn", "dan_Latn", "eng_Latn",
                "dan_Latn")  # fmt: skip


def by_hand(model, rows: list[dict], clusters: list[list[str]], shift: int, steps: int, rate: float):
    """Mean query loss and its gradient by name, from copies of the model that plain SGD has moved."""
    groups = [own for codes in clusters if len(own := [row for row in rows if row["language"] in codes]) > 1]
    losses, gradients = [], {name: torch.zeros_like(p) for name, p in model.lm.named_parameters()}
    for i, group in enumerate(groups):
        moved = copy.deepcopy(model)
        sgd = torch.optim.SGD(moved.lm.parameters(), lr=rate)
        for _ in range(steps):
            sgd.zero_grad()
            moved.language_model_loss(texts([row["text"] for row in group[::2]], moved, 64)).backward()
            sgd.step()
        sgd.zero_grad()
        query = groups[(i + shift) % len(groups)][1::2]
        loss = moved.language_model_loss(texts([row["text"] for row in query], moved, 64))
        loss.backward()
        losses.append(loss.item())
        for name, p in moved.lm.named_parameters():
            gradients[name] += p.grad / len(groups)
    return sum(losses) / len(losses), gradients


@pytest.mark.parametrize(("kind", "query", "steps"), [
    *((kind, "others", 1) for kind in KINDS), ("llama", "own", 1), ("llama", "own", 3), ("gpt2", "others", 2),
])  # fmt: skip
def test_value_and_gradient_are_those_of_copies_that_took_the_steps(kind: str, query: str, steps: int):
    objective, model = meta(query=query, inner_steps=steps), tiny(kind)
    before = {name: value.clone() for name, value in model.lm.state_dict().items()}
    held = objective.setup(model, table(40))
    batch = objective.collate(MIXED, model, 64)
    loss, figures = objective.loss(model, batch, held)
    shift = 1 + int(batch["input_ids"].sum()) % 2 if query == "others" else 0
    value, gradients = by_hand(model, MIXED, NAMED, shift, steps, 0.5)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert figures["clusters"] == 3
    loss.backward()
    for name, p in model.lm.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-6)
        assert p.grad.abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.lm.state_dict().items())


def test_the_inner_step_counts_and_what_is_frozen_neither_steps_nor_learns():
    objective, model = meta(), tiny()
    held, batch = objective.setup(model, table(40)), objective.collate(MIXED, model, 64)
    whole = objective.loss(model, batch, held)[0].item()
    for p in model.lm.parameters():
        p.requires_grad_(False)
    model.lm.model.norm.weight.requires_grad_(True)
    part, _ = objective.loss(model, batch, held)
    part.backward()
    still = meta(inner_learning_rate=1e-9).loss(model, batch, held)[0].item()
    assert len({round(value, 5) for value in (whole, part.item(), still)}) == 3
    assert {name for name, p in model.lm.named_parameters() if p.grad is not None} == {"model.norm.weight"}


def test_every_other_cluster_is_asked_in_its_turn():
    objective, model = meta(), tiny()
    held, found = objective.setup(model, table(40)), set()
    for length in range(2, 12):
        rows = [{**row, "text": " ".join(["one"] * length) if i == 1 else row["text"]} for i, row in enumerate(MIXED)]
        loss = objective.loss(model, objective.collate(rows, model, 64), held)[0].item()
        wanted = {s: pytest.approx(by_hand(model, rows, NAMED, s, 1, 0.5)[0], rel=1e-5) for s in (1, 2)}
        (shift,) = [s for s in wanted if loss == wanted[s]]
        found.add(shift)
        if len(found) == 2:
            break
    assert found == {1, 2}


def test_a_cluster_of_one_row_is_left_out_and_one_cluster_alone_has_no_others():
    model = tiny()
    held = meta().setup(model, table(40))
    few = rows_of("deu_Latn", "eng_Latn", "eng_Latn", "dan_Latn", "nld_Latn")
    loss, figures = meta().loss(model, meta().collate(few, model, 64), held)
    assert figures["clusters"] == 2
    assert loss.item() == pytest.approx(by_hand(model, few, NAMED, 1, 1, 0.5)[0], rel=1e-5)
    alone = meta().collate(rows_of("eng_Latn", "eng_Latn", "dan_Latn"), model, 64)
    nothing, figures = meta().loss(model, alone, held)
    nothing.backward()
    assert (nothing.item(), figures["clusters"]) == (0, 0)
    assert not any(p.grad.any() for p in model.lm.parameters())
    assert meta(query="own").loss(model, alone, held)[0].item() > 1


def test_under_autocast_the_loss_is_that_of_float32_nearly_and_the_gradient_is_there():
    objective, model = meta(), tiny()
    held, batch = objective.setup(model, table(40)), objective.collate(MIXED, model, 64)
    plain = objective.loss(model, batch, held)[0].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective.loss(model, batch, held)
    loss.backward()
    assert loss.item() == pytest.approx(plain, rel=0.02)
    assert all(p.grad.abs().max() > 0 for p in model.lm.parameters())


def slow_ward(means: np.ndarray, count: int) -> set[frozenset[int]]:
    """The merges that add least to the sum of squares about the means, each sum computed anew."""

    def spread(members: list[int]) -> float:
        return float(((means[members] - means[members].mean(0)) ** 2).sum())

    groups = [[i] for i in range(len(means))]
    while len(groups) > count:
        pairs = [(spread(a + b) - spread(a) - spread(b), i, j) for i, a in enumerate(groups) for j, b in
                 enumerate(groups) if i < j]  # fmt: skip
        _, i, j = min(pairs)
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize(("size", "count"), [(2, 2), (9, 4), (30, 3), (30, 29)])
def test_clusters_are_those_of_ward(size: int, count: int):
    means = np.random.default_rng(size).normal(size=(size, 5)).astype(np.float32) + 7
    of = ward(means, count)
    assert sorted(set(of)) == list(range(count))
    assert {frozenset(i for i, own in enumerate(of) if own == c) for c in range(count)} == slow_ward(means, count)


def test_languages_of_like_states_share_a_cluster():
    model, german = tiny(), bitext(20)["src"].to_pylist()
    written = {"dan_Latn": "null {}", "deu_Latn": "{}", "eng_Latn": "one two three", "nld_Latn": "{}"}
    rows = pa.Table.from_pylist(
        [{"text": form.format(text), "language": code} for text in german for code, form in written.items()]
    )
    model.lm.train()
    held = meta(clusters=3).setup(model, rows)
    assert model.lm.training
    assert held.numbers.tolist() == [int.from_bytes(code.encode()) for code in written]
    assert held.of.tolist() == [0, 1, 2, 1]
    assert meta(clusters=2).setup(model, rows).of.tolist() == [0, 0, 1, 0]


def test_only_named_languages_are_read_and_each_must_be_there():
    rows = table(40)
    named = meta(clusters=[["da"], ["en"]])
    assert set(rows.filter(named.row_mask(rows))["language"].to_pylist()) == {"dan_Latn", "eng_Latn"}
    held = named.setup(tiny(), rows.filter(named.row_mask(rows)))
    assert isinstance(held, Clusters)
    assert held.of.tolist() == [0, 1]
    assert meta(clusters=2).row_mask(rows) is None
    with pytest.raises(
        ValueError, match="meta.clusters: found swh_Latn, in which there is no text. Allowed: dan_Latn, "
    ):
        meta(clusters=[["sw"], ["en"]]).row_mask(rows)
    with pytest.raises(ValueError, match="clusters: found 5 for 4 languages .dan_Latn, .* at most one for each. Lower"):
        meta(clusters=5).setup(tiny(), rows)


def test_a_killed_run_resumes_with_the_clusters_that_it_had(tmp_path):
    assert_a_kill_changes_nothing(tmp_path, meta(clusters=3), table(40))


def test_it_trains_and_the_control_goes_without_it(tmp_path):
    model, _, reporter = trained(tmp_path, meta(rows=24, inner_learning_rate=0.05), table(80), 20)
    first, last = reporter.ends()
    assert last["meta"] < 0.8 * first["meta"], (first, last)
    plain = texts(bitext(8, first=5003)["src"].to_pylist(), model, 64)
    with torch.no_grad():
        assert model.language_model_loss(plain).item() < 0.8 * tiny().language_model_loss(plain).item()
    assert validate(TrainConfig, {"objectives": ["meta"]}, "x", "train").control == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"clusters": 1}, "clusters: found 1. Allowed: 2 or more"),
        ({"clusters": [["en", "de"]]}, "clusters: found [['eng_Latn', 'deu_Latn']]. Allowed: 2 or more"),
        ({"clusters": [["en"], []]}, "clusters: found [['eng_Latn'], []]. Allowed: 2 or more"),
        ({"clusters": [["en"], ["de", "eng"]]}, "clusters: found eng_Latn twice"),
        ({"clusters": [["en"], ["klingonese"]]}, "not a known language"),
        ({"rows": 5}, "rows: found 5. Allowed: at least 6, two for each of 3 clusters"),
        ({"inner_steps": 0}, "inner_steps: found 0"),
        ({"inner_learning_rate": 0}, "inner_learning_rate: found 0"),
        ({"query": "all"}, "query: found 'all'"),
        ({"steps": 2}, "unknown key. "),
    ],
)
def test_settings_out_of_range_are_told(settings: dict, told: str):
    with pytest.raises(ValueError, match="meta") as caught:
        validate(TrainConfig, {"objectives": [{"meta": settings}]}, "recipe x", "train")
    assert told in str(caught.value)
