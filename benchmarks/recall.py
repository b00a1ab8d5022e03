"""Recall@1 on dev text against the seconds of training: AFP's settings, mid-align's, and the recipe's own.

python -m benchmarks.recall STORE RECIPE [--seconds S] [--seeds N] [--out DIR]

STORE holds base_model and training_mix of RECIPE (`python -m assets align RECIPE --store STORE`, or as far as these).
All begin with its base model, read its mix and take its optimiser, max_length and schedule of the learning rate, each
over as many steps as S seconds hold on this machine; `ours, a third of the time` is given S/3. AFP contrasts the last
token of layer 1 of 8 pairs at temperature 0.05, mid-align the mean of the middle layer of 32 pairs at 0.1, both from
source to target alone and beside the instruction loss on as many rows (weights 1.5 and 1). Recall is the mean over
pairs and directions among at most ROWS sentences of dev, states averaged over tokens, at the layer that is best for it;
what it cost is the loss on the sentences of dev in the recipe's pivot. The clock stands while they are measured. The
methods take turns, seed by seed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from alignment_train.config import TrainConfig
from alignment_train.device import choose_device
from alignment_train.evaluation.lm import LM
from alignment_train.models.load import load
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.instruction import Instruction
from alignment_train.training.data import segments
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.precision import choose_precision
from alignment_train.training.progress_log import Reporter
from benchmarks.afp import RAW
from benchmarks.rival import machine
from benchmarks.table import markdown
from pipelines.config import read_recipe
from pipelines.evals.retrieval import credits
from pipelines.languages import name as name_of
from pipelines.progress import no_progress
from pipelines.storage.store import Store

ROWS = 300  # of dev, a pair
POINTS = 4  # of a curve
TRIAL = 22  # steps by which it is known how many a time holds
OURS, THIRD, AFP, MID_ALIGN = "ours", "ours, a third of the time", "AFP's settings", "mid-align's settings"
Point = tuple[float, float]
"""Seconds of training, and recall@1."""


class Curve(Reporter):
    """Asks for the recall at POINTS steps of a training, and keeps its time apart."""

    def __init__(self, folder: Path, steps: int, ask: Callable[[], float]):
        super().__init__("curve", folder / "log.jsonl", no_progress)
        self.at = {round((i + 1) * steps / POINTS) - 1 for i in range(POINTS)}
        self.ask, self.spent, self.points, self.pivot = ask, 0.0, list[Point](), 0.0
        self.steps: list[float] = []
        self._since = 0.0

    def rewind(self, step: int, log: Path | None = None) -> None:
        super().rewind(step, log)
        self._since = time.perf_counter()

    def step(self, step: int, *_: Any, **__: Any) -> None:
        self.steps.append(time.perf_counter() - self._since)
        self.spent += self.steps[-1]
        if step in self.at:
            self.points.append((self.spent, self.ask()))
        self._since = time.perf_counter()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store")
    parser.add_argument("recipe")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for recall.md and recall.json")
    options = parser.parse_args(arguments)
    recipe = read_recipe(options.recipe)
    config = TrainConfig.of(recipe)
    found = curves(Store(options.store), config, recipe.corpus.pivot, options.seconds, options.seeds)
    text = report({"recipe": recipe.name, "machine": machine(), **found})
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "recall.md").write_text(text + "\n")
        (options.out / "recall.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


def settings(config: TrainConfig) -> dict[str, list[Objective]]:
    """The objectives of each method, by the name it has in the table."""

    def paper(rows: int, weight: float, **contrast: Any) -> list[Objective]:
        one_way = {"direction": "src_to_tgt", "rows": rows, **RAW, **contrast}
        return [
            Contrastive.model_validate(one_way),
            Instruction.model_validate({"rows": rows, "weight": weight}),
        ]

    return {
        OURS: config.objectives,
        THIRD: config.objectives,
        MID_ALIGN: paper(32, 1.0, layer="middle", pooling="mean", temperature=0.1),
        AFP: paper(8, 1.5, layer=1, pooling="last", temperature=0.05),
    }


def curves(store: Store, config: TrainConfig, pivot: str, seconds: float, seeds: int) -> dict[str, Any]:
    """The curve of every method and seed and the pivot's loss at its end, and both of the base model."""
    dev = store.table("training_mix", part="dev")
    base = LM(load(store.fetched("base_model")), 0, config.max_length, choose_device(None))
    methods = settings(config)
    found: dict[str, list[list[Point]]] = {name: [] for name in methods}
    losses: dict[str, list[float]] = {name: [] for name in methods}
    parts = {name: read(store, objectives) for name, objectives in methods.items()}
    steps = {}  # of all seeds alike
    for name, objectives in methods.items():
        trial = trained(store, config, objectives, parts[name], dev, pivot, TRIAL, 0, ask=False)
        steps[name] = max(POINTS, round((seconds / 3 if name == THIRD else seconds) / float(np.mean(trial.steps[2:]))))
    for seed in range(seeds):
        for name, objectives in methods.items():
            curve = trained(store, config, objectives, parts[name], dev, pivot, steps[name], seed)
            found[name].append(curve.points)
            losses[name].append(curve.pivot)
            last = curve.points[-1]
            said = f"{steps[name]} steps, {last[0]:.0f} s, {100 * last[1]:.1f} %, {curve.pivot:.3f} nats"
            print(f"{name}, seed {seed}: {said}", file=sys.stderr, flush=True)
    whole = {"base": recall(base, dev), "base loss": loss(base, dev, pivot), "pivot": pivot}
    return {"seconds": seconds, **whole, "curves": found, "losses": losses}


