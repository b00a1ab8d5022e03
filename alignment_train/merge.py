"""Stage: align_model's adapter and a separately trained one -> merged_model, with weights selected on dev text.

Source: mid-align merges separately trained task and alignment modules and tunes the average on dev data (Liu and
Niehues 2025, arXiv 2502.14830).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from alignment_train import card
from alignment_train.config import TrainConfig
from alignment_train.evaluation.lm import LM
from alignment_train.losses import token_logprobs
from alignment_train.models import adapter
from alignment_train.models.adapter import Adapter
from alignment_train.models.load import load
from alignment_train.models.model import Model
from alignment_train.settings import Merge
from alignment_train.training.data import conversations
from alignment_train.training.writing import os_errors
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.evals.retrieval import credits
from pipelines.fetching.paths import is_address
from pipelines.files import sha256
from pipelines.progress import ProgressCallback, no_progress
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.segments import generator

LIBRARIES = ("torch", "transformers", "peft")
BATCH = 16
"""Conversations run at once."""
DIGITS = 6

Conversation = list[dict[str, str]]
Candidate = dict[str, Any]
"""A coefficient and its dev figures: `coefficient`, `loss`, `recall@1`."""


def run(
    recipe: Recipe,
    store: Store,
    config: TrainConfig,
    device: torch.device,
    on_progress: ProgressCallback = no_progress,
) -> Manifest:
    """Make merged_model; its manifest has the dev figures of every coefficient."""
    settings = config.merge
    if settings is None:
        raise UserError(
            f"recipe {recipe.name}: found no train.merge. Expected: the adapter to merge with. Fix: write merge: "
            f"{{adapter: a folder or a store}} under train."
        )
    folder, origin = _find_adapter(settings.adapter, store)
    fingerprint, inputs = _fingerprint(recipe, store, config, settings, folder)
    if done := store.unchanged("merged_model", None, fingerprint):
        return done
    pairs = _dev_pairs(recipe, store, settings.rows)
    dialogues = _conversations(recipe, pairs)
    model, adapters = _load_both(store, config, folder)
    lm = LM(model, store.require("align_model").numbers["trained_layer"], config.max_length, device)
    candidates: list[Candidate] = []
    with store.writing("merged_model") as out:
        for coefficient in settings.coefficients:
            on_progress(len(candidates), len(settings.coefficients), f"coefficient {coefficient:g}")
            _combine(adapters, settings, coefficient, recipe.seed)
            loss, recall = nats_per_token(model, dialogues, config.max_length), recall_at_1(lm, pairs)
            candidates.append(
                {"coefficient": coefficient, "loss": round(loss, DIGITS), "recall@1": round(recall, DIGITS)}
            )
        best = best_candidate(candidates, settings.choose)
        _combine(adapters, settings, candidates[best]["coefficient"], recipe.seed)
        with os_errors(out.path):
            model.save(out.path)
        numbers = {
            "method": settings.method,
            "adapter": settings.adapter,
            "adapter_made_for": adapter.base_model_name(folder) or "",
            "coefficient": candidates[best]["coefficient"],
            "chosen_by": f"dev {settings.choose}",
            "dev_rows": pairs.num_rows,
            "dev_conversations": len(dialogues),
            "candidates": [{**row, "chosen": i == best} for i, row in enumerate(candidates)],
            "trained_layer": lm.trained_layer,
            "data_of_adapter": card.data(origin) if origin else [],
        }
        (out.path / card.FILE).write_text(card.card(recipe, store, "merged_model", numbers), encoding="utf-8")
        return out.commit(fingerprint, recipe.resolved(), inputs=inputs, numbers=numbers)


def best_candidate(candidates: list[Candidate], criterion: str) -> int:
    """Index of the candidate with the lowest `loss` or the highest `recall@1`; ties go to the first.

    Raises:
        UserError: No figure is finite.
    """
    costs = np.array([row[criterion] if criterion == "loss" else -row[criterion] for row in candidates])
    if not np.isfinite(costs).any():
        raise UserError(
            f"merged_model: found no coefficient with a finite dev {criterion}. Expected: adapters that did not "
            f"diverge. Fix: train them with a lower learning rate."
        )
    return int(np.nanargmin(costs))


@torch.inference_mode()
def nats_per_token(model: Model, dialogues: list[Conversation], max_length: int) -> float:
    """Mean loss over the tokens of all responses."""
    by_length = sorted(dialogues, key=lambda turns: sum(len(turn["content"]) for turn in turns))
    nats, tokens = 0.0, 0
    for start in range(0, len(by_length), BATCH):
        logits, labels, _ = model.predictions(conversations(by_length[start : start + BATCH], model, max_length))
        nats -= float(token_logprobs(logits, labels)[0].sum())
        tokens += len(labels)
    return nats / tokens


def recall_at_1(lm: LM, pairs: pa.Table) -> float:
    """Recall@1 of translations among the dev rows of each language pair at the trained layer, averaged over pairs."""
    layer, recalls = lm.trained_layer, []
    for src_lang, tgt_lang in sorted({(row["src_lang"], row["tgt_lang"]) for row in pairs.to_pylist()}):
        rows = pairs.filter(pc.and_(pc.equal(pairs["src_lang"], src_lang), pc.equal(pairs["tgt_lang"], tgt_lang)))
        src, tgt = (lm.embed(rows[side].to_pylist(), [layer], "mean")[layer] for side in ("src", "tgt"))
        recalls.append(credits(src, tgt, f"merged_model, {src_lang}-{tgt_lang}").mean())
    return float(np.mean(recalls))


def _fingerprint(
    recipe: Recipe, store: Store, config: TrainConfig, settings: Merge, folder: Path
) -> tuple[str, dict[str, str]]:
    """The fingerprint of merged_model, and those of its inputs."""
    base, aligned, mix = (store.require(asset) for asset in ("base_model", "align_model", "training_mix"))
    inputs = {
        "base_model": base.fingerprint,
        "align_model": aligned.fingerprint,
        "training_mix/dev": mix.content("dev"),
        "adapter": sha256(folder / adapter.WEIGHTS) + sha256(folder / adapter.CONFIG),
    }
    parts = {
        "seed": recipe.seed,
        "merge": settings.model_dump(mode="json", exclude={"adapter"}),
        "max_length": config.max_length,
        "chat_date": config.chat_date.isoformat(),
        "wordings": [item.settings() for item in recipe.corpus.instructions],
    }
    return compute_fingerprint(__name__, parts, inputs, recipe.corpus.instructions, LIBRARIES), inputs


def _load_both(store: Store, config: TrainConfig, folder: Path) -> tuple[Model, Adapter]:
    """The base model with align_model's adapter, `aligned`, and that of `folder`, `other`."""
    aligned = store.fetched("align_model")
    if not adapter.is_adapter(aligned):
        raise UserError("align_model: found a whole model. Expected: an adapter. Fix: train it again.")
    model = load(store.fetched("base_model"), trust_remote_code=config.base.trust_remote_code)
    model.chat_date = config.chat_date
    adapters = Adapter.load(model, aligned, "aligned")
    adapters.add(model, folder, "other")
    return model, adapters


