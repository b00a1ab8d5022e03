import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import load_from_disk

from pipelines import instruct, mix
from pipelines.languages import Pair
from pipelines.mix import fill, shares
from pipelines.schema import BITEXT, INSTRUCTION
from pipelines.store import Manifest, Store
from tests.planted import Planted, recipe, store_bitext, store_eval_text

DE, FR, SW = Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn"), Pair("eng_Latn", "swh_Latn")
SIZES = {DE: 400, FR: 200, SW: 40}
ACROSS = {"answer_across": {"source": Planted(rows=30)}}


def mixed(folder: Path, sizes: dict[Pair, Any] = SIZES, seed: int = 0, **corpus: Any) -> tuple[Store, Manifest]:
    corpus = {"instructions": ["translate", ACROSS], "dev_rows": 10, **corpus}
    made = recipe([str(pair) for pair in sizes], seed=seed, **corpus)
    store = Store.open(folder, made.name)
    store_eval_text(store, {"eng_Latn": ["Held out."]})
    for pair, rows in sizes.items():
        store_bitext(store, pair, rows)
        instruct.run(made, store, pair)
    return store, mix.run(made, store)


def texts(store: Store, part: str) -> list[tuple[str, str]]:
    return [(row["src"], row["tgt"]) for row in store.table("training_mix", part=part).to_pylist()]


def taken(manifest: Manifest, kind: str) -> dict[str, int]:
    return {row["pair"]: row["taken"] for row in manifest.numbers["receipt"] if row["kind"] == kind}


def test_shares_are_filled_like_water() -> None:
    assert fill(10, [1, 1], [100, 100]) == [5, 5]
    assert fill(10, [1, 1, 1], [2, 100, 100]) == [2, 4, 4]
    assert fill(10, [1, 2, 3], [3, 3, 3]) == [3, 3, 3]
    assert fill(10, [1, 1, 1], [100, 100, 100]) == [4, 3, 3]
    assert fill(11, [3, 1, 0], [4, 100, 100]) == [4, 7, 0]
    assert fill(0, [1], [5]) == [0]
    assert fill(5, [], []) == []


def test_filling_always_gives_the_whole_total_and_nobody_more_than_he_has() -> None:
    sizes = [(7 * i * i + 3) % 101 for i in range(20)]
    for total in range(0, 1500, 7):
        given = fill(total, [size**0.3 for size in sizes], sizes)
        assert sum(given) == min(total, sum(sizes))
        assert all(0 <= got <= size for got, size in zip(given, sizes, strict=True))


def test_kinds_without_a_share_of_their_own_divide_what_is_left() -> None:
    assert shares(["bitext", "translate", "answer_across"], {"bitext": 0.5}) == [0.5, 0.25, 0.25]
    assert shares(["bitext", "translate"], {"bitext": 1.0}) == [1.0, 0.0]
    assert shares(["bitext"], {}) == [1.0]


def test_the_budget_is_kept_to_the_row_and_divided_as_told(tmp_path: Path) -> None:
    budget = {"rows": 200, "language_alpha": 0.0, "shares": {"bitext": 0.6}}
    store, manifest = mixed(tmp_path, budget=budget)
    assert manifest.rows["bitext"] + manifest.rows["instructions"] == 200 == manifest.numbers["rows_out"]
    assert manifest.rows["bitext"] == 120
    assert taken(manifest, "bitext") == {str(SW): 36, str(DE): 42, str(FR): 42}  # 4 of 40 rows are dev
    kinds = [row["template"].split("/")[0] for row in store.table("training_mix", part="instructions").to_pylist()]
    assert (kinds.count("translate"), kinds.count("answer_across")) == (40, 40)


def test_language_alpha_one_keeps_the_proportions(tmp_path: Path) -> None:
    sizes = {DE: 400, FR: 200}
    budget = {"rows": 90, "language_alpha": 1.0}
    _, manifest = mixed(tmp_path, sizes, budget=budget, dev_rows=0, instructions=[])
    assert taken(manifest, "bitext") == {str(DE): 60, str(FR): 30}


def test_dev_is_a_tenth_at_most_and_shares_no_segment_with_training(tmp_path: Path) -> None:
    store, manifest = mixed(tmp_path)
    dev = store.table("training_mix", part="dev").to_pylist()
    per_pair = [sum(row["src_lang"] == pair.src and row["tgt_lang"] == pair.tgt for row in dev) for pair in SIZES]
    assert per_pair == [10, 10, 4]
    held = {row[side] for row in dev for side in ("src", "tgt")}
    trained = {text for row in texts(store, "bitext") for text in row}
    assert len(trained) > 500
    assert held.isdisjoint(trained)
    said = [
        turn["content"]
        for row in store.table("training_mix", part="instructions").to_pylist()
        for turn in row["messages"]
    ]
    assert not [text for text in said if any(segment in text for segment in held)]
    assert manifest.numbers["dev_rows"] == manifest.rows["dev"] == 24


def test_pairs_that_share_their_pivot_texts_set_the_same_ones_aside(tmp_path: Path) -> None:
    store, _ = mixed(tmp_path, {DE: 300, FR: 300})
    dev = store.table("training_mix", part="dev").to_pylist()
    english = [
        {row["tgt"] for row in dev if row["tgt_lang"] == "eng_Latn"},
        {row["src"] for row in dev if row["src_lang"] == "eng_Latn"},
    ]
    assert len(english[0]) == 10
    assert english[0] == english[1]


