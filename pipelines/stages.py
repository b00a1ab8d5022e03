"""The corpus stages in their order, for whoever runs them: the command line, or the graph."""

from collections.abc import Callable
from typing import NamedTuple

from pipelines import clean, collect, decontaminate, dedup, instruct, mix
from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.progress import Tell, silent
from pipelines.store import Manifest, Store


class Stage(NamedTuple):
    """One stage: `run` makes `asset`, of one pair, or of the whole recipe where `per_pair` is false."""

    asset: str
    per_pair: bool
    run: Callable[..., Manifest]

    def make(self, recipe: Recipe, store: Store, pair: Pair | None = None, tell: Tell = silent) -> Manifest:
        """The manifest of the asset, made anew only where its fingerprint changed."""
        return self.run(recipe, store, pair, tell=tell) if self.per_pair else self.run(recipe, store, tell=tell)


STAGES = (
    Stage("eval_text", False, collect.run_evals),
    Stage("raw_bitext", True, collect.run),
    Stage("clean_bitext", True, clean.run),
    Stage("deduped_bitext", True, dedup.run),
    Stage("decontaminated_bitext", True, decontaminate.run),
    Stage("instructions", True, instruct.run),
    Stage("training_mix", False, mix.run),
)
"""Each stage reads only what stages before it made."""
