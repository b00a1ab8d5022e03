import itertools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines.config import Budget
from pipelines.languages import Pair
from pipelines.stages import budget
from pipelines.stages.budget import Receipts, choose, counter, shares, words
from pipelines.text.segments import seeded_order
from tests.support.bitext_fixtures import recipe

LANGUAGES = ["ara_Arab", "deu_Latn", "fra_Latn", "hin_Deva", "rus_Cyrl", "swh_Latn", "tha_Thai", "zho_Hans"]
PAIRS = [Pair(*sorted(("eng_Latn", lang))) for lang in LANGUAGES]
CORPORA = ["GNOME/v1", "KDE/v2", "QED/v1"]
Sizes = dict[tuple[int, int, int], int]
"""Rows by kind, pair and corpus."""


def chosen(sizes: Sizes, kinds: int = 1, **settings: Any) -> tuple[Receipts, dict[tuple[int, int], list[int]]]:
    """The receipts, and the row numbers taken of each kind and pair in the order of their picks.

    A row's numbers hang on its kind, pair, corpus and number within these, as they hang on its text in a corpus.
    """
    rows = []
    for (kind, pair, corpus), n in sizes.items():
        ids = np.arange(n) + 10_000 * corpus
        pick = seeded_order(ids.astype(np.uint64), kind, pair)
        score, cost = (
            (seeded_order(pick, "score") % np.uint64(50)) / 50,
            seeded_order(pick, "cost") % np.uint64(30) + np.uint64(1),
        )
        if "tokens" not in settings:
            cost = np.ones(n)
        rows += list(zip([kind] * n, [pair] * n, [corpus] * n, ids, pick, score, cost, strict=True))
    columns = ["kind", "pair", "corpus", "row", "pick", "score", "cost"]
    table = pa.table({name: np.array(column) for name, column in zip(columns, zip(*rows, strict=True), strict=True)})
    with duckdb.connect() as duck:
        duck.register("given", table)
        duck.execute("CREATE TABLE offers AS SELECT *, pick AS place, NULL::VARCHAR AS fate FROM given")
        receipts = choose(duck, Budget.model_validate(settings), [f"kind{n}" for n in range(kinds)], PAIRS, CORPORA)
        by = "score DESC, pick" if settings.get("order") == "quality" else "pick"
        found = duck.sql(f"FROM chosen JOIN offers USING (kind, pair, row) SELECT kind, pair, row ORDER BY {by}")
        out: dict[tuple[int, int], list[int]] = {}
        for kind, pair, row in found.fetchall():
            out.setdefault((kind, pair), []).append(row)
    return receipts, out


def taken(rows: list[dict[str, Any]]) -> list[int]:
    return [row["taken"] for row in rows]


@pytest.mark.parametrize(
    ("total", "weights", "sizes", "expected"),
    [
        (10, [0.5, 0.5], [100, 100], [5, 5]),
        (10, [0.2, 0.2, 0.2], [2, 100, 100], [2, 4, 4]),
        (10, [0.1, 0.2, 0.3], [3, 3, 3], [3, 3, 3]),
        (10, [0.3, 0.3, 0.3], [100, 100, 100], [4, 3, 3]),
        (11, [0.75, 0.25, 0.0], [4, 100, 100], [4, 7, 0]),
        (7, [0.53, 0.24, 0.23], [100, 100, 100], [4, 2, 1]),  # D'Hondt: 53, 26.5, 24, 23, 17.7, 13.3 and 12
        (1, [1.0], [5], [1]),
    ],
)
def test_kinds_are_filled_like_water(total: int, weights: list[float], sizes: list[int], expected: list[int]) -> None:
    named = {f"kind{n}": weight for n, weight in enumerate(weights)}
    receipts, _ = chosen({(n, 0, 0): size for n, size in enumerate(sizes)}, len(sizes), rows=total, shares=named)
    assert taken(receipts.kinds) == expected


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_whole_budget_is_spent_and_nobody_gives_more_than_he_has(alpha: float) -> None:
    sizes: Sizes = {(0, pair, pair % 3): (7 * pair * pair + 3) % 101 for pair in range(len(PAIRS))}
    for total in (1, 50, 111, 222, 333, 399):
        receipts, _ = chosen(sizes, rows=total, language_alpha=alpha)
        given = taken(receipts.pairs)
        assert (
            sum(given) == min(total, sum(sizes.values())) == sum(taken(receipts.kinds)) == sum(taken(receipts.corpora))
        )
        assert all(got <= size for got, size in zip(given, sizes.values(), strict=True))
        quotas = [row["quota"] for row in receipts.pairs]
        short = [i for i, size in enumerate(sizes.values()) if given[i] == size]
        fair = [got - quota for i, (got, quota) in enumerate(zip(given, quotas, strict=True)) if i not in short]
        assert all(gap > -1 for gap in fair)  # nobody who has enough is more than a row below his quota


