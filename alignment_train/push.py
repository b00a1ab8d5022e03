"""Models of a store -> a repository on a hub: weights, tokenizer, log, and the card with what the evaluation found."""

from alignment_train import card
from alignment_train.config import TrainConfig
from alignment_train.models import adapter
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.results.evaluation_result import EvaluationResult, read_result
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store


def push(recipe: Recipe, store: Store, to: str, asset: str = "align_model", private: bool = False) -> str:
    """Upload a model as `to` (user/name) in one commit, and return its address.

    An adapter of a seed takes its base model along, in the folder base_model. ValueError without a token, a network or
    the right to write there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the library that the hub's client now uses

    manifest, config = store.require(asset), TrainConfig.of(recipe)
    if not get_token():
        raise UserError(
            f"push to {to}: found no token. Needed: one that may write. Make it at https://huggingface.co/settings/"
            f"tokens and set HF_TOKEN, or run 'hf auth login'."
        )
    folder = store.fetched(asset)
    files = {name: folder / name for name in manifest.files if name != card.FILE}
    if adapter.is_adapter(folder) and not config.base.hub:
        if config.base.model:
            raise UserError(
                f"push to {to}: {asset} is an adapter of {config.base.model}, on this machine, which nobody "
                f"else has. Allowed: adapters of a model on the hub, or of a seed. Name the base by its hub id in "
                f"train.base, or train all weights (without train.adapter)."
            )
        base = store.fetched("base_model")
        files |= {f"base_model/{name}": base / name for name in store.require("base_model").files}
    text = card.card(recipe, store, asset, manifest.numbers, to, evaluated(store, asset, manifest))
    additions = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
    try:
        api = HfApi()
        api.create_repo(to, private=private, exist_ok=True)
        commit = api.create_commit(
            to,
            [CommitOperationAdd(card.FILE, text.encode()), *additions],
            commit_message=f"{asset} of Isogloss recipe {recipe.name}, {manifest.fingerprint[:12]}",
        )
    except (HTTPError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"push to {to}: the hub could not be written to: {said or type(error).__name__}. Needed: a network, a name "
            f"such as user/model, and a token that may write there (HF_TOKEN). Correct it and run the command again."
        ) from None
    return str(commit.repo_url)


def evaluated(store: Store, asset: str, manifest: Manifest) -> EvaluationResult | None:
    """The metrics of the store's evaluation, None where it has none of just this model."""
    found = store.manifest("evaluation")
    if found is None or found.inputs.get(asset) != manifest.fingerprint:
        return None
    return read_result(store.fetched("evaluation", under="metrics.json"))
