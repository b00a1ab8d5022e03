"""Asset checks: what must hold of the stored shards and figures, each with its severity.

ERROR marks data or models not to be used; the blocking ones stop the run before it trains on such data. WARN marks a
result that somebody should look at.
"""

import math
from collections.abc import Iterator

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from assets import metadata
from assets.resources import StoreResource
from pipelines.config import Recipe
from pipelines.results.evaluation_result import EvaluationResult, read_result
from pipelines.results.summary import BETTER, figure, keys_of, paired_difference, significance
from pipelines.schema import BITEXT, INSTRUCTION, check
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import PER_PAIR, Store
from pipelines.text.identifying import held_out
from pipelines.text.matching import match_key

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
BELOW_UNIGRAM = 1.0
"""Nats per token by which a seed model must beat a model that knows no context."""
LOSS_KEPT = 0.02
"""Share by which aligning may raise the pivot's loss over control before somebody should look."""


def checks(recipe: Recipe) -> list[dg.AssetChecksDefinition]:
    """All checks of the graph."""
    return [
        *(_schema(recipe, asset) for asset in PER_PAIR),
        _sides(recipe),
        _duplicates(recipe),
        _overlap(recipe),
        _mix_overlap(),
        _budget(recipe),
        _balance(recipe),
        _base_is_a_model(),
        *(_loss_fell(asset) for asset in ("base_model", "control_model", "align_model")),
        _recall_rose(),
        _pivot_kept(recipe),
    ]


def _made(recipe: Recipe, store: Store, asset: str) -> Iterator[tuple[str, Manifest]]:
    """The pairs of which the store has the asset: a run of one pair checks what is there."""
    for pair in recipe.corpus.pairs:
        if manifest := store.manifest(asset, pair):
            yield str(pair), manifest


def _schema(recipe: Recipe, asset: str) -> dg.AssetChecksDefinition:
    schema = INSTRUCTION if asset == "instructions" else BITEXT

    @dg.asset_check(
        name="schema_kept",
        asset=asset,
        blocking=True,
        description=f"ERROR: every shard has the columns {', '.join(schema.names)}, none of them null.",
    )
    def schema_kept(store: StoreResource) -> dg.AssetCheckResult:
        open_store, wrong, rows = store.open(), list[str](), 0
        for pair, _ in _made(recipe, open_store, asset):
            try:
                for batch in open_store.batches(asset, pair):
                    rows += check(batch, schema, f"{asset} of {pair}").num_rows
            except (ValueError, pa.ArrowException, OSError) as error:
                wrong.append(str(error))
        return dg.AssetCheckResult(
            passed=not wrong, severity=ERROR, metadata={"rows": rows, "mistakes": "\n".join(wrong) or "none"}
        )

    return schema_kept


def _sides(recipe: Recipe) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="clean_bitext", blocking=True, description="ERROR: neither side of any pair is empty or blank."
    )
    def sides_not_empty(store: StoreResource) -> dg.AssetCheckResult:
        open_store = store.open()
        blank = {
            pair: sum(
                pc.sum(pc.equal(pc.utf8_trim_whitespace(batch[side]), "")).as_py() or 0
                for batch in open_store.batches("clean_bitext", pair)
                for side in ("src", "tgt")
            )
            for pair, _ in _made(recipe, open_store, "clean_bitext")
        }
        return _counted(blank, "blank")

    return sides_not_empty


def _duplicates(recipe: Recipe) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset="deduped_bitext", description="ERROR: no two rows of a pair say the same on both sides.")
    def duplicates_zero(store: StoreResource) -> dg.AssetCheckResult:
        open_store, twice = store.open(), {}
        for pair, manifest in _made(recipe, open_store, "deduped_bitext"):
            keys = pa.Table.from_batches(
                [
                    pa.record_batch({side: match_key(batch[side]) for side in ("src", "tgt")})
                    for batch in open_store.batches("deduped_bitext", pair)
                ]
            )
            twice[pair] = manifest.rows["data"] - keys.group_by(["src", "tgt"]).aggregate([]).num_rows
        return _counted(twice, "duplicates")

    return duplicates_zero


