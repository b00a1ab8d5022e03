"""Stage: raw_bitext -> clean_bitext. Rows every filter keeps, with their scores, and the rejected with the reason."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import filters
from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.ledger import REJECTED, Ledger, Samples, empty, rebatch, rejected
from pipelines.progress import Tell, silent
from pipelines.schema import BITEXT, check
from pipelines.store import Manifest, Store, fingerprint, sha256


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Pass the pair's raw rows through the recipe's filters in order.

    A filter sees only what those before it kept, so cheap ones belong first. A row is rejected by the first filter
    that drops it, with that filter's score; a kept row carries `score_<filter>` of every filter.
    """
    upstream = store.require("raw_bitext", pair)
    chain = recipe.corpus.filters
    print_ = fingerprint(
        __name__,
        {"filter base": sha256(Path(filters.__file__))},  # not the package's hash, which holds filters not used
        {"raw_bitext": upstream.fingerprint},
        plugins=chain,
        modules=("pipelines.ledger",),
    )
    if done := store.unchanged("clean_bitext", pair, print_):
        return done
    notes = [sentence for item in chain for sentence in item.notes([pair])]
    loaded = [item.open() for item in chain]
    names = [item.name for item in chain]
    schema = pa.schema([*BITEXT, *(pa.field(f"score_{name}", pa.float64()) for name in names)])
    ledger, samples = Ledger(names), Samples()
    total, seen, kept = upstream.rows["data"], 0, 0
    with store.writing("clean_bitext", pair) as out:
        out.write(empty(schema))
        out.write(empty(REJECTED), "rejected")
        for batch in rebatch(store.batches("raw_bitext", pair)):
            rows = check(batch, BITEXT, f"raw_bitext of {pair}").select(BITEXT.names)
            for item, handle in zip(chain, loaded, strict=True):
                scores = pc.cast(item.score(rows, handle), pa.float64())
                verdict = item.keep(scores)
                dropped = rejected(rows, item.name, scores).filter(pc.invert(verdict))
                ledger.count(item.name, rows, dropped)
                samples.see(item.name, dropped)
                out.write(dropped, "rejected")
                rows = rows.append_column(f"score_{item.name}", scores).filter(verdict)
            samples.see("kept", rows)
            out.write(rows.cast(schema))
            seen, kept = seen + batch.num_rows, kept + rows.num_rows
            tell(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise ValueError(ledger.none_left(f"clean_bitext of {pair}", total))
        return out.commit(
            print_,
            recipe.resolved(),
            inputs={"raw_bitext": upstream.fingerprint},
            ledger=ledger.rows(),
            numbers={"rows_in": total, "rows_out": kept, "notes": notes},
            samples={"kept": samples.of("kept"), "dropped": samples.of(*names)},
            corpora=upstream.corpora,
        )
