import itertools
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import load_from_disk

from pipelines.filters import Filter
from pipelines.languages import Pair
from pipelines.schema import BITEXT, INSTRUCTION, bitext_batch
from pipelines.stages import instruct, mix
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import Planted, recipe, store_bitext, store_eval_text
from tests.test_budget import tokenizer_json

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


class Judge(Filter):
    """Stands for a filter that judges quality; its scores are planted."""

    judges_quality: ClassVar[bool] = True

    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        raise AssertionError("scores are planted")


Corpora = dict[Pair, dict[str, int]]
"""Rows by pair and corpus."""


def from_corpora(folder: Path, rows: Corpora, dev_rows: int = 0, **corpus: Any) -> tuple[Store, Manifest]:
    """A mix of texts that name their corpus and number; each has a score in hundredths."""
    store = Store.open(folder, "planted")
    store_eval_text(store, {"eng_Latn": ["Held out."]})
    corpus = {"filters": [Judge()], "instructions": ["translate"], **corpus}
    made = recipe([str(pair) for pair in rows], dev_rows=dev_rows, **corpus)
    for pair, sizes in rows.items():
        with store.writing("decontaminated_bitext", pair) as out:
            for name, n in sizes.items():
                src, tgt = ([f"{lang} of {pair} {name} {number}" for number in range(n)] for lang in pair)
                scores = pa.array([(number * 37 % 100) / 100 for number in range(n)])
                out.write(bitext_batch(src, tgt, *pair, name).append_column(f"score_{Judge().name}", scores))
            facts = {"version": "1", "licence": "CC0-1.0", "url": "", "citation": ""}
            out.commit(f"{pair}{sizes}", {}, corpora=dict.fromkeys(sizes, facts))
        instruct.run(made, store, pair)
    return store, mix.run(made, store)


def bitext(store: Store, pair: Pair, corpus: str = "") -> set[tuple[str, str, str, str, str]]:
    """The bitext rows of a pair, or of one corpus of it, in whatever direction."""
    rows = store.table("training_mix", part="bitext").to_pylist()
    return {tuple(row.values()) for row in rows if Pair(*sorted((row["src_lang"], row["tgt_lang"]))) == pair
            and corpus in row["corpus"]}  # fmt: skip


def texts(store: Store, part: str) -> list[tuple[str, str]]:
    return [(row["src"], row["tgt"]) for row in store.table("training_mix", part=part).to_pylist()]


def taken(manifest: Manifest, kind: str) -> dict[str, int]:
    return {row["pair"]: row["taken"] for row in manifest.numbers["receipt"] if row["kind"] == kind}


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
        def instructions(self, lang, home):
            for number in range(40):
                yield number, "Who?", f"{lang} sentence {number}. {lang} more.", f"{number}"

    store, manifest = mixed(tmp_path, {DE: 40}, instructions=[{"answer_across": {"source": Reading()}}], dev_rows=4)
    dev = store.table("training_mix", part="dev").to_pylist()
    assert len(dev) == 4
    steps = {row.step: row.dropped for row in manifest.ledger if row.corpus.startswith("answer_across")}
    assert steps == {"dev_overlap": 4, "dev": 0, "repeat": 0, "cap": 0, "budget": 0}


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


def _shards(manifest: Manifest) -> dict[str, str]:
    """All files but the data card, which shows the recipe as it is written."""
    return {name: digest for name, digest in manifest.files.items() if name != "README.md"}


def test_the_same_seed_gives_the_same_shards_whatever_the_order_of_pairs(tmp_path: Path) -> None:
    one = mixed(tmp_path / "one", budget={"rows": 150})[1]
    two = mixed(tmp_path / "two", dict(reversed(SIZES.items())), budget={"rows": 150})[1]
    other = mixed(tmp_path / "other", seed=1, budget={"rows": 150})[1]
    assert _shards(one) == _shards(two)
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


