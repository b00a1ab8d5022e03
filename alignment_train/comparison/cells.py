"""One cell of a comparison: the base model trained on with one recipe and seed, and what the recipe's evals say of it.

It leaves metrics.json and log.jsonl in the store, which are kilobytes, and its model, which is megabytes, where asked.
"""

import json
from pathlib import Path
from typing import Literal

from alignment_train.evaluation import measure
from alignment_train.layers import layer_index
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.trainer import KEY, Trainer
from pipelines.results.evaluation_result import EvaluationResult, read_result
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

Role = Literal["base", "control", "aligned"]
DEV_ROWS = 100  # most segment pairs of a language pair by which a layer is chosen: the choice is among few
MODULES = ("alignment_train.evaluation.lm", "alignment_train.layers", "alignment_train.models.load")
LIBRARIES = ("torch", "transformers")


def make(trainer: Trainer, role: Role, keep: bool = False) -> Manifest:
    """The base model as it is, or what the recipe's objectives make of it; of the control, those that do not align.

    keep: whether a trained model stays, too; where it was not kept then, it is made again.
    """
    fingerprint, inputs = identity(trainer, role)
    done = trainer.store.unchanged("cells", fingerprint[:KEY], fingerprint)
    keep = keep and role != "base"
    if done and not (keep and not any(name.endswith(".safetensors") for name in done.files)):
        return done
    if role == "base":
        model = trainer.stored("base_model")
        with trainer.store.writing("cells", fingerprint[:KEY]) as out:
            _measure(trainer, role, model, out.path)
            numbers = {"recipe": trainer.recipe.name}
            return out.commit(
                fingerprint, trainer.recipe.resolved(), inputs=inputs, rows={}, seconds=0.0, numbers=numbers
            )

    def write(model: Model, folder: Path) -> None:
        if keep:
            model.save(folder)
        _measure(trainer, role, model, folder)  # which changes the precision of its weights

    return trainer.cell(_objectives(trainer, role), fingerprint, inputs, write)


def identity(trainer: Trainer, role: Role) -> tuple[str, dict[str, str]]:
    """The fingerprint of a cell, and those of what it reads."""
    store, recipe = trainer.store, trainer.recipe
    if role == "base":
        model, read = store.require("base_model").fingerprint, dict[str, str]()
    else:
        model, read = trainer.identity(_objectives(trainer, role))
    asked = {"eval_text": store.require("eval_text").fingerprint, "dev": store.require("training_mix").content("dev")}
    said = {"dev_rows": DEV_ROWS, "precision": trainer.config.precision}
    fingerprint = compute_fingerprint(
        "alignment_train.evaluation.measure", said, {**asked, "model": model}, recipe.eval, LIBRARIES, MODULES
    )
    return fingerprint, {**read, **asked}


def _objectives(trainer: Trainer, role: Role) -> list[Objective]:
    return list(trainer.resolved.control if role == "control" else trainer.resolved.objectives)


def metrics(store: Store, cell: Manifest) -> EvaluationResult:
    """metrics.json of a cell: as evaluation has it, of one model alone, and `dev`, its recall by layer on dev text."""
    folder = store.fetched("cells", cell.pair, under="metrics.json")
    return read_result(folder)


def _measure(trainer: Trainer, role: Role, model: Model, folder: Path) -> None:
    trained_at = trainer.resolved.layer if role == "aligned" else "middle"  # others' cells serve recipes of any layer
    layer = layer_index(trained_at, len(model.blocks))
    lm = trainer.evaluated(model, layer)
    found = measure.measure(trainer.recipe, trainer.store, {role: lambda: lm}, trainer.on_progress)
    dev = measure.dev_recall(trainer.recipe, trainer.store, lm, DEV_ROWS, trainer.on_progress)
    text = json.dumps({**found.to_json(), "dev": dev}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