def test_a_dev_sentence_within_a_longer_input_keeps_the_exercise_out(tmp_path: Path) -> None:
    class Reading(Planted):
        def instructions(self, lang):
            for number in range(40):
                yield number, "Who?", f"{lang} sentence {number}. {lang} more.", f"{number}"

    store, manifest = mixed(tmp_path, {DE: 40}, instructions=[{"answer_across": {"source": Reading()}}], dev_rows=4)
    dev = store.table("training_mix", part="dev").to_pylist()
    assert len(dev) == 4
    steps = {row.step: row.dropped for row in manifest.ledger if row.corpus.startswith("answer_across")}
    assert steps == {"dev_overlap": 4, "dev": 0, "repeat": 0, "budget": 0}


def test_the_ledger_closes_on_what_is_written(tmp_path: Path) -> None:
    _, manifest = mixed(tmp_path, budget={"rows": 150})
    last = [row.kept for row in manifest.ledger if row.step == "budget"]
    assert sum(last) == 150
    by_corpus: dict[str, list[Any]] = {}
    for row in manifest.ledger:
        by_corpus.setdefault(row.corpus, []).append(row)
    for rows in by_corpus.values():
        assert all(before.kept == after.into for before, after in itertools.pairwise(rows))
    assert by_corpus[f"bitext {DE}"][0].into == 400


def test_a_question_that_two_pairs_ask_alike_is_taken_once(tmp_path: Path) -> None:
    across = {"answer_across": {"source": Planted(rows=30), "cross_probability": 0.0}}
    store, manifest = mixed(tmp_path, {DE: 50, FR: 50}, instructions=[across], dev_rows=0)
    prompts = [row["messages"][0]["content"] for row in store.table("training_mix", part="instructions").to_pylist()]
    assert len(prompts) == len(set(prompts)) > 30
    repeats = {row.corpus: row.dropped for row in manifest.ledger if row.step == "repeat"}
    assert sum(repeats.values()) == 60 - len(prompts) > 0


def test_the_same_seed_gives_the_same_shards_whatever_the_order_of_pairs(tmp_path: Path) -> None:
    one = mixed(tmp_path / "one", budget={"rows": 150})[1]
    two = mixed(tmp_path / "two", dict(reversed(SIZES.items())), budget={"rows": 150})[1]
    other = mixed(tmp_path / "other", seed=1, budget={"rows": 150})[1]
    assert one.files == two.files
    assert one.files["bitext/data-00000.arrow"] != other.files["bitext/data-00000.arrow"]


def test_a_further_pair_only_takes_rows_away(tmp_path: Path) -> None:
    def german(store: Store) -> set[tuple[str, str]]:
        return {(src, tgt) for src, tgt in texts(store, "bitext") if src.startswith("deu")}

    few = german(mixed(tmp_path / "few", {DE: 400}, dev_rows=0, instructions=[], budget={"rows": 100})[0])
    more = german(mixed(tmp_path / "more", SIZES, dev_rows=0, instructions=[], budget={"rows": 100})[0])
    assert 0 < len(more) < len(few) == 100
    assert more < few


def test_pairs_are_interleaved_however_hard_one_is_cut(tmp_path: Path) -> None:
    sizes = {DE: 2000, FR: 100}
    store, _ = mixed(tmp_path, sizes, dev_rows=0, instructions=[], budget={"rows": 200, "language_alpha": 0.0})
    german = [src.startswith("deu") for src, _ in texts(store, "bitext")]
    assert sum(german) == 100
    assert 30 < sum(german[:100]) < 70


def test_datasets_and_pyarrow_read_the_mix_alike(tmp_path: Path) -> None:
    store, manifest = mixed(tmp_path)
    loaded: Any = load_from_disk(str(store.folder("training_mix")))
    assert {part: len(rows) for part, rows in loaded.items()} == manifest.rows
    for part in ("bitext", "instructions", "dev"):
        assert loaded[part].to_list() == store.table("training_mix", part=part).to_pylist()
    assert store.table("training_mix", part="bitext").schema == BITEXT
    assert store.table("training_mix", part="instructions").schema == INSTRUCTION


def test_an_empty_part_still_has_its_schema(tmp_path: Path) -> None:
    store, manifest = mixed(tmp_path, {SW: 20}, dev_rows=0, instructions=[])
    assert manifest.rows == {"bitext": 20, "instructions": 0, "dev": 0}
    assert store.table("training_mix", part="instructions").schema == INSTRUCTION
    assert store.table("training_mix", part="dev") == pa.Table.from_batches([], BITEXT)
    assert len(load_from_disk(str(store.folder("training_mix")))["dev"]) == 0


def test_a_mix_without_bitext_is_an_error_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    budget = {"rows": 10, "shares": {"translate": 1.0}}
    with pytest.raises(ValueError, match=r"training_mix: found no bitext row.*share of bitext.*allow_empty: true"):
        mixed(tmp_path, {SW: 20}, instructions=["translate"], budget=budget)
    _, manifest = mixed(tmp_path, {SW: 20}, instructions=["translate"], budget=budget, allow_empty=True)
    assert manifest.rows["instructions"] == 10


def test_an_unchanged_recipe_is_not_mixed_again_and_a_changed_setting_is(tmp_path: Path) -> None:
    _, manifest = mixed(tmp_path)
    assert mixed(tmp_path)[1] == manifest
    changed = [{"budget": {"rows": 150}}, {"dev_rows": 9}, {"budget": {"language_alpha": 0.5}}, {"seed": 3}]
    fingerprints = {mixed(tmp_path, **change)[1].fingerprint for change in changed}
    assert len(fingerprints | {manifest.fingerprint}) == 5
