"""Rows on offer, by kind, pair and corpus -> the rows that the budget takes, and receipts that say why.

Every pair hands in its rows in an order of its own, and the next row taken is always that of the pair which so far has
least for its weight, counting the row itself. That is the divisor method of D'Hondt and Jefferson (Balinski and Young
1982), with rows of any cost: exact to the row, who has too little leaves the rest to the others in proportion, and a
further pair or corpus never adds to what another pair gives (in tokens: but for a last row, as rows differ in length).
Kinds divide the whole in the same way by their shares.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Budget
from pipelines.errors import UserError
from pipelines.languages import Pair

Count = Callable[[pa.Array], np.ndarray]

SHOWN = 40  # receipts in the terminal; the manifest has all


class Receipts(NamedTuple):
    """Rows of numbers with the reason in words, as manifests hold them.

    `available` and `capped` are rows before and after the caps, `taken` are rows. `quota` is what the weights alone
    would give, in rows, or in tokens where the budget is in tokens; then `tokens` are those of the rows taken.
    """

    kinds: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    corpora: list[dict[str, Any]]


class Size(NamedTuple):
    """Rows of a kind, pair or corpus that are free, that its caps let through and that are taken; cost of the latter.

    The cost is in the unit of the budget: rows, or tokens.
    """

    available: int = 0
    capped: int = 0
    taken: int = 0
    capped_cost: int = 0
    cost: int = 0

    def plus(self, other: "Size") -> "Size":
        return Size(*(a + b for a, b in zip(self, other, strict=True)))


def shares(kinds: Sequence[str], named: dict[str, float]) -> list[float]:
    """The share of each kind; those the recipe does not name have what is left in equal parts."""
    rest = [kind for kind in kinds if kind not in named]
    left = max(0.0, 1 - sum(named.values()))
    return [named[kind] if kind in named else left / len(rest) for kind in kinds]


def counter(budget: Budget) -> Count:
    """A function from texts to their lengths, int64, at least 1 each: in tokens without special ones, or characters."""
    file = budget.tokenizer_file()
    if file is None:
        return lambda texts: np.maximum(pc.utf8_length(texts).to_numpy(zero_copy_only=False), 1)
    try:
        lengths = _sentencepiece(file.read_bytes()) if file.suffix == ".model" else _tokenizers(file.read_bytes())
    except Exception as error:  # both libraries raise bare Exceptions and RuntimeErrors of what they cannot read
        raise UserError(
            f"corpus.budget.tokenizer: {file} cannot be read: {error}. Allowed: a SentencePiece .model, a "
            f"tokenizer.json of the tokenizers library, or 'characters'. Name another."
        ) from None
    return lambda texts: np.maximum(np.fromiter(lengths(texts.to_pylist()), np.int64, len(texts)), 1)


def _sentencepiece(model: bytes) -> Callable[[list[str]], Any]:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    return lambda texts: map(len, processor.encode(texts, out_type=int, num_threads=-1))


def _tokenizers(file: bytes) -> Callable[[list[str]], Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: map(len, tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def choose(
    duck: duckdb.DuckDBPyConnection, budget: Budget, kinds: list[str], pairs: Sequence[Pair | str], corpora: list[str]
) -> Receipts:
    """Make table `chosen` of table `offers`: {kind, pair, corpus, row, place, cost, even}, and say why.

    pairs: of tasks, their languages as well.
    offers: kind, pair and corpus are places in the lists, `fate` is null where the row is free; `cost` is its
    tokens, or 1 each where the budget is in rows; `score` ranks it, null comes last; `pick` is a draw. Every second
    row of a kind and pair is `even`, so a row keeps its turn however many follow.
    """
    best = "score DESC NULLS LAST, " if budget.order == "quality" else ""
    order = f"{best}pick, row"
    within_caps = ""
    if budget.caps:
        limits = [cap_of(budget, corpus) for corpus in corpora]
        _table(duck, "caps", "corpus SMALLINT, cap BIGINT", [(n, cap[1]) for n, cap in enumerate(limits) if cap])
        # By another half of the draw: by the same one, what a cap lets through would come before all other corpora.
        within_caps = f"""
            LEFT JOIN caps USING (corpus)
            QUALIFY cap IS NULL OR row_number() OVER (
                PARTITION BY kind, pair, corpus ORDER BY {best} pick % {2**32}, pick, row
            ) <= cap
        """
    duck.execute(
        f"""
        CREATE TABLE queued AS
        SELECT kind, pair, corpus, row, place, cost, row_number() OVER line % 2 = 0 AS even,
               sum(cost) OVER line :: BIGINT AS upto
        FROM (SELECT * FROM (FROM offers WHERE fate IS NULL) {within_caps})
        WINDOW line AS (PARTITION BY kind, pair ORDER BY {order} ROWS UNBOUNDED PRECEDING)
        """
    )
    portions = shares(kinds, budget.shares)
    weights = {
        (kind, pair): rows**budget.language_alpha
        for kind, pair, rows in duck.sql("SELECT kind, pair, count(*) FROM queued GROUP BY ALL ORDER BY ALL").fetchall()
    }
    _table(
        duck,
        "weights",
        "kind TINYINT, pair SMALLINT, weight DOUBLE, share DOUBLE",
        [(*key, weight, portions[key[0]]) for key, weight in weights.items()],
    )
    duck.execute(  # whoever is taken is the beginning of a line, so that its end is all there is to find
        """
        CREATE TABLE chosen AS
        FROM queued JOIN (
            SELECT kind, pair, max(upto) AS last FROM (
                SELECT kind, pair, upto, row_number() OVER queue AS rows, sum(cost) OVER queue AS spent FROM (
                    SELECT kind, pair, cost, upto, share, sum(cost) OVER (
                        PARTITION BY kind ORDER BY upto / weight, pair, upto ROWS UNBOUNDED PRECEDING
                    ) :: BIGINT AS reached
                    FROM queued JOIN weights USING (kind, pair) WHERE share > 0
                )
                WINDOW queue AS (ORDER BY reached / share, kind, reached ROWS UNBOUNDED PRECEDING)
            )
            WHERE rows <= $1 AND spent <= $2 GROUP BY ALL
        ) USING (kind, pair)
        SELECT kind, pair, corpus, row, place, cost, even WHERE upto <= last
        """,
        [budget.rows, budget.tokens or budget.rows],
    )
    sizes = _sizes(duck)
    duck.execute("DROP TABLE queued")
    return _receipts(budget, kinds, pairs, corpora, portions, weights, sizes)


def _table(duck: duckdb.DuckDBPyConnection, name: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
    duck.execute(f"CREATE TABLE {name} ({columns})")
    if rows:
        duck.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def _sizes(duck: duckdb.DuckDBPyConnection) -> dict[tuple[int, int, int], Size]:
    """Sizes by (kind, pair, corpus)."""
    found = duck.sql(
        """
        FROM (SELECT kind, pair, corpus, count(*) AS available FROM offers WHERE fate IS NULL GROUP BY ALL)
        LEFT JOIN (SELECT kind, pair, corpus, count(*) AS capped, sum(cost) AS had FROM queued GROUP BY ALL)
            USING (kind, pair, corpus)
        LEFT JOIN (SELECT kind, pair, corpus, count(*) AS taken, sum(cost) AS spent FROM chosen GROUP BY ALL)
            USING (kind, pair, corpus)
        SELECT kind, pair, corpus, available, coalesce(capped, 0), coalesce(taken, 0), coalesce(had, 0)::BIGINT,
               coalesce(spent, 0)::BIGINT
        ORDER BY ALL
        """
    )
    return {(kind, pair, corpus): Size(*numbers) for kind, pair, corpus, *numbers in found.fetchall()}


def _receipts(
    budget: Budget,
    kinds: list[str],
    pairs: Sequence[Pair | str],
    corpora: list[str],
    portions: list[float],
    weights: dict[tuple[int, int], float],
    sizes: dict[tuple[int, int, int], Size],
) -> Receipts:
    unit, bound = ("tokens", budget.tokens) if budget.tokens else ("rows", budget.rows)
    by_kind, by_pair = [Size()] * len(kinds), dict[tuple[int, int], Size]()
    for (kind, pair, _), size in sizes.items():
        by_kind[kind] = by_kind[kind].plus(size)
        by_pair[kind, pair] = by_pair.get((kind, pair), Size()).plus(size)

    def row(size: Size, quota: float, why: str) -> dict[str, Any]:
        tokens = {"tokens": size.cost} if budget.tokens else {}
        numbers = {"available": size.available, "capped": size.capped, "quota": round(quota, 1), "taken": size.taken}
        return {**numbers, **tokens, "why": why}

    out = Receipts([], [], [])
    quotas = [bound * portion for portion in portions]
    whole = sum(size.cost for size in by_kind)
    for name, portion, quota, size in zip(kinds, portions, quotas, by_kind, strict=True):
        unused = max(0.0, sum(quotas) - whole)
        why = f"{portion:.4g} of {bound:,} {unit}{_moved(size, quota, unused)}"
        if budget.tokens and sum(each.taken for each in by_kind) == budget.rows:
            why += f"; the bound of {budget.rows:,} rows was met first"
        out.kinds.append({"kind": name, "share": round(portion, 6), **row(size, quota, why)})
    for kind, name in enumerate(kinds):
        total = by_kind[kind].cost
        weighed = sum(weight for (own, _), weight in weights.items() if own == kind)
        for number, pair in enumerate(pairs):
            size, weight = by_pair.get((kind, number), Size()), weights.get((kind, number), 0.0)
            quota, why = 0.0, "has no row to give"
            if size.capped:
                quota = total * weight / weighed
                why = f"{size.capped:,}^{budget.language_alpha:g} = {weight:,.1f} of {weighed:,.1f} gives {quota:,.0f} "
                why += f"of {total:,}{_moved(size, quota, 0.0)}"
            out.pairs.append({"kind": name, "pair": str(pair), **row(size, quota, why)})
    for (kind, number, corpus), size in sizes.items():
        pair, cap = by_pair[kind, number], cap_of(budget, corpora[corpus])
        why = f"cap {cap[0]} {cap[1]:,}; " if cap and size.capped < size.available else ""
        best = budget.order == "quality" and kind == 0
        why += f"{size.capped:,} of the pair's {pair.capped:,} rows, {'the best first' if best else 'drawn at random'}"
        quota = pair.cost * size.capped_cost / (pair.capped_cost or 1)
        names = {"kind": kinds[kind], "pair": str(pairs[number]), "corpus": corpora[corpus]}
        out.corpora.append({**names, **row(size, quota, why)})
    return out


def cap_of(budget: Budget, corpus: str) -> tuple[str, int] | None:
    """The cap of a corpus (`GNOME/v1`) and the key that sets it; None where there is none."""
    keys = (corpus, corpus.partition("/")[0], "*")
    return next(((key, budget.caps[key]) for key in keys if key in budget.caps), None)


def _moved(size: Size, quota: float, unused: float) -> str:
    """What a kind or pair left to the others, or took from them; `unused` is what all together could not fill."""
    if size.taken == size.capped and size.cost <= quota - 1:
        given = f"gives {quota - size.cost:,.0f} to the others" if unused < 1 else f"leaves {quota - size.cost:,.0f}"
        return f"; has only {size.cost:,}: {given}"
    return f"; {size.cost - quota:,.0f} more, which others could not fill" if size.cost >= quota + 1 else ""


def words(numbers: dict[str, Any]) -> str:
    """The receipts of the kinds and pairs in a manifest's numbers as plain text, one a line."""
    rows = [*numbers["receipt_kinds"], *numbers["receipt"]]
    lines = [(f"{row['kind']} {row.get('pair', '')}".strip(), f"{row['taken']:,}", row["why"]) for row in rows[:SHOWN]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [f"{what:<{widths[0]}}  {taken:>{widths[1]}}  {why}" for what, taken, why in lines]
    return "\n".join([*text, *([f"... {len(rows) - SHOWN} more in the manifest"] if len(rows) > SHOWN else [])])
