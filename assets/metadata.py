"""Manifests and metrics as Dagster metadata. Corpus text goes into tables only: the UI escapes those."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.report.flow import svg
from pipelines.results.evaluation_result import EvaluationResult
from pipelines.results.summary import summary
from pipelines.results.verdict import GROUPS
from pipelines.results.verdict import by_group as grouped
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

Scalar = str | int | float | bool


def of(manifest: Manifest, where: str, unchanged: bool) -> dict[str, Any]:
    """What there is to know of one dataset: plain values, the drop ledger, samples and provenance as tables."""
    out: dict[str, Any] = {
        "unchanged": unchanged,
        **{key: plain(value) for key, value in manifest.numbers.items()},
        "bytes": manifest.bytes,
        "seconds": manifest.seconds,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "fingerprint": manifest.fingerprint,
        "commit": manifest.commit,
        "path": dg.MetadataValue.path(where),
        **{f"rows_{part}": rows for part, rows in manifest.rows.items() if len(manifest.rows) > 1},
    }
    if manifest.rows:
        rows = sum(rows for part, rows in manifest.rows.items() if part not in ("rejected", "scores", "samples"))
        out |= {"rows_out": rows, "dagster/row_count": rows}
    if manifest.ledger:
        out["ledger"] = table(row.model_dump() for row in manifest.ledger)
    if any(row.dropped for row in manifest.ledger):
        out["plot_ledger"] = picture(
            svg(manifest.ledger, f"{manifest.asset} {manifest.pair or ''}").encode(), "svg+xml"
        )
    for name, rows in manifest.samples.items():
        if rows:
            out[f"samples_{name}"] = table(rows)
    if manifest.corpora:
        out["corpora"] = table({"corpus": name, **facts} for name, facts in manifest.corpora.items())
    if recipe := manifest.recipe:
        out["recipe"] = dg.MetadataValue.json(recipe)
    return out


def table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows as a table with the columns of all of them, in order of appearance; a missing value is empty."""
    found = [{key: _cell(value) for key, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(key for row in found for key in row))
    kinds = {name: _kind(row[name] for row in found if name in row) for name in columns}
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: row.get(name) for name in columns}) for row in found],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, kinds[name]) for name in columns]),
    )


def comparison(metrics: EvaluationResult) -> dg.TableMetadataValue:
    """base | control | aligned | chance, one row a language or pair and metric."""
    return table({key: _short(row[key]) for key in row if key != "key"} for row in summary(metrics))


def by_group(metrics: EvaluationResult) -> dg.TableMetadataValue:
    """What aligning did to each group of languages, a row a metric."""
    return table(
        {
            "group": GROUPS[row.group],
            "languages": ", ".join(row.languages),
            "metric": row.key.rpartition("/")[2],
            "aligned": _short(row.aligned["value"]),
            "change": _short(row.change["value"]),
            "p": row.change.get("p"),
            "aligning_made_it": row.result,
        }
        for row in grouped(metrics, metrics.pivot)
    )


def plots(folder: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """The PNG files of a folder as images."""
    return {f"plot_{file.stem}": picture(file.read_bytes(), "png", file.stem) for file in sorted(folder.glob("*.png"))}


def picture(content: bytes, kind: str, name: str = "plot") -> dg.MarkdownMetadataValue:
    """An image that the UI shows."""
    return dg.MetadataValue.md(f"![{name}](data:image/{kind};base64,{base64.b64encode(content).decode()})")


def samples(store: Store, manifest: Manifest) -> dict[str, dg.TableMetadataValue]:
    """The rows to look at of every step and corpus, where the dataset has such."""
    if "samples" not in manifest.rows:
        return {}
    return {"samples_by_step": table(store.table(manifest.asset, manifest.pair, "samples").to_pylist())}


def plain(value: Any) -> Any:
    """A number or text as it is; a list of mappings as a table, other lists and mappings as JSON."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return table(value)
    return dg.MetadataValue.json(value)


def _cell(value: Any) -> Scalar | None:
    """A table cell: a scalar as it is, anything else as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _kind(values: Iterable[Scalar | None]) -> str:
    found = {type(value) for value in values if value is not None}
    if found <= {int, float} and found:
        return "float" if float in found else "int"
    return "string"
