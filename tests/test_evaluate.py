import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from alignment_train.evaluation import evaluate
from pipelines.evals import LanguageModel, Metric, Sample, States
from pipelines.results.summary import table
from pipelines.storage.errors import StoreError
from pipelines.storage.store import Store
from tests.support.fake_metrics import TRAINED_LAYER, Answers, Fake, fabricate, figures, recipe, result

DE, SW = "deu_Latn-eng_Latn", "eng_Latn-swh_Latn"
RECIPE = recipe()
MODELS = {
    "base": figures({DE: 0.10, SW: 0.06}, {"eng_Latn": 5.0}),
    "control": figures({DE: 0.11, SW: 0.10}, {"eng_Latn": 5.1}),
    "aligned": figures({DE: 0.40, SW: 0.42}, {"eng_Latn": 5.11}),
}


def opened(models: dict[str, Any] = MODELS, used: list[Fake] | None = None):
    """`lms` of fakes; those that are loaded are noted in `used`."""

    def one(name: str):
        def load() -> Fake:
            fake = Fake(dict(models[name]))
            if used is not None:
                used.append(fake)
            return fake

        return load

    return {name: one(name) for name in models}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store to evaluate without report and pictures, which take most of the time."""
    monkeypatch.setattr(evaluate.evaluation, "render", lambda *_: "")
    monkeypatch.setattr(evaluate.plot_training, "loss_curves", lambda _: None)
    for name in ("recall_by_layer", "gaps"):
        monkeypatch.setattr(evaluate.plots, name, lambda _: None)
    return fabricate(tmp_path / "store", RECIPE, rows=8)


def test_metrics_hold_models_chance_and_differences(store: Store):
    evaluate.run(RECIPE, store, opened())
    found = json.loads((store.folder("evaluation") / "metrics.json").read_text())
    assert sorted(found) == [
        "aligned", "base", "chance", "contamination", "control", "differences", "format", "gaps", "groups", "means",
        "mix_rows", "pivot", "trained_layer",
    ]  # fmt: skip
    assert (found["format"], found["trained_layer"]) == (3, TRAINED_LAYER)
    key = f"retrieval/{DE}/recall@1"
    assert found["aligned"][key] == {"value": 0.4, "low": 0.37, "high": 0.43, "n": 600}
    assert found["aligned"][f"{key}/layer=0"] == {"value": 0.24, "low": 0.21, "high": 0.27, "n": 600}
    assert found["chance"] == {f"retrieval/{pair}/recall@1": 0.003333 for pair in (DE, SW)}
    assert found["differences"]["aligned-base"][key] == {"value": 0.3, "low": 0.257574, "high": 0.342426}
    assert found["differences"]["aligned-control"]["loss/eng_Latn/nats_per_token"]["value"] == 0.01


def test_each_eval_is_handed_its_own_texts(store: Store, tmp_path: Path):
    several = recipe(evals=[Answers(tag="retrieval"), Answers(tag="loss")])
    used: list[Fake] = []
    evaluate.run(several, fabricate(tmp_path / "several", several, rows=8), opened(used=used))
    assert [[{text.split()[0] for text in texts} for texts in fake.seen] for fake in used] == [
        [{"retrieval"}, {"loss"}]
    ] * 3  # fmt: skip


def test_the_folder_holds_report_and_pictures_and_the_same_twice(tmp_path: Path):
    found = []
    for name in ("one", "two"):
        store = fabricate(tmp_path / name, RECIPE, rows=8)
        manifest = evaluate.run(RECIPE, store, opened())
        found.append({file: digest for file, digest in manifest.files.items() if file != "report.html"})
        assert sorted(manifest.inputs) == ["align_model", "base_model", "control_model", "eval_text", "training_mix"]
        assert manifest.numbers["aligned/retrieval/mean/recall@1"] == 0.41
        assert manifest.numbers["control/loss/eng_Latn/nats_per_token"] == 5.1
        assert manifest.numbers["tone"] == "better"
        assert "etter at finding translations" in (store.folder("evaluation") / "report.html").read_text()
    assert sorted(found[0]) == ["loss_curves.png", "metrics.json", "recall_by_layer.png"]
    assert found[0] == found[1]


class Observed(Answers):
    """Answers with states to look at and baselines."""

    def observe(self, lm: LanguageModel, texts: pa.Table) -> tuple[dict[str, Metric], States]:
        rows = np.random.default_rng(len(self.run(lm, texts))).normal(size=(3, 12, 8))
        return self.run(lm, texts), dict(zip(("deu_Latn", "eng_Latn", "swh_Latn"), rows, strict=True))

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        found = {"ngrams": {f"retrieval/{DE}/recall@1": {"value": 0.0512345678, "low": 0.04, "high": 0.06, "n": 300}}}
        return found if random is None else {**found, "random": dict(self.run(random(), texts))}


def test_baselines_stand_beside_the_models_and_states_are_drawn(tmp_path: Path):
    models = {**MODELS, "random": figures({DE: 0.02, SW: 0.01}, {})}
    found, told = [], []
    for name in ("one", "two"):
        some = recipe(evals=[Observed()])
        store = fabricate(tmp_path / name, some, rows=8)
        manifest = evaluate.run(some, store, opened(models), lambda done, total=0, note="": told.append(note))
        found.append({file: digest for file, digest in manifest.files.items() if file != "report.html"})
    assert next(note for note in told if "eval texts" not in note) == "baselines"
    assert {"language_map.png", "metrics.json"} <= set(found[0])
    assert found[0] == found[1], "the same inputs give the same JSON and the same pictures"
    text = (store.folder("evaluation") / "metrics.json").read_text()
    metrics = json.loads(text)
    assert metrics["ngrams"] == {f"retrieval/{DE}/recall@1": {"value": 0.051235, "low": 0.04, "high": 0.06, "n": 300}}
    assert metrics["random"][f"retrieval/{SW}/recall@1"]["value"] == 0.01
    assert f'"retrieval/{DE}/recall@1": {{"high": 0.43, "low": 0.37, "n": 600, "value": 0.4}}' in text
    report = (store.folder("evaluation") / "report.html").read_text()
    for word in ("Random model", "Character n-grams", "before and after alignment: PCA", "data:image/png"):
        assert word in report
    assert "random" not in metrics["differences"]["aligned-base"]


class Writes(Answers):
    """Answers with two items that each model answered by its own recall, and a signature."""

    def samples(self, lm: LanguageModel, texts: pa.Table) -> list[Sample]:
        said = self.run(lm, texts)[f"retrieval/{DE}/recall@1"]["value"]
        return [Sample("answers/deu_Latn", f"question {i}", "gold", f"{i} {said}") for i in (1, 2)]

    def signatures(self, texts: pa.Table) -> dict[str, str]:
        return {f"retrieval/{DE}/recall@1": "v:1"}


def test_generations_of_all_models_stand_together_with_signatures(store: Store):
    found = evaluate.measure(recipe(evals=[Writes()]), store, opened()).to_json()
    said = {name: MODELS[name][f"retrieval/{DE}/recall@1"]["value"] for name in ("base", "control", "aligned")}
    assert found["samples"] == {
        "answers/deu_Latn": [
            {"prompt": f"question {i}", "reference": "gold", **{name: f"{i} {rate}" for name, rate in said.items()}}
            for i in (1, 2)
        ]
    }
    assert found["signatures"] == {f"retrieval/{DE}/recall@1": "v:1"}


def test_differences_leave_single_layers_out(store: Store):
    metrics = evaluate.measure(RECIPE, store, opened()).to_json()
    key = f"retrieval/{DE}/recall@1"
    assert f"{key}/layer=0" in metrics["aligned"]
    assert {key, f"retrieval/{SW}/recall@1", "loss/eng_Latn/nats_per_token"} == set(
        metrics["differences"]["aligned-base"]
    )


def test_an_unchanged_evaluation_loads_no_model(store: Store):
    used: list[Fake] = []
    first = evaluate.run(RECIPE, store, opened(used=used))
    assert len(used) == 3
    assert evaluate.run(RECIPE, store, opened(used=used)) == first
    assert len(used) == 3


def test_another_model_is_evaluated_anew(store: Store):
    first = evaluate.run(RECIPE, store, opened())
    with store.writing("align_model") as out:
        out.commit("another", {})
    used: list[Fake] = []
    assert evaluate.run(RECIPE, store, opened(used=used)).fingerprint != first.fingerprint
    assert len(used) == 3


def test_one_model_at_a_time_is_told(store: Store):
    told: list[str] = []
    evaluate.run(RECIPE, store, opened(), lambda done, total=0, note="": told.append(f"{done:g}/{total:g} {note}"))
    assert [line for line in told if "eval texts" not in line] == [
        "0/3 base · loading", "0/3 base · answers", "1/3 control · loading", "1/3 control · answers",
        "2/3 aligned · loading", "2/3 aligned · answers", "3/3 done",
    ]  # fmt: skip


def test_without_control_only_base_is_compared(store: Store, tmp_path: Path):
    store = fabricate(tmp_path / "two", RECIPE, control=False, rows=8)
    manifest = evaluate.run(RECIPE, store, opened({name: MODELS[name] for name in ("base", "aligned")}))
    found = json.loads((store.folder("evaluation") / "metrics.json").read_text())
    assert list(found["differences"]) == ["aligned-base"]
    assert "control" not in found
    assert "control_model" not in manifest.inputs


def test_a_merged_model_is_shown_beside_the_others(store: Store):
    with store.writing("merged_model") as out:
        out.commit("merged", {})
    merged = {**MODELS, "merged": figures({DE: 0.5, SW: 0.5}, {"eng_Latn": 5.2})}
    manifest = evaluate.run(RECIPE, store, opened(merged))
    found = json.loads((store.folder("evaluation") / "metrics.json").read_text())
    assert found["merged"][f"retrieval/{DE}/recall@1"]["value"] == 0.5
    assert manifest.inputs["merged_model"] == "merged"
    assert manifest.numbers["merged/retrieval/mean/recall@1"] == 0.5
    assert manifest.numbers["tone"] == "better"  # of aligned, as ever
    assert "merged" in table(result(found)).splitlines()[0]
    assert "merged" not in table(result({name: found[name] for name in found if name != "merged"}))


def test_a_figure_that_is_not_finite_is_null_and_called_broken(store: Store):
    broken = {**MODELS, "aligned": {**MODELS["aligned"], "loss/eng_Latn/nats_per_token": {"value": float("nan")}}}
    manifest = evaluate.run(RECIPE, store, opened(broken))
    found = json.loads((store.folder("evaluation") / "metrics.json").read_text())
    assert found["aligned"]["loss/eng_Latn/nats_per_token"] == {"value": None}
    assert manifest.numbers["tone"] == "mixed"


def test_two_evals_may_not_give_one_figure(tmp_path: Path):
    twice = recipe(evals=[Answers(), Answers()])
    store = fabricate(tmp_path / "store", twice, rows=8)
    with pytest.raises(ValueError, match=r"eval\.answers: found loss/eng_Latn/nats_per_token, which another"):
        evaluate.run(twice, store, opened())
    assert store.manifest("evaluation") is None


def test_missing_models_are_named(store: Store):
    with pytest.raises(ValueError, match="found no aligned model. Expected: base and aligned"):
        evaluate.run(RECIPE, store, opened({"base": MODELS["base"]}))
    with pytest.raises(ValueError, match="found tuned. Expected: base, control, aligned"):
        evaluate.run(RECIPE, store, opened({**MODELS, "tuned": {}}))


def test_an_empty_store_says_what_to_make(tmp_path: Path):
    with pytest.raises(StoreError, match="has no base_model"):
        evaluate.run(RECIPE, Store.open(tmp_path / "empty", RECIPE.name), opened())
