"""What the process that tests fork from imports once: after that a run of the tiny recipe takes a second."""

import importlib

for name in (
    "duckdb",
    "matplotlib.pyplot",
    "peft",
    "sentencepiece",
    "torch.utils.tensorboard",
    "transformers.models.llama.modeling_llama",
    "alignment_train.evaluation.evaluate",
    "pipelines.report.leaderboard",
    "alignment_train.objectives.language_model",
    "alignment_train.trainer",
    "pipelines.__main__",
    "pipelines.evals.loss",
    "pipelines.filters.char_length",
    "pipelines.filters.identical",
    "pipelines.filters.length_ratio",
    "pipelines.filters.markup",
    "pipelines.instructions.translate",
    "pipelines.sources.sample",
):
    importlib.import_module(name)

# What a run computes once per process: inherited by those that are forked.
for module, function in (
    ("pipelines.sample_grammar", "sentences"),
    ("pipelines.text.matching", "folds"),
    ("pipelines.text.characters", "kinds"),
    ("pipelines.storage.provenance", "commit"),
):
    getattr(importlib.import_module(module), function)()