FEW: Corpora = {DE: {"GNOME/v1": 150, "KDE/v2": 90}, SW: {"KDE/v2": 60}}
WIDER: dict[str, Corpora] = {
    "a pair": {**FEW, FR: {"GNOME/v1": 200}},
    "a corpus": {**FEW, SW: {"KDE/v2": 60, "QED/v1": 80}},
}
WAYS: dict[str, dict[str, Any]] = {
    "at random": {},
    "the best first": {"order": "quality"},
    "capped": {"caps": {"GNOME": 70, "*": 75}},
    "both directions": {"directions": "both"},
    "all of these": {"order": "quality", "caps": {"GNOME": 70}, "directions": "both"},
}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("rows", WIDER.values(), ids=WIDER)
def test_a_further_pair_or_corpus_leaves_the_rows_of_others_as_they_were(
    tmp_path: Path, rows: Corpora, settings: dict[str, Any]
) -> None:
    budget = {"rows": 160, **settings}
    before = bitext(from_corpora(tmp_path / "before", FEW, dev_rows=5, budget=budget)[0], DE)
    after = bitext(from_corpora(tmp_path / "after", rows, dev_rows=5, budget=budget)[0], DE)
    assert 0 < len(after) < len(before)
    assert after < before  # languages and texts, so directions too


def test_half_of_each_pair_is_turned_round_and_dev_is_not(tmp_path: Path) -> None:
    rows: Corpora = {DE: {"KDE/v2": 81}, SW: {"KDE/v2": 40, "QED/v1": 20}}
    one, _ = from_corpora(tmp_path / "sorted", rows, dev_rows=4)
    two, manifest = from_corpora(tmp_path / "both", rows, dev_rows=4, budget={"directions": "both"})
    for pair, n in ((DE, 77), (SW, 56)):
        found = bitext(two, pair)
        turned = {row for row in found if row[2] > row[3]}
        assert (len(found), len(turned)) == (n, n // 2)
        back = {(tgt, src, tgt_lang, src_lang, corpus) for src, tgt, src_lang, tgt_lang, corpus in turned}
        assert (found - turned) | back == bitext(one, pair)
        assert all(src.startswith(src_lang) and tgt.startswith(tgt_lang) for src, tgt, src_lang, tgt_lang, _ in found)
    assert one.table("training_mix", part="dev") == two.table("training_mix", part="dev")
    assert one.table("training_mix", part="instructions") == two.table("training_mix", part="instructions")
    assert manifest.rows["dev"] == 8


def test_the_best_rows_are_taken_and_instructions_stay_a_random_draw(tmp_path: Path) -> None:
    budget = {"rows": 60, "order": "quality", "shares": {"bitext": 0.5}}
    store, manifest = from_corpora(tmp_path, {DE: {"KDE/v2": 100}}, budget=budget)
    numbers = sorted(int(src.rsplit(" ", 1)[1]) * 37 % 100 for src, *_ in bitext(store, DE))
    assert numbers == list(range(70, 100))
    said = store.table("training_mix", part="instructions")["messages"].to_pylist()
    other = sorted(int(turns[-1]["content"].rsplit(" ", 1)[1]) * 37 % 100 for turns in said)
    assert len(other) == 30
    assert other[0] < 20
    assert [row["why"] for row in manifest.numbers["receipt_corpora"]] == [
        "100 of the pair's 100 rows, the best first", "100 of the pair's 100 rows, drawn at random",
    ]  # fmt: skip


def test_a_cap_bounds_each_corpus_in_each_pair_and_kind(tmp_path: Path) -> None:
    rows: Corpora = {DE: {"GNOME/v1": 150, "KDE/v2": 30}, SW: {"GNOME/v1": 20, "KDE/v2": 60}}
    _, manifest = from_corpora(tmp_path, rows, budget={"caps": {"GNOME": 25, "*": 40}})
    found = [
        (row["kind"], row["pair"], row["corpus"], row["available"], row["capped"], row["taken"])
        for row in manifest.numbers["receipt_corpora"]
    ]
    assert found == [
        (kind, str(pair), corpus, n, capped, capped)
        for kind in ("bitext", "translate")
        for pair, corpus, n, capped in (
            (DE, "GNOME/v1", 150, 25), (DE, "KDE/v2", 30, 30), (SW, "GNOME/v1", 20, 20), (SW, "KDE/v2", 60, 40),
        )
    ]  # fmt: skip
    dropped = {(row.corpus, row.step): row.dropped for row in manifest.ledger if row.dropped}
    assert dropped == {(f"{kind} {p}", "cap"): n for kind in ("bitext", "translate") for p, n in ((DE, 125), (SW, 20))}


def test_a_capped_corpus_is_not_taken_before_the_others(tmp_path: Path) -> None:
    rows: Corpora = {DE: {"GNOME/v1": 1000, "KDE/v2": 100}}
    store, _ = from_corpora(tmp_path, rows, budget={"rows": 100, "caps": {"GNOME": 100}}, instructions=[])
    assert 35 < len(bitext(store, DE, "GNOME")) < 65


def test_a_cap_of_a_corpus_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"budget.caps: found GNOMES. Expected: \* or a corpus of the recipe \(KDE/v2\)"
    ):
        from_corpora(tmp_path, {DE: {"KDE/v2": 20}}, budget={"caps": {"GNOMES": 5}})


