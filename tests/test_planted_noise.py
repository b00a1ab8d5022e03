"""The sample's labelled noise through the filters with their defaults: what is caught, and what is lost."""

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from pipelines import sample_grammar
from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.sources.sample import Noise, Sample
from pipelines.stages import clean, dedup
from pipelines.storage.store import Store
from pipelines.text.normalise import normalised

KINDS = [kind for kind in Noise.model_fields if kind not in sample_grammar.REPEATS]
RECALL = dict.fromkeys(KINDS, 0.95) | {"misaligned": 0.9}  # sentences of the grammar share many words
PAIRS = [Pair.parse(pair) for pair in ("en-de", "en-ru", "en-sw", "en-hi", "en-zh", "ru-zh", "es-fr")]


def made(pairs: list[Pair]) -> Recipe:
    noise = dict.fromkeys(Noise.model_fields, 0.03)
    return Recipe.model_validate(
        {
            "name": "noisy",
            "corpus": {
                "pairs": pairs,
                "sources": [{"sample": {"rows": 8_000, "noise": noise}}],
                "filters": ["char_length", "length_ratio", "script", "identical", "markup", "lid", "translation_score"],
            },
        }
    )


@cache
def verdicts(folder: Path, pair: Pair) -> tuple[Counter[str], Counter[str]]:
    """Rows planted and rows dropped by label: by the filters, repeats by dedup."""
    pytest.importorskip("heliport", reason="the extra isogloss[heliport] is not installed")
    recipe, store = made([pair]), Store.open(folder, "noisy")
    [sample] = recipe.corpus.sources
    assert isinstance(sample, Sample)
    planted, labels = Counter[str](), dict[tuple[str, str], str]()
    with store.writing("raw_bitext", pair) as out:
        for batch, kinds in sample.labelled(pair):
            out.write(batch)
            planted.update(kinds)
            rows = zip(*(normalised(batch[side]).to_pylist() for side in ("src", "tgt")), strict=True)
            labels |= {row: kind for row, kind in zip(rows, kinds, strict=True) if kind != "duplicate"}
        out.commit(str(pair), {})
    clean.run(recipe, store, pair)
    dedup.run(recipe, store, pair)
    gone = store.table("clean_bitext", pair, "rejected").to_pylist()
    repeated = store.table("deduped_bitext", pair, "rejected").to_pylist()
    dropped = Counter(labels[row["src"], row["tgt"]] for row in gone)
    return planted, dropped + Counter(row["reason"] for row in repeated)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noisy") / "store"


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_noise_is_dropped(folder: Path, pair: Pair, kind: str) -> None:
    planted, dropped = verdicts(folder, pair)
    assert planted[kind] > 0
    assert dropped[kind] >= RECALL[kind] * planted[kind]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_clean_rows_stay(folder: Path, pair: Pair) -> None:
    planted, dropped = verdicts(folder, pair)
    assert planted["clean"] > 0.7 * planted.total()
    assert dropped["clean"] <= 0.01 * planted["clean"]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("kind", sample_grammar.REPEATS)
def test_planted_repeats_are_dropped(folder: Path, pair: Pair, kind: str) -> None:
    planted, dropped = verdicts(folder, pair)
    assert planted[kind] > 0
    assert 0.95 * planted[kind] <= dropped[kind] <= planted[kind] + 0.01 * planted["clean"]