def _combine(adapters: Adapter, settings: Merge, coefficient: float, seed: int) -> None:
    """Activate the weighted combination of the adapters `aligned` and `other`."""
    torch.manual_seed(seed)  # DARE drops weights at random
    prunes = settings.method.startswith(("ties", "dare"))
    try:
        adapters.combine(
            {"aligned": coefficient, "other": 1 - coefficient}, settings.method, settings.density if prunes else None
        )
    except ValueError as error:
        raise UserError(
            f"train.merge.method: {settings.method} cannot merge these adapters: {error} Expected: cat, svd or a "
            f"method ending in _svd, which merge any two adapters of one base model. Fix: choose one of them."
        ) from None


def _dev_pairs(recipe: Recipe, store: Store, limit: int) -> pa.Table:
    """At most `limit` dev rows, sampled with the recipe's seed."""
    dev = store.table("training_mix", part="dev")
    if not dev.num_rows:
        raise UserError(
            "train.merge: found no dev rows in training_mix. Expected: some, to select the coefficient. Fix: raise "
            "corpus.dev_rows."
        )
    order = generator(recipe.seed, __name__, "rows").permutation(dev.num_rows)[:limit]
    return dev.take(pa.array(np.sort(order)))


def _conversations(recipe: Recipe, pairs: pa.Table) -> list[Conversation]:
    """The pairs as rendered by the recipe's instruction types; without any, source as prompt and target as response."""
    batch = pairs.combine_chunks().to_batches()[0]
    dialogues = []
    for item in recipe.corpus.instructions:
        dialogues += item.render(batch, generator(recipe.seed, __name__, item.name))["messages"].to_pylist()
    return dialogues or [
        [{"role": "user", "content": row["src"]}, {"role": "assistant", "content": row["tgt"]}]
        for row in batch.to_pylist()
    ]


def _find_adapter(name: str, store: Store) -> tuple[Path, Store | None]:
    """The folder of the adapter that `train.merge.adapter` names, and the store that it is in, if any.

    Raises:
        UserError: There is no adapter, or one of another base model.
    """
    sibling = f"{store.address.rstrip('/').rpartition('/')[0]}/{name}"
    for location in (name,) if is_address(name) else (str(Path(name).expanduser()), sibling):
        if not is_address(location) and adapter.is_adapter(Path(location)):
            return Path(location), None
        origin = Store(location)
        if not origin.manifest("align_model"):
            continue
        if _base_digests(origin) != _base_digests(store):
            raise UserError(
                f"train.merge.adapter {location}: its base_model has other weights than that of {store.address}. "
                f"Expected: adapters of one base model. Fix: set the same train.base in both recipes (for a seed "
                f"model, the folder of the trained one: base: {store.where('base_model')})."
            )
        folder = origin.fetched("align_model")
        if not adapter.is_adapter(folder):
            raise UserError(
                f"train.merge.adapter {location}: its align_model is a whole model. Expected: an adapter. Fix: set "
                f"train.adapter in its recipe and train it again."
            )
        return folder, origin
    raise UserError(
        f"train.merge.adapter: found neither an adapter nor a store with an align_model at {name} or {sibling}. "
        f"Expected: a folder with {adapter.CONFIG}, or the store of a recipe that was run. Fix: correct the path, or "
        f"run that recipe first."
    )


def _base_digests(store: Store) -> dict[str, str]:
    """{file: SHA-256} of the weights of a store's base_model."""
    files = store.require("base_model").files
    return {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
