from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import torch

from alignment_train import trainer
from alignment_train.config import TrainConfig, pooling_key
from alignment_train.evaluation import probe
from alignment_train.evaluation.probe import choose
from alignment_train.trainer import Trainer
from assets.graph import define
from assets.locations import RunLocation
from pipelines.config import Recipe
from pipelines.evals.retrieval import cosines, found, mexa, ratio_margin
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.report import plot_training as plots
from pipelines.schema import BITEXT
from pipelines.storage.errors import StoreError
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import recipe, sentences
from tests.support.fake_lm import Unasked
from tests.support.graph import TINY, run
from tests.support.models import bitext, tiny

PAIRS = (Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "swh_Latn"))
LAYERS = 6


@dataclass
class Planting(Unasked):
    """A model that puts sentence k of every language near unit vector k at one layer, and anywhere at the others."""

    aligned: int | None
    num_layers: int = LAYERS
    trained_layer: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        self.asked.append((pooling, len(texts)))
        rng = np.random.default_rng(list(texts[0][:8].encode()))  # of the language
        noise = {layer: rng.normal(size=(len(texts), 64)) for layer in layers}
        if self.aligned is not None:
            numbers = [int(text.rstrip(".").split()[-1]) for text in texts]
            noise[self.aligned] += 8 * np.eye(64)[numbers]
        return {layer: states.astype(np.float32) for layer, states in noise.items()}


def with_train(**train: Any) -> Recipe:
    return recipe([str(pair) for pair in PAIRS]).model_copy(update={"train": train})


def contrast(layer: Any = "auto", **settings: Any) -> dict[str, Any]:
    return {"contrastive": {"layer": layer, **settings}}


