"""A store -> the README's result tables as Markdown: python -m benchmarks.table STORE."""

import sys
from collections.abc import Iterable

from pipelines.languages import name
from pipelines.results.evaluation_result import EvaluationResult, read_result
from pipelines.results.measures import label, measure_of
from pipelines.results.summary import by_layer, figure, models, references, summary
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import PER_PAIR, WHOLE, Store

TRAINED = ("base_model", "control_model", "align_model")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    store = Store(arguments[0])
    metrics = read_result(store.fetched("evaluation", under="metrics.json"))
    pairs = sorted(pair for asset, pair in store.datasets() if asset == "raw_bitext" and pair)
    parts = [_results(metrics), _layers(metrics), _rows(store, pairs), _ledger(store, pairs), _costs(store, pairs)]
    base = store.require("base_model").numbers
    print(f"Base model: {base['base']}.")
    if "dev/unigram_nats_per_token" in base:
        print(
            f"Its loss on dev text: {base['dev/nats_per_token']:.2f} nats per token; the unigram's: "
            f"{base['dev/unigram_nats_per_token']:.2f}."
        )
    print("", *parts, sep="\n\n")
    return 0


def markdown(header: list[str], lines: Iterable[list[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _results(metrics: EvaluationResult) -> str:
    """Each figure with its 95 % interval."""
    lines, beside = [], references(metrics).values()
    for row in summary(metrics):
        share, said = measure_of(row["key"]).rate, label(row["key"].partition("/")[0], row["metric"])
        cells = []
        for model in models(metrics):
            found = figure(metrics, model, row["key"])
            cells.append(_interval(found, share) if found else _number(row[model], share))
        lines.append([f"{row['subject']}, {said}", *cells, *(_number(row[name], share) for name in beside)])
    return markdown(["held-out text", *models(metrics), *beside], lines)


def _number(value: float | None, share: bool) -> str:
    return "–" if value is None else f"{100 * value:.1f} %" if share else f"{value:.3f}"


def _interval(found: dict, share: bool) -> str:
    factor, digits = (100, 1) if share else (1, 2)
    low, high = (f"{factor * found[bound]:.{digits}f}" for bound in ("low", "high"))
    return f"{_number(found['value'], share)} ({low}–{high})"


def _layers(metrics: EvaluationResult) -> str:
    found = {model: by_layer(metrics, model) for model in models(metrics)}
    layers = sorted(found["aligned"])
    lines = [[str(k), *(_number(found[model][k]["value"], True) for model in models(metrics))] for k in layers]
    return markdown(["recall@1 by layer, mean over pairs", *models(metrics)], lines)


def _rows(store: Store, pairs: list[str]) -> str:
    lines = []
    for pair in pairs:
        rows = [store.require(asset, pair).rows["data"] for asset in PER_PAIR]
        lines.append([" – ".join(name(code) for code in pair.split("-")), *(f"{n:,}" for n in rows)])
    totals = [sum(store.require(asset, pair).rows["data"] for pair in pairs) for asset in PER_PAIR]
    lines.append(["all", *(f"{n:,}" for n in totals)])
    mix = store.require("training_mix").rows
    return (
        markdown(["rows after", *(asset.removesuffix("_bitext") for asset in PER_PAIR)], lines)
        + f"\n\nTraining mix: {', '.join(f'{n:,} {part}' for part, n in mix.items())}."
    )


def _ledger(store: Store, pairs: list[str]) -> str:
    """What each step dropped, over all corpora and pairs."""
    sums: dict[tuple[str, str], list[int]] = {}
    for asset in PER_PAIR[1:4]:
        for pair in pairs:
            for row in store.require(asset, pair).ledger:
                total = sums.setdefault((asset, row.step), [0, 0, 0])
                for i, n in enumerate((row.into, row.dropped, row.kept)):
                    total[i] += n
    lines = [[f"{asset}: {step}", *(f"{n:,}" for n in total)] for (asset, step), total in sums.items()]
    return markdown(["drop ledger", "into", "dropped", "kept"], lines)


def _costs(store: Store, pairs: list[str]) -> str:
    def line(asset: str, made: list[Manifest]) -> list[str]:
        seconds, memory = sum(m.seconds for m in made), max(m.peak_memory_bytes for m in made)
        return [asset, f"{seconds:.0f}", f"{memory / 2**20:,.0f}"]

    lines = [line(asset, [store.require(asset, pair) for pair in pairs]) for asset in PER_PAIR]
    lines += [line(asset, [made]) for asset in WHOLE if (made := store.manifest(asset))]
    return markdown(["stage", "seconds", "peak MiB"], lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
