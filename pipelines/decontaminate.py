"""Stage: deduped_bitext -> decontaminated_bitext. Rows that hold a text of the recipe's evals are set aside."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.ledger import REJECTED, Ledger, Samples, empty, rebatch, rejected
from pipelines.matching import match_key
from pipelines.progress import Tell, silent
from pipelines.store import Manifest, Store, fingerprint

STEP = "evaluation_overlap"


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Drop a row where either side has the match key of an eval text in that side's language."""
    upstream, held_out = store.require("deduped_bitext", pair), store.require("eval_text")
    inputs = {"deduped_bitext": upstream.fingerprint, "eval_text": held_out.content()}
    print_ = fingerprint(__name__, {}, inputs, modules=("pipelines.ledger", "pipelines.matching"))
    if done := store.unchanged("decontaminated_bitext", pair, print_):
        return done
    forbidden = {side: _keys(store.table("eval_text"), lang) for side, lang in zip(("src", "tgt"), pair, strict=True)}
    total, seen, kept = upstream.rows["data"], 0, 0
    ledger, samples = Ledger([STEP]), Samples()
    with store.writing("decontaminated_bitext", pair) as out:
        out.write(empty(REJECTED), "rejected")
        for batch in rebatch(store.batches("deduped_bitext", pair)):
            src, tgt = (pc.is_in(match_key(batch[side]), value_set=keys) for side, keys in forbidden.items())
            overlap = pc.or_(src, tgt)
            rows, dropped = batch.filter(pc.invert(overlap)), rejected(batch.filter(overlap), STEP)
            ledger.count(STEP, batch, dropped)
            samples.see("kept", rows)
            samples.see(STEP, dropped)
            out.write(rows)
            out.write(dropped, "rejected")
            seen, kept = seen + batch.num_rows, kept + rows.num_rows
            tell(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise ValueError(ledger.none_left(f"decontaminated_bitext of {pair}", total))
        return out.commit(
            print_,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger.rows(),
            numbers={"rows_in": total, "rows_out": kept, "eval_texts": sum(map(len, forbidden.values()))},
            samples={"kept": samples.of("kept"), "dropped": samples.of(STEP)},
            corpora=upstream.corpora,
        )


def _keys(texts: pa.Table, lang: str) -> pa.Array:
    """Distinct match keys of the held-out texts in one language; a text of punctuation alone forbids nothing."""
    keys = pc.unique(match_key(texts.filter(pc.equal(texts["lang"], lang))["text"]))
    return keys.filter(pc.not_equal(keys, ""))
