"""What training leaves in a store: base_model, control_model and align_model, each made once per fingerprint."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from alignment_train import card, merge
from alignment_train.config import TrainConfig
from alignment_train.device import choose_device
from alignment_train.evaluation import probe
from alignment_train.evaluation.lm import LM
from alignment_train.evaluation.measure import ASSETS
from alignment_train.layers import layer_index
from alignment_train.models import adapter, seed
from alignment_train.models.check import check_recipe
from alignment_train.models.load import load, load_base, untrained
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.training import distributed, trainable
from alignment_train.training.data import read_parts, segments
from alignment_train.training.loop import train
from alignment_train.training.plan import Outcome, Plan
from alignment_train.training.precision import choose_precision
from alignment_train.training.progress_log import Reporter, announce_once
from alignment_train.training.writing import os_errors
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.files import digest_once
from pipelines.progress import ProgressCallback, no_progress
from pipelines.results.summary import MERGED
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.meter import Meter
from pipelines.storage.store import Store

CODE = "alignment_train.training.loop"  # with what it imports: the code that decides the weights
LOADING = "alignment_train.models.load"
LIBRARIES = ("torch", "transformers", "accelerate", "peft")
KEY = 16  # digits of a cell's fingerprint by which it is stored
Write = Callable[[Model, Path], None]
"""Leaves what is kept of a trained model in a folder."""


class Trainer:
    """One recipe, one store, one device for each process; where there are several, the first alone writes."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        device: str | None = None,
        on_progress: ProgressCallback = no_progress,
        dagster: Any = None,
    ):
        """device: `cpu`, `cuda`, or None for the best there is; dagster: an open Pipes context or None."""
        self.recipe, self.store, self.on_progress, self.dagster = recipe, store, on_progress, dagster
        self.config = TrainConfig.of(recipe)
        self.device = choose_device(device)
        distributed.initialize(self.device)

    def base(self) -> Manifest:
        """base_model: the model that the recipe names, or a seed trained on the monolingual sides of the bitext."""
        settings = self.config.base
        if settings.seed is None:
            return self._named_base()
        inputs = {
            f"decontaminated_bitext/{pair}": self.store.require("decontaminated_bitext", pair).fingerprint
            for pair in self.recipe.corpus.pairs
        }
        mix = self.store.require("training_mix")
        inputs["training_mix/dev"] = mix.content("dev")
        plan = Plan(
            objectives=[LanguageModel.model_validate({"rows": settings.seed.rows})],
            steps=settings.seed.steps,
            max_length=settings.seed.context,
            optimiser=settings.seed.optimiser,
            precision="float32",  # until there is a model
            seed=self.recipe.seed,
            checkpoint_every=self.config.checkpoint_every,
            guards=self.config.guards,
            parallel=self.config.parallel,
        )
        said = {"seed": self.recipe.seed, "base": settings.model_dump(mode="json"), "precision": self.config.precision}
        fingerprint = compute_fingerprint(
            "alignment_train.models.seed",
            said,
            inputs,
            plan.objectives,
            (*LIBRARIES, "sentencepiece", "tokenizers"),
            (CODE,),
        )
        if done := self._done("base_model", fingerprint):
            return done
        self.on_progress(0, 0, "reading bitext and training the tokenizer")
        bitext = distributed.main_process_first(lambda: seed.bitext(self.recipe, self.store))
        model = seed.make(settings.seed, bitext, self.recipe.seed)
        plan.precision = self.precision(model)
        kind = f"seed: {_millions(model)} parameters, trained here from nothing on {bitext.num_rows:,} pairs"
        text, context = segments(bitext), settings.seed.context

        def more() -> dict[str, Any]:
            dev = segments(self.store.table("training_mix", part="dev"))
            return {"base": kind, **seed.dev_loss(model, dev, text, context, self.recipe.seed)}

        return self._train("base_model", model, plan, {"segments": text}, fingerprint, inputs, more)

    def _named_base(self) -> Manifest:
        settings = self.config.base
        files = {file.name: digest_once(file) for file in settings.files}
        named = {"gguf": settings.gguf} if settings.gguf else {}
        said = {"model": settings.model, **named, "revision": settings.revision, "files": files}
        fingerprint = compute_fingerprint(LOADING, said, {}, libraries=LIBRARIES)
        if done := self._done("base_model", fingerprint):
            return done
        if not distributed.is_main_process():
            distributed.barrier()
            return self.store.require("base_model")
        model = self._checked(load_base(settings, self.config.adapter))
        conversations = self._conversations(model)
        with self.store.writing("base_model") as out:
            with os_errors(out.path):
                model.save(out.path)
            name = " ".join(filter(None, (settings.model, settings.gguf)))
            kind = " at ".join(filter(None, (name, model.commit or settings.revision)))
            numbers = {
                "base": f"{'local' if files else 'hub'}: {kind}",
                "parameters": _parameters(model),
                "blocks": len(model.blocks),
                **conversations,
                **({"notes": "; ".join(model.notes)} if model.notes else {}),
            }
            manifest = out.commit(fingerprint, self.recipe.resolved(), numbers=numbers)
        distributed.barrier()
        return manifest

    def _done(self, asset: str, fingerprint: str) -> Manifest | None:
        """The manifest where it is made already; all processes look before one of them writes."""
        done = self.store.unchanged(asset, None, fingerprint)
        distributed.barrier()
        return done

    def probe(self) -> Manifest:
        """layer_probe: what every layer of the base model already knows of translations, and which to align at."""

        def base() -> LM:
            return self.evaluated(self.stored("base_model"), 0)

        return distributed.main_process_first(lambda: probe.run(self.recipe, self.store, base, self.on_progress))

    def align(self) -> Manifest:
        """align_model: the base model after all objectives of the recipe."""
        return self._continue("align_model", lambda config: config.objectives)

    def control(self) -> Manifest:
        """control_model: the same rows and tokens in the same order, without the objectives that align."""
        return self._continue("control_model", lambda config: config.control)

    def merge(self) -> Manifest:
        """merged_model: align_model's adapter and one trained apart, weighed on dev text."""
        return distributed.main_process_first(
            lambda: merge.run(self.recipe, self.store, self.config, self.device, self.on_progress)
        )

    def models(self) -> dict[str, Callable[[], LM]]:
        """What evaluation compares, each loaded when called: base, control, aligned and merged, as the store has them.

        One that a recipe without `merge` left there is no part of it. And `random`, of the base's shape and tokenizer
        with weights that learned nothing.
        """
        names = {name: asset for name, asset in ASSETS.items() if name != MERGED or self.config.merge}
        chosen = self.resolved.layer

        def opened(asset: str, loaded: Callable[[Path], Model] | None = None) -> LM:
            model = self._dated(loaded(self.store.fetched(asset))) if loaded else self.stored(asset)
            return self.evaluated(model, layer_index(chosen, len(model.blocks)))

        found = {name: partial(opened, asset) for name, asset in names.items() if self.store.manifest(asset)}
        random = partial(untrained, seed=self.recipe.seed, trust_remote_code=self.config.base.trust_remote_code)
        return {**found, "random": partial(opened, "base_model", random)}

    def evaluated(self, model: Model, layer: int) -> LM:
        """What evals are given of a model, whose weights are from now on in the precision of its training."""
        return LM(model, layer, self.config.max_length, self.device, precision=self.precision(model))

    def precision(self, model: Model) -> str:
        """`float32` or `bfloat16`, as the recipe says or this machine decides, which is announced once."""
        name, reason = choose_precision(self.config.precision, self.device, model.width(0))
        if reason:
            announce_once(f"precision {name}: {reason}", self.dagster)
        return name

    def stored(self, asset: str) -> Model:
        """A model of the store, an adapter laid on the base_model that it was trained on."""
        folder, trusted = self.store.fetched(asset), self.config.base.trust_remote_code
        if not adapter.is_adapter(folder):
            return self._checked(load(folder, trust_remote_code=trusted))
        made_of = self.store.require(asset).inputs["base_model"]
        if self.store.require("base_model").fingerprint != made_of:
            raise UserError(
                f"{asset}: an adapter of another base_model than that of store {self.store.address}. Needed: the one "
                f"that it was trained on. Make it again with 'make align', or with 'python -m alignment_train all'."
            )
        model = self._checked(load(self.store.fetched("base_model"), trust_remote_code=trusted))
        adapter.Adapter.load(model, folder)
        return model

    def _checked(self, model: Model) -> Model:
        """The model; UserError where settings do not fit it, which may have changed since it was stored."""
        check_recipe(self._dated(model), self.recipe, self.config)
        return model

    def _dated(self, model: Model) -> Model:
        model.chat_date = self.config.chat_date
        return model

    def _conversations(self, model: Model) -> dict[str, str]:
        """How conversations are written for the model, where the recipe has some."""
        return {"conversations": model.chat.describe()} if self.config.uses_chat(self.recipe) else {}

    @property
    def resolved(self) -> TrainConfig:
        """The recipe's settings, with the probe's layer for `auto`: of the same answer nothing is trained again."""
        return resolved(self.config, self.store)

    def identity(self, objectives: list[Objective]) -> tuple[str, dict[str, str]]:
        """The fingerprint of what these objectives make of the base model, and those of what they read."""
        base, mix = self.store.require("base_model"), self.store.require("training_mix")
        inputs = {"base_model": base.fingerprint, "training_mix": mix.fingerprint}
        said = {"seed": self.recipe.seed, "train": self.resolved.settings(objectives)}
        return compute_fingerprint(CODE, said, inputs, objectives, LIBRARIES, (LOADING,)), inputs

    def cell(self, objectives: list[Objective], fingerprint: str, inputs: dict[str, str], write: Write) -> Manifest:
        """A training whose model is not kept: `write` leaves in a folder what is; stored by its fingerprint."""
        return self._further("cells", objectives, fingerprint, inputs, fingerprint[:KEY], write)

    def _continue(self, asset: str, of: Callable[[TrainConfig], list[Objective]]) -> Manifest:
        objectives = of(self.resolved)
        fingerprint, inputs = self.identity(objectives)
        return self._done(asset, fingerprint) or self._further(asset, objectives, fingerprint, inputs)

    def _further(
        self,
        asset: str,
        objectives: list[Objective],
        fingerprint: str,
        inputs: dict[str, str],
        key: str | None = None,
        write: Write = Model.save,
    ) -> Manifest:
        """The base model trained on with these objectives."""
        config = self.resolved
        parts = distributed.main_process_first(
            lambda: read_parts(self.store, {objective.reads for objective in objectives})
        )
        model = distributed.main_process_first(lambda: self.stored("base_model"))
        layer = layer_index(config.layer, len(model.blocks))
        plan = Plan.of(config, objectives, self.precision(model), self.recipe.seed)
        trainable.freeze(model, config.trainable)
        if config.adapter:
            adapter.Adapter.create(model, config.adapter.method, config.base, self.recipe.seed)
        numbers = {"trained_layer": layer, **self._conversations(model)}
        return self._train(asset, model, plan, parts, fingerprint, inputs, lambda: numbers, key, write)

    def _train(
        self,
        asset: str,
        model: Model,
        plan: Plan,
        parts: dict[str, pa.Table],
        fingerprint: str,
        inputs: dict[str, str],
        more: Callable[[], dict[str, Any]],
        key: str | None = None,
        write: Write = Model.save,
    ) -> Manifest:
        checkpoints = distributed.main_process_first(lambda: self.store.scratch(asset, fingerprint))
        reporter = Reporter(asset, checkpoints / "log.jsonl", self.on_progress, self.dagster)
        meter = Meter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        outcome = train(model, plan, parts, checkpoints, reporter, self.device)
        peak = meter.peak_bytes()
        if not distributed.is_main_process():
            distributed.barrier()
            return self.store.require(asset)
        numbers, spent = {**more(), **self._numbers(model, outcome, reporter)}, reporter.seconds()
        with self.store.writing(asset, key) as out:
            with os_errors(out.path):
                write(model, out.path)
            if asset in card.WAYS:
                (out.path / card.FILE).write_text(card.card(self.recipe, self.store, asset, numbers), encoding="utf-8")
            if reporter.log.exists():
                shutil.copy(reporter.log, out.path / "log.jsonl")
                shutil.copytree(reporter.board, out.path / "tensorboard")
            manifest = out.commit(
                fingerprint,
                self.recipe.resolved(),
                inputs=inputs,
                rows={},
                seconds=spent,
                peak_memory_bytes=peak,
                numbers=numbers,
            )
        shutil.rmtree(checkpoints)
        distributed.barrier()
        return manifest

    def _numbers(self, model: Model, outcome: Outcome, reporter: Reporter) -> dict[str, Any]:
        first, last = reporter.ends()
        on_gpu = self.device.type == "cuda"
        return {
            "parameters": _parameters(model),
            "trainable_parameters": sum(p.numel() for p in model.lm.parameters() if p.requires_grad),
            "blocks": len(model.blocks),
            "steps": outcome.steps,
            **{f"rows/{name}": count for name, count in outcome.rows.items()},
            **{f"tokens/{name}": count for name, count in outcome.tokens.items()},
            **{f"texts_cut/{name}": count for name, count in outcome.cut.items()},
            **{f"loss_first/{name}": value for name, value in first.items()},
            **{f"loss_last/{name}": value for name, value in last.items()},
            **({"memory_without_activations_bytes": outcome.memory.total} if outcome.memory else {}),
            **({"gpu_peak_memory_bytes": torch.cuda.max_memory_allocated(self.device)} if on_gpu else {}),
            **reporter.last(),
            "device": self.device.type if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "precision": outcome.precision,
            "threads": torch.get_num_threads(),
            "processes": distributed.num_processes(),
        }


def resolved(config: TrainConfig, store: Store) -> TrainConfig:
    """The settings with the layer that the store's layer_probe chose in place of `auto`; StoreError without one."""
    if not config.needs_probe:
        return config
    numbers = store.require("layer_probe").numbers
    if missing := [pooling for pooling in config.poolings if f"layer/{pooling}" not in numbers]:
        raise UserError(
            f"layer_probe: found no layer for pooling {', '.join(missing)}: it was made for other objectives. Needed: "
            f"one that was made for this recipe. Make it again with 'dagster asset materialize --select layer_probe'."
        )
    return config.with_layers({pooling: numbers[f"layer/{pooling}"] for pooling in config.poolings})


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.lm.parameters())


def _millions(model: Model) -> str:
    return f"{_parameters(model) / 1e6:.1f}M"