def test_a_budget_in_tokens_is_kept_and_missed_by_less_than_a_row(tmp_path: Path) -> None:
    rows: Corpora = {DE: {"KDE/v2": 90}, SW: {"KDE/v2": 60}}
    budget = {"tokens": 4000, "tokenizer": "characters", "language_alpha": 0.0}
    store, manifest = from_corpora(tmp_path, rows, budget=budget)
    pairs, said = (store.table("training_mix", part=part) for part in ("bitext", "instructions"))
    content = pc.struct_field(pc.list_flatten(said["messages"]), "content")
    lengths = [pc.sum(pc.utf8_length(column)).as_py() for column in (pairs["src"], pairs["tgt"], content)]
    assert manifest.numbers["tokens"] == sum(lengths)
    assert 4000 - 200 < sum(lengths) <= 4000 == manifest.numbers["token_budget"]
    spent = {(row["kind"], row["pair"]): row["tokens"] for row in manifest.numbers["receipt"]}
    assert spent["bitext", str(DE)] + spent["bitext", str(SW)] == lengths[0] + lengths[1]
    assert all(800 < tokens < 1200 for tokens in spent.values())


def test_the_tokenizers_content_decides_not_its_path(tmp_path: Path) -> None:
    def print_of(file: Path) -> str:
        budget = {"tokens": 4000, "tokenizer": str(file)}
        return from_corpora(tmp_path / "store", {DE: {"KDE/v2": 20}}, budget=budget)[1].fingerprint

    first, other = tokenizer_json(tmp_path / "a.json"), tokenizer_json(tmp_path / "b.json")
    same = print_of(first)
    assert print_of(other) == same
    other.write_text(other.read_text().replace('"cat"', '"dog"'))
    assert print_of(other) != same


def test_questions_that_pairs_share_are_divided_among_them(tmp_path: Path) -> None:
    across = {"answer_across": {"source": Planted(rows=90), "cross_probability": 0.0}}
    _, manifest = mixed(tmp_path, {DE: 50, FR: 50, SW: 50}, instructions=[across], dev_rows=0)
    shared = {row.corpus: row.dropped for row in manifest.ledger if row.step == "repeat" and row.dropped}
    assert len(shared) == 3
    assert max(shared.values()) < 2 * min(shared.values())


def test_small_batches_make_the_same_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = {"rows": 300, "directions": "both"}
    whole, _ = mixed(tmp_path / "whole", budget=budget)
    monkeypatch.setattr(mix, "BATCH_ROWS", 7)
    small, manifest = mixed(tmp_path / "small", budget=budget)
    assert {part: small.table("training_mix", part=part) for part in manifest.rows} == {
        part: whole.table("training_mix", part=part) for part in manifest.rows
    }
    assert next(batch for batch in small.batches("training_mix", part="bitext") if batch.num_rows).num_rows == 7
    assert {file.split("/")[0] for file in manifest.files} == {
        "README.md", "bitext", "instructions", "dev", "dataset_dict.json",
    }  # fmt: skip
