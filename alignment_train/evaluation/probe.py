"""Stage: ask every layer of the base model for translations of dev text -> layer_probe: probe.json, a plot, a layer."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alignment_train.config import CENTERED, TrainConfig
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.evals import LanguageModel
from pipelines.evals._bitext import questions
from pipelines.evals.retrieval import center, cosines, embedded, found, mexa, ratio_margin, sides
from pipelines.progress import ProgressCallback, no_progress
from pipelines.report import plot_training
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

FORMAT = 1
"""Of probe.json."""

ROWS = 500  # dev rows of a pair that are asked, at most
DIGITS = 6
LIBRARIES = ("torch", "transformers", "numpy", "matplotlib")


def run(
    recipe: Recipe, store: Store, base: Callable[[], LanguageModel], on_progress: ProgressCallback = no_progress
) -> Manifest:
    """Probe the base model; `base` loads it. A layer is chosen for each way in which objectives pool and center."""
    config = TrainConfig.of(recipe)
    pairs = [str(pair) for pair in recipe.corpus.pairs]
    inputs = {
        "base_model": store.require("base_model").fingerprint,
        "training_mix/dev": store.require("training_mix").content("dev"),
    }
    settings = {
        "pairs": pairs,
        "pivot": recipe.corpus.pivot,
        "poolings": config.poolings,
        "max_length": config.max_length,
    }
    modules = ("alignment_train.evaluation.lm", "alignment_train.models.load")
    fingerprint = compute_fingerprint(__name__, settings, inputs, libraries=LIBRARIES, modules=modules)
    if done := store.unchanged("layer_probe", None, fingerprint):
        return done
    asked = texts(recipe, store.table("training_mix", part="dev"))
    with store.writing("layer_probe") as out:
        on_progress(0, 0, "loading")
        lm = base()
        layers: list[dict[str, Any]] = []
        by_pair: list[dict[str, Any]] = []
        for pooling in config.poolings:
            means, each = measure(lm, asked, pooling, on_progress)
            layers += means
            by_pair += each
        chosen = {row["pooling"]: row["layer"] for row in layers if row["chosen"]}
        whole = {"format": FORMAT, "layer": chosen, "layers": layers, "pairs": by_pair}
        (out.path / "probe.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (out.path / "layers.png").write_bytes(plot_training.layer_probe(layers))
        numbers = {**{f"layer/{pooling}": layer for pooling, layer in chosen.items()}, "layers": layers}
        return out.commit(fingerprint, recipe.resolved(), inputs=inputs, numbers=numbers, rows={})


def texts(recipe: Recipe, dev: pa.Table) -> pa.Table:
    """The dev rows that are asked, as EVAL_TEXT; dev: BITEXT. A pair of fewer than two says nothing and is left out."""
    batches = []
    for pair in recipe.corpus.pairs:
        own = dev.filter(pc.and_(pc.equal(dev["src_lang"], pair.src), pc.equal(dev["tgt_lang"], pair.tgt)))
        sides = list(questions("layer_probe", pair, own, ROWS, recipe.corpus.pivot))
        batches += sides if sides[0].num_rows > 1 else []
    if not batches:
        raise UserError(
            f"layer_probe: found {dev.num_rows} dev rows, in no pair two. Needed: two of a pair or more, better "
            f"hundreds. Raise corpus.dev_rows, or name the layer in place of 'auto'."
        )
    return pa.Table.from_batches(batches)


def measure(
    lm: LanguageModel, asked: pa.Table, pooling: str, on_progress: ProgressCallback = no_progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures of every layer, means over pairs, and of every pair and layer; the texts pass the model once.

    pooling: as `config.pooling_key` says it; centered, each state is less the mean of its side of the pair.
    recall@1 and margin_recall@1 (by ratio margin) are means of both directions. `behind` is how far margin_recall@1 is
    below the best layer's, `noise` the half-width of that difference's 95 % interval, `chance` that of guessing.
    """
    count, pairs = lm.num_layers + 1, len(set(asked["pair"].to_pylist()))
    each: list[dict[str, Any]] = []
    credit: list[np.ndarray] = []
    kind, prepare = pooling.removesuffix(CENTERED), center if pooling.endswith(CENTERED) else np.asarray
    for done, (pair, src, tgt) in enumerate(embedded(lm, sides(asked), list(range(count)), kind)):
        on_progress(done, pairs, f"{pooling}, {pair}")
        own = []
        for layer in range(count):
            both = prepare(src.states[layer]), prepare(tgt.states[layer])
            cosine = cosines(*both, f"layer_probe, {pair}, layer {layer}")
            own.append(found(ratio_margin(cosine)).mean(axis=0))
            figures = {
                "recall@1": found(cosine).mean(),
                "margin_recall@1": own[-1].mean(),
                "mexa": mexa(cosine).mean(),
                "chance": 1 / len(cosine),
            }
            place = {"pooling": pooling, "pair": pair, "layer": layer, "rows": len(cosine)}
            each.append({**place, **{name: round(float(figure), DIGITS) for name, figure in figures.items()}})
        credit.append(np.stack(own))
    chosen, behind, noise = choose(credit)
    means: list[dict[str, Any]] = []
    for layer in range(count):
        rows = [row for row in each if row["layer"] == layer]
        names = (*plot_training.MEASURES, "chance")
        figures = {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}
        figures |= {"behind": float(behind[layer]), "noise": float(noise[layer])}
        rounded = {name: round(figure, DIGITS) for name, figure in figures.items()}
        means.append({"pooling": pooling, "layer": layer, **rounded, "chosen": layer == chosen})
    return means, each


def choose(credit: Sequence[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """The layer to align at, and of every layer how far it is behind the best, and the noise of that.

    credit: of each pair [layers + 1, N], 1 where row i found its translation at that layer, 0 where it did not.
    The best layer has the highest mean of the pairs' means; the embeddings, layer 0, stand aside. Of the layers that
    are not behind it beyond noise (95 % interval of the paired difference, rows taken as independent), the one nearest
    to the middle is chosen, of two the lower, which costs less: middle layers align best in the models of mid-align
    (arXiv 2502.14830, 16 of 32), and so a base at chance everywhere gets `middle`, but for accident.
    Seen on the sample (seed model of 4 blocks): the base finds 0.3 to 0.5 % of 482 at every layer, chance is 0.2 %, so
    the answer is the middle, 2. Contrast of 100 steps at layer 1, 2, 3 or 4 brings held-out recall@1 there to 22.1,
    22.8, 21.5 and 22.8 % (another seed at 2: 20.1) and English loss to 1.03, 1.03, 1.04 and 1.10 nats: any layer can
    be trained there, the top one costs English most. Whether the layer that is best before training is the best to
    train was not measured, for want of a base that is above chance.
    """
    mean = np.mean([own.mean(axis=1) for own in credit], axis=0)
    best = 1 + int(mean[1:].argmax())
    behind = mean[best] - mean
    spread = [(own[best] - own).var(axis=1, ddof=1) / own.shape[1] for own in credit]
    noise = 1.96 * np.sqrt(np.sum(spread, axis=0)) / len(credit)
    alike = [layer for layer in range(1, len(mean)) if behind[layer] <= noise[layer]]
    middle = (len(mean) - 1) // 2
    return min(alike, key=lambda layer: (abs(layer - middle), layer)), behind, noise