def planted(root: Path, name: str = "planted", rows: int = 40, mark: str = "") -> Store:
    """A store with a dev part and what passes for a base model."""
    store = Store.open(root, name)
    with store.writing("training_mix") as out:
        for pair in PAIRS:
            sides = sentences(pair, rows)
            columns = [*sides, [pair.src] * rows, [pair.tgt] * rows, ["planted/v1"] * rows]
            out.write(pa.record_batch([pa.array(c, pa.string()) for c in columns], schema=BITEXT), "dev")
        out.commit("mix", {})
    with store.writing("base_model") as out:
        out.commit(f"base{mark}", {})
    return store


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the picture, which takes longer than the rest."""
    monkeypatch.setattr(plots, "layer_probe", lambda rows: b"")


def test_the_ratio_margin_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    src = rng.normal(size=(30, 8)) + 1
    cosine = cosines(src, src + 0.7 * rng.normal(size=(30, 8)))
    expected = np.empty((30, 30))
    for i in range(30):
        for j in range(30):
            of_src = sum(sorted(cosine[i])[-4:]) / 8  # eq. 2: a sum over k neighbours, over 2k
            of_tgt = sum(sorted(cosine[:, j])[-4:]) / 8
            expected[i, j] = cosine[i, j] / (of_src + of_tgt)
    assert ratio_margin(cosine, 4) == pytest.approx(expected, rel=1e-12)
    assert found(expected).mean() > found(cosine).mean() > 0.2, "hubs cost plain cosine some"


def test_a_margin_needs_no_more_neighbours_than_there_are_and_no_positive_cosine():
    two = np.array([[0.8, 0.4], [0.2, 0.6]])
    row, column = np.array([0.6, 0.4]), np.array([0.5, 0.5])
    assert ratio_margin(two) == pytest.approx(two / ((row[:, None] + column) / 2))
    assert found(ratio_margin(np.array([[-0.1, -0.4], [-0.3, -0.2]]))).tolist() == [[1, 1], [1, 1]]
    assert found(ratio_margin(np.ones((50, 50)))).mean() == pytest.approx(1 / 50)


def test_mexa_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    src = rng.normal(size=(40, 6))
    cosine = cosines(src, src + rng.normal(size=(40, 6)))
    others = [[j for j in range(40) if j != i] for i in range(40)]
    expected = [all(cosine[i, i] > cosine[i, j] and cosine[i, i] > cosine[j, i] for j in others[i]) for i in range(40)]
    assert mexa(cosine).tolist() == expected
    assert 0 < sum(expected) < 40
    assert not mexa(np.ones((5, 5))).any(), "what is equally near is no translation"


def test_the_chosen_layer_is_the_one_that_was_planted(tmp_path: Path):
    store, lm = planted(tmp_path), Planting(5)
    manifest = probe.run(with_train(objectives=[contrast()]), store, lambda: lm)
    assert manifest.numbers["layer/mean, centered"] == 5
    rows = {row["layer"]: row for row in manifest.numbers["layers"]}
    assert sorted(rows) == list(range(LAYERS + 1))
    assert [layer for layer, row in rows.items() if row["chosen"]] == [5]
    for measure in plots.MEASURES:
        assert rows[5][measure] > 0.9
        assert all(rows[layer][measure] < 0.2 for layer in rows if layer != 5)
    assert rows[5]["behind"] == 0
    assert rows[4]["behind"] > rows[4]["noise"] > 0
    assert rows[0]["chance"] == pytest.approx(1 / 40)
    assert (store.folder("layer_probe") / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert '"layer": {\n  "mean, centered": 5' in (store.folder("layer_probe") / "probe.json").read_text()
    assert lm.asked == [("mean", 40)] * 3, "the side that both pairs share passes the model once"


def test_the_embeddings_and_what_is_noise_are_not_chosen(tmp_path: Path, undrawn: None):
    for aligned in (0, None):
        store = planted(tmp_path / str(aligned))
        manifest = probe.run(with_train(objectives=[contrast()]), store, lambda at=aligned: Planting(at))
        assert manifest.numbers["layer/mean, centered"] == LAYERS // 2


def test_of_layers_alike_the_nearest_to_the_middle_is_chosen_and_of_two_the_lower():
    rng = np.random.default_rng(2)
    low, high = (rng.random(400) < share for share in (0.3, 0.6))

    def chosen(*layers: np.ndarray) -> int:
        return choose([np.stack([low, *layers]).astype(float)])[0]

    assert chosen(low, low, low, low, high) == 5
    assert chosen(low, high, low, low, high) == 2
    assert chosen(high, low, low, high) == 1
    assert chosen(high, low, high, low) == 1
    assert chosen(low, low, low, low) == 2
    slightly = high.copy()
    slightly[np.flatnonzero(~high)[:2]] = True
    _, behind, noise = choose([np.stack([low, high, slightly]).astype(float)])
    assert behind[1:].tolist() == pytest.approx([2 / 400, 0])
    differs = (slightly ^ high).astype(float)
    assert noise[1:].tolist() == pytest.approx([1.96 * differs.std(ddof=1) / 20, 0])
    assert chosen(high, slightly, low, low, low, low) == 2, "nearer to the middle"
    assert chosen(low, high, slightly, low) == 2, "two rows of 400 are noise"


def test_pairs_count_alike_and_one_of_a_single_row_is_left_out(tmp_path: Path):
    good, bad = np.ones(10), np.zeros(10)
    many, few = np.stack([bad] * 2 + [good]).repeat(40, axis=1), np.stack([bad, good, bad])
    mean = choose([many, few])
    assert mean[1].tolist() == [0.5, 0, 0], "of two layers that win one pair each, neither is ahead"
    said = with_train(objectives=[contrast()])
    for rows in (0, 1):
        store = planted(tmp_path / str(rows), rows=rows)
        told = rf"found {2 * rows} dev rows, in no pair two\. Needed: .* Raise corpus.dev_rows"
        with pytest.raises(ValueError, match=told):
            probe.run(said, store, lambda: Planting(1))
        assert store.manifest("layer_probe") is None


def test_nothing_is_probed_again_until_the_base_or_the_pooling_changes(tmp_path: Path, undrawn: None):
    def probed(store: Store, **settings: Any) -> bool:
        lm = Planting(2)
        probe.run(with_train(objectives=[contrast(**settings), "language_model"], steps=3), store, lambda: lm)
        return bool(lm.asked)

    store = planted(tmp_path)
    assert probed(store)
    assert not probed(store)
    assert not probed(store, layer=4, temperature=0.5)
    assert probed(store, pooling="last")
    assert not probed(store, pooling="last")
    assert not probed(store, pooling="last", center="batch"), "both subtract the mean of each language"
    assert probed(store, pooling="last", center="none")
    assert probed(store, pooling="last", special_tokens=True)
    assert probed(store, pooling="last")
    assert probed(planted(tmp_path, mark="2"), pooling="last")


def test_auto_takes_the_layer_of_its_own_pooling(tmp_path: Path, undrawn: None):
    objectives = [contrast(pooling="mean"), "lens", {"retain": {"layer": "auto"}}, "language_model"]
    said = with_train(objectives=[objectives[0], {"lens": {"layer": "auto"}}, *objectives[2:]])
    config, store = TrainConfig.of(said), planted(tmp_path)
    assert config.needs_probe
    assert config.poolings == ["last", "mean", "mean, centered"]
    assert [type(item).__name__ for item in config.control] == ["Retain", "LanguageModel"]
    with pytest.raises(
        StoreError,
        match=r"has no layer_probe\. Expected: this dataset, which the next step reads\. Fix: make it with 'make al",
    ):
        trainer.resolved(config, store)

    class PerPooling(Planting):
        def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
            self.aligned = {"mean": 2, "last": 4}[pooling]  # of a centered one, the model knows nothing
            return super().embed(texts, layers, pooling)

    manifest = probe.run(said, store, lambda: PerPooling(None))
    assert {key: value for key, value in manifest.numbers.items() if key != "layers"} == {
        "layer/last": 4, "layer/mean": 2, "layer/mean, centered": 2
    }  # fmt: skip
    taken = trainer.resolved(config, store)
    assert [getattr(item, "layer", None) for item in taken.objectives] == [2, 4, 2, None]
    assert taken.layer == 2
    assert not taken.needs_probe
    plain = TrainConfig.of(with_train(objectives=[contrast(2)]))
    assert (
        TrainConfig.of(with_train(objectives=[contrast()])).with_layers({"mean, centered": 2}).settings()
        == plain.settings()
    )
    assert trainer.resolved(plain, Store(tmp_path / "nowhere")) is plain


@dataclass
class Sinking(Planting):
    """The planted layer has a long direction of the language in all states; layer 2 knows less, without one."""

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        out = super().embed(texts, layers, pooling)
        rng = np.random.default_rng(list(texts[0][:8].encode()))
        out[5] += (1000 * rng.normal(size=64)).astype(np.float32)
        numbers = [int(text.rstrip(".").split()[-1]) for text in texts]
        out[2] += 4 * np.eye(64, dtype=np.float32)[numbers]
        return out


def test_a_centered_contrast_is_told_the_layer_that_is_best_centered(tmp_path: Path, undrawn: None):
    objectives = [
        contrast(), {"span": {"layer": "auto"}}, {"retain": {"layer": "auto", "special_tokens": True}}
    ]  # fmt: skip
    said, store = with_train(objectives=objectives), planted(tmp_path)
    lm = Sinking(5)
    manifest = probe.run(said, store, lambda: lm)
    assert {name for name, _ in lm.asked} == {"mean", "mean+special"}
    numbers = {key: value for key, value in manifest.numbers.items() if key != "layers"}
    assert numbers == {"layer/mean": 2, "layer/mean, centered": 5, "layer/mean+special": 2}
    assert [item.layer for item in trainer.resolved(TrainConfig.of(said), store).objectives] == [5, 2, 2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"contrastive": {}}, "mean, centered"),
        ({"contrastive": {"center": "none"}}, "mean"),
        ({"contrastive": {"center": "batch", "special_tokens": True}}, "mean+special, centered"),
        ({"contrastive": {"pooling": "last", "center": "none", "special_tokens": True}}, "last+special"),
        ({"prompt": {"pooling": "last"}}, "last, centered"),
        ({"lens": {}}, "last"),
        ({"lens": {"special_tokens": True}}, "last+special"),
        ({"span": {}}, "mean"),
        ({"retain": {"special_tokens": True}}, "mean+special"),
    ],
)
def test_an_objective_is_probed_as_it_pools(settings: dict[str, Any], expected: str):
    objective: Any = build("alignment_train.objectives", settings)
    assert pooling_key(objective) == expected


def test_a_probe_for_another_pooling_is_no_answer(tmp_path: Path, undrawn: None):
    store = planted(tmp_path)
    probe.run(with_train(objectives=[contrast()]), store, lambda: Planting(2))
    config = TrainConfig.of(with_train(objectives=[contrast(pooling="last")]))
    with pytest.raises(ValueError, match="layer_probe: found no layer for pooling last, centered: it was made"):
        trainer.resolved(config, store)


@pytest.mark.parametrize("name", ["contrastive", "span", "lens", "retain"])
def test_every_objective_with_a_layer_takes_auto(name: str):
    config = TrainConfig.model_validate({"base": {"seed": {"layers": 1}}, "objectives": [{name: {"layer": "auto"}}]})
    assert config.needs_probe
    assert getattr(config.with_layers({"mean": 1, "last": 1, "mean, centered": 1}).objectives[0], "layer", None) == 1
    with pytest.raises(ValueError, match="layer: found 2. Expected: 'middle', a fraction between 0 and 1, or -2 to 1"):
        TrainConfig.model_validate({"base": {"seed": {"layers": 1}}, "objectives": [{name: {"layer": 2}}]})


def test_without_an_objective_that_has_a_layer_mean_is_probed():
    config = TrainConfig.model_validate({"objectives": ["language_model"]})
    assert config.poolings == ["mean"]
    assert not config.needs_probe


def test_a_training_with_auto_is_the_one_with_the_layer_that_was_chosen(tmp_path: Path):
    def trainer(layer: Any) -> Trainer:
        said = recipe(["en-de"]).model_copy(
            update={
                "train": {
                    "objectives": [contrast(layer, rows=4), {"language_model": {"rows": 4}}],
                    "steps": 2,
                    "max_length": 16,
                    "precision": "float32",
                }
            }
        )
        return Trainer(said, store, "cpu")

    store = Store.open(tmp_path, "planted")
    with store.writing("training_mix") as out:
        for part, rows in (("bitext", 40), ("dev", 20)):
            out.write(bitext(rows, first=1000 if part == "bitext" else 7000).to_batches()[0], part)
        out.commit("mix", {})
    with store.writing("base_model") as out:
        tiny().save(out.path)
        out.commit("base", {})
    with pytest.raises(StoreError, match="has no layer_probe"):
        trainer("auto").align()
    chosen = trainer("auto").probe().numbers["layer/mean, centered"]
    assert chosen in (1, 2, 3)
    made = trainer("auto").align()
    assert made.numbers["trained_layer"] == chosen
    assert made.numbers["rows/contrastive"] == 8
    assert trainer("auto").align() == made
    assert trainer(chosen).align() == made, "named or chosen, it is the same training"
    assert trainer("auto").models()["aligned"]().trained_layer == chosen
    assert trainer(chosen % 3 + 1).align().fingerprint != made.fingerprint


def test_the_graph_waits_for_the_probe_only_where_a_layer_is_auto(tmp_path: Path):
    said = tmp_path / "auto.yaml"
    said.write_text(f"extends: {TINY}\ntrain: {{objectives: [{{contrastive: {{layer: auto}}}}, language_model]}}\n")
    parents, wanted = {}, {}
    for name, file in (("plain", TINY), ("auto", said)):
        definitions = define(RunLocation(file, "/nowhere"))
        graph = definitions.resolve_asset_graph()
        parents[name] = {
            key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
            for key in graph.get_all_asset_keys()
        }
        keys = definitions.resolve_job_def("align").asset_layer.selected_asset_keys
        wanted[name] = {key.to_user_string() for key in keys}
    plain, auto = parents["plain"], parents["auto"]
    assert plain["layer_probe"] == auto["layer_probe"] == {"training_mix", "base_model"}
    assert {asset for asset in auto if auto[asset] != plain[asset]} == {"control_model", "align_model", "evaluation"}
    assert all(auto[asset] - plain[asset] in (set(), {"layer_probe"}) for asset in auto)
    assert wanted["auto"] - wanted["plain"] == {"layer_probe"}
    assert wanted["auto"] == set(auto)


def test_the_asset_shows_plot_and_table(tmp_path: Path):
    store = planted(tmp_path / "store", name="tiny")
    probe.run(with_train(objectives=[contrast()]), store, lambda: Planting(5))
    result = run(tmp_path / "store", "layer_probe", trainer=["true"], tags={})
    (made,) = result.asset_materializations_for_node("layer_probe")
    assert isinstance(made.metadata["plot_layers"], dg.MarkdownMetadataValue)
    assert made.metadata["layer/mean, centered"].value == 5
    table = made.metadata["layers"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["layer"] for record in table.records if record.data["chosen"]] == [5]


def test_the_plot_has_a_panel_for_each_pooling_and_names_what_it_shows():
    def rows(pooling: str, chosen: int) -> list[dict[str, Any]]:
        figures = dict.fromkeys([*plots.MEASURES, "chance"], 0.1)
        return [{"pooling": pooling, "layer": n, "chosen": n == chosen, **figures} for n in range(4)]

    svg = plots.layer_probe([*rows("mean", 1), *rows("last", 2)], svg=True).decode()
    for label in ("pooling mean", "pooling last", "chosen", "margin recall@1", "MEXA", "chance", "Layer (0"):
        assert label in svg
    assert svg.count(">chosen<") == 2
    pictures = [plots.layer_probe(rows("mean", chosen), svg=True) for chosen in (1, 1, 2)]
    assert pictures[0] == pictures[1] != pictures[2]


def test_the_probe_of_a_stored_model_is_one_forward_pass(tmp_path: Path):
    """All layers come out of the same pass: each batch of texts goes through the body once."""
    from alignment_train.evaluation.lm import LM

    model = tiny()
    lm, passes = LM(model, 0, 16, torch.device("cpu")), []
    model.body.register_forward_hook(lambda *_: passes.append(1))
    texts = bitext(20)["src"].to_pylist()
    batches = sum(1 for _ in lm._batches(texts))
    lm.embed(texts, [0, 1, 2, 3], "mean")
    assert len(passes) == batches