def _overlap(recipe: Recipe) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="decontaminated_bitext",
        blocking=True,
        additional_deps=["eval_text"],
        description="ERROR: no row holds a text that an eval asks about.",
    )
    def no_evaluation_overlap(store: StoreResource) -> dg.AssetCheckResult:
        open_store = store.open()
        forbidden = _held_out(open_store)
        found = {
            pair: sum(_holding(forbidden, batch) for batch in open_store.batches("decontaminated_bitext", pair))
            for pair, _ in _made(recipe, open_store, "decontaminated_bitext")
        }
        return _counted(found, "overlapping")

    return no_evaluation_overlap


def _mix_overlap() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="training_mix",
        blocking=True,
        additional_deps=["eval_text"],
        description="ERROR: no bitext to be trained on holds a text that an eval asks about.",
    )
    def no_evaluation_overlap(store: StoreResource) -> dg.AssetCheckResult:
        open_store = store.open()
        forbidden = _held_out(open_store)
        parts = [part for part in open_store.require("training_mix").rows if part in ("bitext", "dev")]
        found = {
            part: sum(_holding(forbidden, batch) for batch in open_store.batches("training_mix", part=part))
            for part in parts
        }
        return _counted(found, "overlapping", "part")

    return no_evaluation_overlap


def _held_out(store: Store) -> dict[str, pa.Array]:
    """Match keys, by language, of what identifies the items of the evals."""
    texts = held_out(store)
    keys = {
        lang: pc.unique(match_key(texts.filter(pc.equal(texts["lang"], lang))["identifying"]))
        for lang in pc.unique(texts["lang"]).to_pylist()
    }
    return {lang: found.filter(pc.not_equal(found, "")) for lang, found in keys.items()}


def _holding(forbidden: dict[str, pa.Array], batch: pa.RecordBatch) -> int:
    """Sides of the batch that are held-out texts of their language."""
    count = 0
    for side in ("src", "tgt"):
        for lang in pc.unique(batch[f"{side}_lang"]).to_pylist():
            if lang in forbidden:
                own = batch[side].filter(pc.equal(batch[f"{side}_lang"], lang))
                count += pc.sum(pc.is_in(match_key(own), value_set=forbidden[lang])).as_py() or 0
    return count


def _budget(recipe: Recipe) -> dg.AssetChecksDefinition:
    budget = recipe.corpus.budget

    @dg.asset_check(
        asset="training_mix",
        blocking=True,
        description=f"ERROR: bitext, conversations and tasks together are at least 1 and at most {budget.rows:,} rows"
        f"{f' and {budget.tokens:,} tokens' if budget.tokens else ''}.",
    )
    def budget_kept(store: StoreResource) -> dg.AssetCheckResult:
        mix = store.open().require("training_mix")
        used = sum(mix.rows.get(part, 0) for part in ("bitext", "instructions", "tasks"))
        facts = {"rows": used, "budget": budget.rows}
        if budget.tokens:
            facts |= {"tokens": mix.numbers.get("tokens", 0), "token_budget": budget.tokens}
        kept = 0 < used <= budget.rows and facts.get("tokens", 0) <= facts.get("token_budget", 0)
        return dg.AssetCheckResult(passed=kept, severity=ERROR, metadata=facts)

    return budget_kept


def _balance(recipe: Recipe) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset="training_mix", description="WARN: every language pair of the recipe has bitext in the mix.")
    def every_pair_present(store: StoreResource) -> dg.AssetCheckResult:
        counts = dict.fromkeys(map(str, recipe.corpus.pairs), 0)
        for batch in store.open().batches("training_mix", part="bitext"):
            sides = batch["src_lang"], batch["tgt_lang"]  # half the rows may be turned round
            names = pc.binary_join_element_wise(pc.min_element_wise(*sides), pc.max_element_wise(*sides), "-")
            for item in pc.value_counts(names).to_pylist():
                counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
        return dg.AssetCheckResult(
            passed=all(counts.values()),
            severity=WARN,
            metadata={"rows": metadata.table({"pair": pair, "rows": n} for pair, n in counts.items())},
        )

    return every_pair_present