def test_kinds_without_a_share_of_their_own_divide_what_is_left() -> None:
    assert shares(["bitext", "translate", "answer_across"], {"bitext": 0.5}) == [0.5, 0.25, 0.25]
    assert shares(["bitext", "translate"], {"bitext": 1.0}) == [1.0, 0.0]
    assert shares(["bitext"], {}) == [1.0]


SMALL: Sizes = {(kind, pair, 0): 20 + 35 * pair for kind in (0, 1) for pair in (1, 2, 4, 6)}
MORE = {
    "a pair": {(0, 3, 0): 90, (1, 3, 0): 90},
    "a pair before all others": {(0, 0, 0): 300, (1, 0, 0): 7},
    "a corpus": {(0, 4, 1): 150, (1, 4, 1): 150},
    "a corpus of one kind": {(0, 6, 2): 500},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quality": {"order": "quality"},
    "caps": {"caps": {"GNOME": 60, "*": 80}},
    "quality and caps": {"order": "quality", "caps": {"*": 70}},
    "tokens": {"tokens": 1500, "tokenizer": "characters"},
    "tokens, quality and caps": {"tokens": 1500, "tokenizer": "characters", "order": "quality", "caps": {"KDE/v2": 9}},
    "shares": {"shares": {"kind0": 0.8}},
    "all alike": {"language_alpha": 0.0},
    "as they are": {"language_alpha": 1.0},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_a_further_pair_or_corpus_only_shortens_what_others_give(more: Sizes, settings: dict[str, Any]) -> None:
    touched = {pair for _, pair, _ in more}
    shorter = 0
    for rows in (101, 330):
        _, before = chosen(SMALL, 2, rows=rows, **settings)
        _, after = chosen({**SMALL, **more}, 2, rows=rows, **settings)
        for key in before:
            if key[1] not in touched:
                left = after.get(key, [])
                slack = int("tokens" in settings)  # a longer row of the others may leave room for one more here
                assert left[: len(before[key])] == before[key][: len(left)]
                assert len(left) <= len(before[key]) + slack
                shorter += len(left) < len(before[key])
    assert shorter > 0 or len(touched & {pair for _, pair, _ in SMALL})  # a pair that is there already has its quota


def test_rows_and_tokens_are_both_kept_and_missed_by_less_than_a_row() -> None:
    sizes: Sizes = {(kind, pair, 0): 40 + 30 * pair for kind in (0, 1) for pair in range(8)}
    for rows, tokens in itertools.product((50, 400, 900_000), (100, 1234, 5000, 10**6)):
        settings = {"rows": rows, "tokens": tokens, "tokenizer": "characters", "language_alpha": 0.0}
        receipts, _ = chosen(sizes, 2, **settings)
        spent, got = sum(row["tokens"] for row in receipts.kinds), sum(taken(receipts.kinds))
        assert spent <= tokens
        assert got <= rows
        assert got in (rows, sum(sizes.values())) or tokens - spent < 30
        if got < sum(sizes.values()) and tokens <= 5000:  # nobody is short of rows: all have the same within a row
            per_pair = [row["tokens"] for row in receipts.pairs]
            assert max(per_pair) - min(per_pair) < 2 * 30


def test_caps_go_by_version_then_name_then_the_rest() -> None:
    sizes: Sizes = {(kind, pair, corpus): 50 for kind in (0, 1) for pair in (0, 1) for corpus in range(3)}
    for caps, expected in (
        ({"GNOME": 10}, [10, 50, 50]),
        ({"GNOME/v1": 5, "GNOME": 10, "*": 20}, [5, 20, 20]),
        ({"*": 0, "KDE/v2": 60}, [0, 50, 0]),
    ):
        receipts, _ = chosen(sizes, 2, rows=1000, caps=caps)
        assert [row["capped"] for row in receipts.corpora] == expected * 4
        assert taken(receipts.corpora) == expected * 4


def test_the_best_come_first_and_draws_part_equals() -> None:
    _, by_chance = chosen({(0, 0, 0): 200}, rows=50)
    _, best = chosen({(0, 0, 0): 200}, rows=50, order="quality")
    pick = seeded_order(np.arange(200).astype(np.uint64), 0, 0)
    score = (seeded_order(pick, "score") % np.uint64(50)) / 50
    assert best[0, 0] == np.lexsort((pick, -score))[:50].tolist()
    assert by_chance[0, 0] == np.argsort(pick)[:50].tolist()


def test_receipts_say_why() -> None:
    sizes: Sizes = {(0, 1, 0): 400, (0, 1, 1): 100, (0, 2, 0): 6, (1, 1, 0): 30, (1, 3, 2): 3}
    receipts, _ = chosen(sizes, 2, rows=200, language_alpha=0.5, shares={"kind0": 0.5}, caps={"GNOME": 125})
    assert [row["why"] for row in receipts.kinds] == [
        "0.5 of 200 rows; 67 more, which others could not fill",
        "0.5 of 200 rows; has only 33: gives 67 to the others",
    ]
    assert [(row["kind"], row["pair"], row["taken"], row["why"]) for row in receipts.pairs if row["available"]] == [
        ("kind0", str(PAIRS[1]), 161, "225^0.5 = 15.0 of 17.4 gives 144 of 167; 17 more, which others could not fill"),
        ("kind0", str(PAIRS[2]), 6, "6^0.5 = 2.4 of 17.4 gives 23 of 167; has only 6: gives 17 to the others"),
        ("kind1", str(PAIRS[1]), 30, "30^0.5 = 5.5 of 7.2 gives 25 of 33; 5 more, which others could not fill"),
        ("kind1", str(PAIRS[3]), 3, "3^0.5 = 1.7 of 7.2 gives 8 of 33; has only 3: gives 5 to the others"),
    ]
    assert {row["why"] for row in receipts.pairs if not row["available"]} == {"has no row to give"}
    first = receipts.corpora[0]
    assert first == {
        "kind": "kind0", "pair": str(PAIRS[1]), "corpus": "GNOME/v1", "available": 400, "capped": 125, "quota": 89.4,
        "taken": first["taken"], "why": "cap GNOME 125; 125 of the pair's 225 rows, drawn at random",
    }  # fmt: skip
    assert 75 < first["taken"] < 105  # 161 of 225 rows are taken, whatever the cap
    assert json.loads(json.dumps(receipts)) == [receipts.kinds, receipts.pairs, receipts.corpora]


def test_receipts_say_which_bound_was_met_and_what_is_left() -> None:
    kind = chosen({(0, 0, 0): 90}, rows=20, tokens=10_000, tokenizer="characters")[0].kinds[0]
    assert kind["why"] == "1 of 10,000 tokens; the bound of 20 rows was met first"
    assert kind["taken"] == 20 < kind["tokens"] < 600
    assert chosen({(0, 0, 0): 90}, rows=200)[0].kinds[0]["why"] == "1 of 200 rows; has only 90: leaves 110"
    best = chosen({(0, 0, 0): 90}, rows=20, order="quality")[0].corpora[0]
    assert best["why"] == "90 of the pair's 90 rows, the best first"


def test_receipts_in_a_terminal_are_one_line_each_and_not_too_many() -> None:
    receipts, _ = chosen({(0, pair, 0): 10 * (pair + 1) for pair in range(8)}, rows=100)
    numbers = {"receipt_kinds": receipts.kinds, "receipt": receipts.pairs}
    lines = words(numbers).splitlines()
    assert len(lines) == 9
    assert lines[0] == f"kind0{' ' * 18}  100  1 of 100 rows"
    assert lines[8].startswith(f"kind0 {PAIRS[7]}   16  80^0.3 = 3.7 of ")
    many = words({"receipt_kinds": receipts.kinds, "receipt": receipts.pairs * 50}).splitlines()
    assert len(many) == budget.SHOWN + 1
    assert many[-1] == "... 361 more in the manifest"


TEXTS = ["the cat sat", "แมวนั่งบนเสื่อ", "猫坐在垫子上", "القطة جلست", ""]


def sentencepiece_model(file: Path) -> Path:
    import sentencepiece

    with file.open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*TEXTS[:4], "the mat", "a cat"] * 30), model_writer=out, vocab_size=60,
            hard_vocab_limit=False, minloglevel=2, num_threads=1,
        )  # fmt: skip
    return file