def read(store: Store, objectives: list[Objective]) -> dict[str, pa.Table]:
    """The parts of the mix that they take their rows from."""
    stored = {"bitext" if item.reads == "segments" else item.reads for item in objectives}
    parts = {part: store.table("training_mix", part=part) for part in sorted(stored)}
    if any(item.reads == "segments" for item in objectives):
        parts["segments"] = segments(parts["bitext"])
    return parts


def trained(
    store: Store,
    config: TrainConfig,
    objectives: list[Objective],
    parts: dict[str, pa.Table],
    dev: pa.Table,
    pivot: str,
    steps: int,
    seed: int,
    ask: bool = True,
) -> Curve:
    """One training from the base model; without `ask` only its steps are timed."""
    device = choose_device(None)
    model = load(store.fetched("base_model"))
    plan = Plan(
        objectives=objectives,
        steps=steps,
        max_length=config.max_length,
        optimiser=config.optimiser,
        precision=choose_precision(config.precision, device, model.width(0)).name,
        seed=seed,
        checkpoint_every=steps + 1,
    )
    with tempfile.TemporaryDirectory() as folder:
        curve = Curve(Path(folder), steps, lambda: asked(model, config, dev, device) if ask else 0.0)
        train(model, plan, parts, Path(folder), curve, device)
    if ask:
        curve.pivot = loss(LM(model, 0, config.max_length, device), dev, pivot)
    return curve


def asked(model: Model, config: TrainConfig, dev: pa.Table, device: torch.device) -> float:
    """The recall of a model that goes on training after it."""
    found = recall(LM(model, 0, config.max_length, device), dev)
    model.lm.train()
    return found


def recall(lm: LM, dev: pa.Table) -> float:
    """Mean over pairs and both directions, at the best layer. dev: BITEXT."""
    layers = list(range(lm.num_layers + 1))
    by_pair: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in dev.to_pylist():
        rows = by_pair.setdefault((row["src_lang"], row["tgt_lang"]), [])
        if len(rows) < ROWS:
            rows.append((row["src"], row["tgt"]))
    sums = np.zeros(len(layers))
    for rows in by_pair.values():
        src, tgt = (lm.embed(list(side), layers, "mean+special") for side in zip(*rows, strict=True))
        sums += [credits(src[layer], tgt[layer]).mean() for layer in layers]
    return float(sums.max() / len(by_pair))


def loss(lm: LM, dev: pa.Table, lang: str) -> float:
    """Nats per token of the distinct sentences of dev in `lang`. dev: BITEXT."""
    rows = dev.to_pylist()
    texts = {row[side]: None for row in rows for side in ("src", "tgt") if row[f"{side}_lang"] == lang}
    nats, tokens = lm.loss(list(texts))
    return float(nats.sum() / tokens.sum())


def reached(points: list[Point], wanted: float) -> float | None:
    """Seconds at the first point of a curve with a recall of at least `wanted`."""
    return next((seconds for seconds, found in points if found >= wanted), None)


def report(found: dict[str, Any]) -> str:
    """Final figures with their range over the seeds, the curves, and when ours had what mid-align ends with."""
    made = found["curves"]
    final = {name: [points[-1][1] for points in seeds] for name, seeds in made.items()}
    spent = {name: [points[-1][0] for points in seeds] for name, seeds in made.items()}
    wanted = float(np.mean(final[MID_ALIGN]))
    cells = []
    for name, values in final.items():
        times = [reached(points, wanted) for points in made[name]]
        said = "–" if None in times else f"{np.mean([seconds for seconds in times if seconds is not None]):.0f}"
        cells.append([name, f"{np.mean(spent[name]):.0f}", percent(np.mean(values)),
                      f"{percent(min(values))} to {percent(max(values))}", said,
                      f"{np.mean(found['losses'][name]):.3f}"])  # fmt: skip
    points = [
        [name, *(percent(np.mean([seed[i][1] for seed in seeds])) for i in range(len(seeds[0])))]
        for name, seeds in made.items()
    ]
    third = float(np.mean(final[THIRD]))
    verdict = "reaches" if third >= wanted else "does not reach"
    return "\n\n".join(
        [
            f"`python -m benchmarks.recall STORE RECIPE`: {found['recipe']}, {found['machine']}; "
            f"{len(made[OURS])} seeds, recall@1 on dev of the base model {percent(found['base'])}, its loss "
            f"{found['base loss']:.3f}.",
            markdown(
                [
                    "settings",
                    "seconds",
                    "recall@1",
                    "over the seeds",
                    "seconds to mid-align's end",
                    f"nats per token of {name_of(found['pivot'])}",
                ],
                cells,
            ),
            markdown(["recall@1 by share of the time", *(f"{(i + 1) / POINTS:.0%}" for i in range(POINTS))], points),
            f"In a third of the time ours {verdict} what mid-align's settings end with ({percent(third)} against "
            f"{percent(wanted)}).",
        ]
    )


def percent(share: float | np.floating) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