def _base_is_a_model() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="base_model",
        description=f"WARN: a seed model's loss on dev text is {BELOW_UNIGRAM:g} nat or more below the unigram's.",
    )
    def base_is_a_model(store: StoreResource) -> dg.AssetCheckResult:
        numbers = store.open().require("base_model").numbers
        names = ("dev/nats_per_token", "dev/unigram_nats_per_token")
        losses = {name: float(numbers[name]) for name in names if name in numbers}
        if len(losses) < 2:
            return dg.AssetCheckResult(passed=True, severity=WARN, metadata={"note": "not a seed model"})
        below = losses[names[1]] - losses[names[0]]
        return dg.AssetCheckResult(passed=below >= BELOW_UNIGRAM, severity=WARN, metadata={"below": below, **losses})

    return base_is_a_model


def _loss_fell(asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        name="training_loss_fell",
        asset=asset,
        description="ERROR: every objective's loss is finite and lower at the end of the training than at its start.",
    )
    def training_loss_fell(store: StoreResource) -> dg.AssetCheckResult:
        numbers = store.open().require(asset).numbers
        names = [key.removeprefix("loss_first/") for key in numbers if key.startswith("loss_first/")]
        rows = [
            {"objective": name, "first": numbers[f"loss_first/{name}"], "last": numbers[f"loss_last/{name}"]}
            for name in names
        ]
        if not rows:
            return dg.AssetCheckResult(passed=True, severity=ERROR, metadata={"note": "nothing was trained"})
        fell = all(math.isfinite(row["last"]) and row["last"] < row["first"] for row in rows)
        return dg.AssetCheckResult(passed=fell, severity=ERROR, metadata={"loss": metadata.table(rows)})

    return training_loss_fell


def _recall_rose() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="evaluation",
        description="WARN: mean retrieval recall@1 of the aligned model is above base's and control's, beyond chance.",
    )
    def recall_rose(store: StoreResource) -> dg.AssetCheckResult:
        metrics = _metrics(store.open())
        keys = keys_of(metrics, "retrieval", "recall@1")
        if not keys:
            return dg.AssetCheckResult(
                passed=True, severity=WARN, metadata={"note": "the recipe asks for no retrieval"}
            )
        rows, rose = [], True
        for other in ("base", "control"):
            gain = paired_difference(metrics, other, keys)
            rose &= significance(gain) == BETTER
            if gain:
                rows.append({"against": other, **{key: float(value) for key, value in gain.items()}})
        return dg.AssetCheckResult(passed=rose, severity=WARN, metadata={"gain": metadata.table(rows)})

    return recall_rose


def _pivot_kept(recipe: Recipe) -> dg.AssetChecksDefinition:
    pivot = recipe.corpus.pivot

    @dg.asset_check(
        asset="evaluation",
        description=f"WARN: the aligned model's loss in {pivot} is at most {LOSS_KEPT:.0%} above control's.",
    )
    def pivot_kept(store: StoreResource) -> dg.AssetCheckResult:
        metrics, key = _metrics(store.open()), f"loss/{pivot}/nats_per_token"
        aligned, control = figure(metrics, "aligned", key), figure(metrics, "control", key)
        if not aligned or not control:
            return dg.AssetCheckResult(passed=True, severity=WARN, metadata={"note": "the recipe asks for no loss"})
        rise = aligned["value"] / control["value"] - 1
        return dg.AssetCheckResult(passed=rise <= LOSS_KEPT, severity=WARN, metadata={"rise": float(rise)})

    return pivot_kept


def _metrics(store: Store) -> EvaluationResult:
    return read_result(store.fetched("evaluation", under="metrics.json"))


def _counted(found: dict[str, int], what: str, where: str = "pair") -> dg.AssetCheckResult:
    """Passes where every count is 0."""
    rows = [{where: name, what: count} for name, count in found.items()]
    return dg.AssetCheckResult(
        passed=not any(found.values()), severity=ERROR, metadata={what: sum(found.values()), "by": metadata.table(rows)}
    )