def tokenizer_json(file: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(file))
    return file


def test_tokens_are_counted_by_what_the_recipe_names(tmp_path: Path) -> None:
    import sentencepiece

    def lengths(tokenizer: str | Path) -> list[int]:
        return counter(Budget(tokens=1, tokenizer=str(tokenizer)))(pa.array(TEXTS)).tolist()  # type: ignore[call-arg]

    assert lengths("characters") == [11, 14, 6, 10, 1]
    assert lengths(tokenizer_json(tmp_path / "tokenizer.json")) == [3, 1, 1, 2, 1]  # neither cut nor padded
    model = sentencepiece_model(tmp_path / "sp.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert lengths(model) == [max(1, len(processor.encode(text))) for text in TEXTS]
    assert lengths(model)[0] > 3


def test_a_tokenizer_that_cannot_count_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.model").write_bytes(b"nothing")
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.model", "bad.json"):
        with pytest.raises(ValueError, match=rf"budget.tokenizer: .*{name} cannot be read: .*Allowed: a SentencePiece"):
            counter(Budget.model_validate({"tokens": 5, "tokenizer": str(tmp_path / name)}))
    lost = recipe(["en-de"], budget={"tokens": 5, "tokenizer": str(tmp_path / "lost.model")})
    with pytest.raises(ValueError, match=r"corpus.budget.tokenizer: no file .*lost.model. Expected: characters"):
        lost.notes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 1_000_000}, r"rows: found 1,000,000. Expected: fewer than 1,000,000"),
        ({"tokens": 5}, r"tokenizer: missing, but tokens is set. Expected: .* Fix: set both or neither"),
        ({"tokenizer": "characters"}, r"tokens: missing, but tokenizer"),
        ({"tokens": 5, "tokenizer": "gpt2"}, r"tokenizer: found 'gpt2'. Expected: characters, or the path of"),
        ({"order": "quality"}, r"budget.order: found quality, but no filter that judges it in \[\]. Expected: random"),
        ({"shares": {"translat": 0.5}}, r"budget.shares: found translat. Expected: bitext"),
        ({"caps": {"GNOME": -1}}, r"greater than or equal to 0"),
        ({"order": "best"}, r"'random' or 'quality'"),
        ({"directions": "all"}, r"'sorted' or 'both'"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(["en-de"], budget=settings)


def test_a_cap_of_no_corpus_is_refused() -> None:
    caps = Budget.model_validate({"caps": {"GNOME": 1, "KDE/v1": 2, "*": 3}})
    caps.check_caps(["GNOME/v2", "KDE"])
    with pytest.raises(
        ValueError, match=r"budget.caps: found KDE/v1. Expected: \* or a corpus of the recipe \(GNOME/v2, "
    ):
        caps.check_caps(["GNOME/v2", "KDE/v2"])
    with pytest.raises(ValueError, match=r"budget.caps: found GNOME, KDE/v1. Expected"):
        caps.check_caps(["GNOMES/v1"])


def test_dagster_shows_receipts_as_tables() -> None:
    from assets.metadata import plain

    receipts, _ = chosen({(0, 0, 0): 30, (0, 1, 1): 20}, rows=40)
    shown = plain(receipts.corpora)
    assert [column.name for column in shown.schema.columns] == list(receipts.corpora[0])
    assert [record.data for record in shown.records] == receipts.corpora
    assert plain([1, 2]).data == [1, 2]
