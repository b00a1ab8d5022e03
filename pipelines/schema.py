"""The Arrow schemas that flow between stages, and the check that a batch keeps to one."""

import pyarrow as pa

from pipelines.errors import UserError

BITEXT = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("src", "tgt", "src_lang", "tgt_lang", "corpus")]
)
"""One row is one segment pair. `corpus` is name/version; its licence and address stand in the manifest."""

INSTRUCTION = pa.schema(
    [
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("src_lang", "tgt_lang", "corpus", "template")),
    ]
)
"""One row is one conversation; its last message is the response to learn. `template` is type/wording."""

EVAL_TEXT = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("eval", "item", "pair", "lang", "text")]
)
"""One row is one held-out text. Rows of one eval that share `pair` and `item` mean the same."""


def check(batch: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """Return `batch` as it is, or raise ValueError where a column of `schema` is missing, mistyped or null.

    Further columns are allowed: `clean` adds one `score_<filter>` per filter.
    """
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            raise UserError(
                f"{where}: column '{field.name}' is missing. Found: {', '.join(batch.schema.names)}. "
                f"Allowed: {', '.join(schema.names)} and further columns. Add the column where the batch is made."
            )
        found = batch.schema.field(index).type
        if found != field.type:
            raise UserError(
                f"{where}: column '{field.name}' has type {found}. Allowed: {field.type}. Cast it where it is made."
            )
        if not field.nullable and batch.column(index).null_count:
            raise UserError(
                f"{where}: column '{field.name}' has {batch.column(index).null_count} null values in "
                f"{batch.num_rows} rows. Allowed: none. Drop such rows where they are read."
            )
    return batch


def bitext_batch(src: list[str], tgt: list[str], src_lang: str, tgt_lang: str, corpus: str) -> pa.RecordBatch:
    """A BITEXT batch of one corpus and pair; `src` and `tgt` have equal lengths."""
    n = len(src)
    columns = [src, tgt, [src_lang] * n, [tgt_lang] * n, [corpus] * n]
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=BITEXT)
