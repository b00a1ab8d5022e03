"""Stage: the recipe's sources -> raw_bitext, as they are; the held-out texts of its evals -> eval_text."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.ledger import Samples, empty
from pipelines.progress import Tell, silent
from pipelines.registry import Plugin
from pipelines.schema import BITEXT, EVAL_TEXT, check
from pipelines.store import LedgerRow, Manifest, Store, fingerprint


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Write every row that the sources have of `pair`, source by source; nothing is dropped here, only counted."""
    sources, home = recipe.corpus.sources, store.sources
    for source in sources:
        source.prepare(pair, home, tell)
    print_ = fingerprint(
        __name__,
        {"pair": str(pair), "pins": [[source.name, source.pin(pair, home)] for source in sources]},
        {},
        plugins=[source for source in sources if not source.pin_is_whole],
        modules=[name for s in sources if s.pin_is_whole for name in (type(s).__module__, *s.modules)],
        libraries=["pyarrow", *(name for s in sources for name in s.libraries)],
    )
    if done := store.unchanged("raw_bitext", pair, print_):
        return done
    seen, samples = _Seen(), Samples()
    with store.writing("raw_bitext", pair) as out:
        for source in sources:
            for found in source.fetch(pair, home):
                batch = _checked(found, pair, f"source '{source.name}', {pair}")
                out.write(batch)
                samples.see("kept", batch)
                seen.add(batch)
                tell(seen.rows, 0, f"{seen.rows:,} rows")
        if not seen.rows:
            if not recipe.corpus.allow_empty:
                raise ValueError(
                    f"corpus.sources, {pair}: found no row in {', '.join(source.name for source in sources)}. Allowed: "
                    f"at least one. Add a source that holds the pair, remove the pair, or set corpus.allow_empty."
                )
            out.write(empty(BITEXT))
        known: dict[str, dict[str, Any]] = {}
        for source in sources:
            known |= source.provenance(pair, home)
        if strange := sorted(set(seen.corpora) - set(known)):
            raise ValueError(
                f"corpus.sources, {pair}: rows of {', '.join(strange)} come without provenance. Allowed: corpora of "
                f"which the source states version, licence and address. State them in the source's provenance()."
            )
        return out.commit(
            print_,
            recipe.resolved(),
            ledger=[
                LedgerRow(step="collect", corpus=corpus, into=rows, dropped=0, kept=rows)
                for corpus, rows in seen.corpora.items()
            ],
            numbers={"rows_in": seen.rows, "rows_out": seen.rows} | seen.flaws,
            samples={"kept": samples.of("kept")},
            corpora={corpus: known[corpus] for corpus in seen.corpora},
        )


def run_evals(recipe: Recipe, store: Store, tell: Tell = silent) -> Manifest:
    """Write the held-out texts of all evals, eval by eval: what training must not see and evaluation asks."""
    pairs, home = recipe.corpus.pairs, store.sources
    inner = [value for item in recipe.eval for _, value in item if isinstance(value, Plugin)]  # such as its source
    print_ = fingerprint(
        __name__,
        {"pairs": [str(pair) for pair in pairs], "pins": [item.pin(pairs, home) for item in recipe.eval]},
        {},
        plugins=[*recipe.eval, *inner],
    )
    if done := store.unchanged("eval_text", None, print_):
        return done
    counts: Counter[str] = Counter()
    corpora: dict[str, dict[str, Any]] = {}
    with store.writing("eval_text") as out:
        for item in recipe.eval:
            before = counts.total()
            for found in item.texts(pairs, home):
                batch = check(found, EVAL_TEXT, f"eval '{item.name}'").select(EVAL_TEXT.names).cast(EVAL_TEXT)
                out.write(batch)
                counts.update(_count(batch["eval"]))
                tell(counts.total(), 0, f"{counts.total():,} texts")
            if counts.total() == before:
                raise ValueError(
                    f"eval '{item.name}': found no text for {', '.join(map(str, pairs))}. Allowed: at least one. Give "
                    f"it a source that holds these pairs, or remove the eval."
                )
            corpora |= item.provenance(pairs, home)
        if not counts:
            out.write(empty(EVAL_TEXT))
        numbers = {"rows_out": counts.total()} | {f"texts/{name}": rows for name, rows in counts.items()}
        return out.commit(print_, recipe.resolved(), numbers=numbers, corpora=corpora)


def refresh(recipe: Recipe, store: Store, tell: Tell = silent) -> list[Pair]:
    """Ask upstream for newer releases of unpinned corpora and move the lock; the pairs concerned, in recipe order."""
    moved: set[Pair] = set()
    online = [source for source in recipe.corpus.sources if source.online]
    for done, source in enumerate(online):
        tell(done, len(online), source.name)
        moved.update(source.refresh(recipe.corpus.pairs, store.sources))
    return [pair for pair in recipe.corpus.pairs if pair in moved]


def _checked(batch: pa.RecordBatch, pair: Pair, where: str) -> pa.RecordBatch:
    """The BITEXT columns of `batch`; ValueError where they are not BITEXT of `pair`."""
    check(batch, BITEXT, where)
    for column, code in zip(("src_lang", "tgt_lang"), pair, strict=True):
        if strange := sorted(set(pc.unique(batch[column]).to_pylist()) - {code}):
            raise ValueError(
                f"{where}: column '{column}' holds {', '.join(strange)}. Allowed: {code}. Swap the sides in the source."
            )
    return batch.select(BITEXT.names).cast(BITEXT)


def _count(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


class _Seen:
    """Counts of what was written: rows per corpus in order of appearance, and flaws that filters may act on."""

    def __init__(self) -> None:
        self.corpora: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter(empty_segments=0, replacement_characters=0)

    @property
    def rows(self) -> int:
        return self.corpora.total()

    def add(self, batch: pa.RecordBatch) -> None:
        self.corpora.update(_count(batch["corpus"]))
        for side in ("src", "tgt"):
            self.flaws["empty_segments"] += pc.sum(pc.equal(batch[side], "")).as_py() or 0
            self.flaws["replacement_characters"] += pc.sum(pc.count_substring(batch[side], "\ufffd")).as_py() or 0
