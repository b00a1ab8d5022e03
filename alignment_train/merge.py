"""Stage: align_model's adapter and one trained apart -> merged_model, their weights chosen on dev text.

Source: mid-align merges separately trained task and alignment modules and tunes the average on dev data (Liu and
Niehues 2025, arXiv 2502.14830).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from alignment_train import card
from alignment_train.config import Merge
from alignment_train.evaluation.lm import LM
from alignment_train.losses import token_logprobs
from alignment_train.models import adapter
from alignment_train.models.load import load
from alignment_train.models.model import Model
from alignment_train.training.data import conversations
from alignment_train.training.writing import os_errors
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.evals.retrieval import credits
from pipelines.fetching.paths import is_address
from pipelines.files import sha256
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.segments import generator

if TYPE_CHECKING:
    from alignment_train.trainer import Trainer

LIBRARIES = ("torch", "transformers", "peft")
ROWS = 16  # conversations a batch
DIGITS = 6


def run(trainer: "Trainer") -> Manifest:
    """merged_model of the recipe's `train.merge`, and in its manifest the dev figures of every coefficient."""
    recipe, store, settings = trainer.recipe, trainer.store, trainer.config.merge
    if settings is None:
        raise UserError(
            f"recipe {recipe.name}: found no train.merge. Needed: which adapter to merge align_model's with. Write "
            f"merge: {{adapter: a folder or a store}} below train."
        )
    base, aligned, mix = (store.require(asset) for asset in ("base_model", "align_model", "training_mix"))
    other, apart = _other(settings.adapter, store)
    inputs = {
        "base_model": base.fingerprint,
        "align_model": aligned.fingerprint,
        "training_mix/dev": mix.content("dev"),
        "adapter": sha256(other / adapter.WEIGHTS) + sha256(other / adapter.CONFIG),
    }
    said = {
        "seed": recipe.seed,
        "merge": settings.model_dump(mode="json", exclude={"adapter"}),
        "max_length": trainer.config.max_length,
        "chat_date": trainer.config.chat_date.isoformat(),
        "wordings": [item.settings() for item in recipe.corpus.instructions],
    }
    fingerprint = compute_fingerprint(__name__, said, inputs, recipe.corpus.instructions, LIBRARIES)
    if done := store.unchanged("merged_model", None, fingerprint):
        return done
    pairs = _dev_pairs(recipe, store, settings.rows)
    talks = _conversations(recipe, pairs)
    model = load(store.fetched("base_model"), trust_remote_code=trainer.config.base.trust_remote_code)
    model.chat_date = trainer.config.chat_date
    own = store.fetched("align_model")
    if not adapter.is_adapter(own):
        raise UserError("align_model: has all weights, no adapter. Needed: an adapter. Train it again.")
    adapter.load(model, own, "aligned")
    adapter.load(model, other, "other")
    lm = LM(model, aligned.numbers["trained_layer"], trainer.config.max_length, trainer.device)
    found: list[dict[str, Any]] = []
    with store.writing("merged_model") as out:
        for coefficient in settings.coefficients:
            trainer.on_progress(len(found), len(settings.coefficients), f"coefficient {coefficient:g}")
            _weigh(model, settings, coefficient, recipe.seed)
            nats = nats_per_token(model, talks, trainer.config.max_length)
            recall = recall_at_1(lm, pairs)
            found.append({"coefficient": coefficient, "loss": round(nats, DIGITS), "recall@1": round(recall, DIGITS)})
            model.adapter.set_adapter("aligned")  # what is in use cannot go without a warning
            model.adapter.delete_adapter(adapter.NAME)
        best = chosen(found, settings.choose)
        _weigh(model, settings, found[best]["coefficient"], recipe.seed)
        with os_errors(out.path):
            model.save(out.path)
        numbers = {
            "method": settings.method,
            "adapter": settings.adapter,
            "adapter_made_for": adapter.made_for(other) or "",
            "coefficient": found[best]["coefficient"],
            "chosen_by": f"dev {settings.choose}",
            "dev_rows": pairs.num_rows,
            "dev_conversations": len(talks),
            "candidates": [{**row, "chosen": i == best} for i, row in enumerate(found)],
            "trained_layer": lm.trained_layer,
            "data_of_adapter": card.data(apart) if apart else [],
        }
        (out.path / card.FILE).write_text(card.card(recipe, store, "merged_model", numbers), encoding="utf-8")
        return out.commit(fingerprint, recipe.resolved(), inputs=inputs, numbers=numbers)


def chosen(found: list[dict[str, Any]], by: str) -> int:
    """The place of the best candidate: the least `loss`, or the greatest `recall@1`; of equals the first.

    ValueError where no figure is finite.
    """
    figures = np.array([row[by] if by == "loss" else -row[by] for row in found])
    if not np.isfinite(figures).any():
        raise UserError(f"merged_model: dev {by} is finite for no coefficient. Needed: adapters that did not diverge.")
    return int(np.nanargmin(figures))


@torch.inference_mode()
def nats_per_token(model: Model, talks: list[list[dict[str, str]]], max_length: int) -> float:
    """Loss over the tokens of all responses, each token alike."""
    ordered = sorted(talks, key=lambda talk: sum(len(message["content"]) for message in talk))
    nats, tokens = 0.0, 0
    for start in range(0, len(ordered), ROWS):
        logits, labels, _ = model.predictions(conversations(ordered[start : start + ROWS], model, max_length))
        nats -= float(token_logprobs(logits, labels)[0].sum())
        tokens += len(labels)
    return nats / tokens


def recall_at_1(lm: LM, pairs: pa.Table) -> float:
    """Of the translations among the dev rows of each language pair, at the trained layer; mean over the pairs."""
    found = []
    for key in sorted({(row["src_lang"], row["tgt_lang"]) for row in pairs.to_pylist()}):
        own = pairs.filter(pc.and_(pc.equal(pairs["src_lang"], key[0]), pc.equal(pairs["tgt_lang"], key[1])))
        src, tgt = (
            lm.embed(own[side].to_pylist(), [lm.trained_layer], "mean")[lm.trained_layer] for side in ("src", "tgt")
        )
        found.append(credits(src, tgt, f"merged_model, {'-'.join(key)}").mean())
    return float(np.mean(found))


def _weigh(model: Model, settings: Merge, coefficient: float, seed: int) -> None:
    """Lay the merged adapter, named NAME, on the model and make it the one that is used."""
    torch.manual_seed(seed)  # DARE drops at random: a coefficient has one adapter
    try:
        model.adapter.add_weighted_adapter(
            ["aligned", "other"],
            [coefficient, 1 - coefficient],
            adapter.NAME,
            combination_type=settings.method,
            density=settings.density if settings.method.startswith(("ties", "dare")) else None,
        )
    except ValueError as error:
        raise UserError(
            f"train.merge.method: {settings.method} cannot merge these adapters: {error} Allowed for any two of one "
            f"base: cat, or svd and the methods ending in it. Take one of them."
        ) from None
    model.adapter.set_adapter(adapter.NAME)


def _dev_pairs(recipe: Recipe, store: Store, most: int) -> pa.Table:
    """At most `most` dev rows, drawn by the recipe's seed."""
    dev = store.table("training_mix", part="dev")
    if not dev.num_rows:
        raise UserError(
            "train.merge: found no dev rows in training_mix. Needed: some, to choose the coefficient. Raise "
            "corpus.dev_rows."
        )
    order = generator(recipe.seed, __name__, "rows").permutation(dev.num_rows)[:most]
    return dev.take(pa.array(np.sort(order)))


def _conversations(recipe: Recipe, pairs: pa.Table) -> list[list[dict[str, str]]]:
    """The pairs as the recipe's instruction types render them; where none does, source as prompt, target as answer."""
    batch = pairs.combine_chunks().to_batches()[0]
    talks = []
    for item in recipe.corpus.instructions:
        talks += item.render(batch, generator(recipe.seed, __name__, item.name))["messages"].to_pylist()
    return talks or [
        [{"role": "user", "content": row["src"]}, {"role": "assistant", "content": row["tgt"]}]
        for row in batch.to_pylist()
    ]


def _other(named: str, store: Store) -> tuple[Path, Store | None]:
    """The folder of the adapter that `train.merge.adapter` names, and its store where it lies in one.

    ValueError where there is none, or one of another base.
    """
    beside = f"{store.address.rstrip('/').rpartition('/')[0]}/{named}"
    for place in (named,) if is_address(named) else (str(Path(named).expanduser()), beside):
        if not is_address(place) and adapter.is_adapter(Path(place)):
            return Path(place), None
        there = Store(place)
        if not there.manifest("align_model"):
            continue
        if _weights(there) != _weights(store):
            raise UserError(
                f"train.merge.adapter {place}: its base_model has other weights than that of {store.address}. Needed: "
                f"adapters of one base. Name in both recipes the same train.base (for a seed, the folder of the one "
                f"that was made: base: {store.where('base_model')})."
            )
        folder = there.fetched("align_model")
        if not adapter.is_adapter(folder):
            raise UserError(
                f"train.merge.adapter {place}: its align_model has all weights, no adapter. Needed: an adapter. Set "
                f"train.adapter in its recipe and train it again."
            )
        return folder, there
    raise UserError(
        f"train.merge.adapter: found neither an adapter nor a store with an align_model at {named}, nor at {beside}. "
        f"Allowed: a folder with {adapter.CONFIG}, or the store of a recipe that was run. Correct the path, or run "
        f"that recipe first."
    )


def _weights(store: Store) -> dict[str, str]:
    files = store.require("base_model").files
    return {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
