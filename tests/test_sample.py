import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines import sample_grammar
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.schema import BITEXT
from pipelines.sources.sample import Noise, Sample
from pipelines.text.matching import match_key

HOME = Path("unused")
SHARES = dict.fromkeys(sample_grammar.NOISES, 0.02)
DE_FR = Pair("deu_Latn", "fra_Latn")


def rows(source: Sample, pair: Pair) -> list[dict[str, str]]:
    return pa.Table.from_batches(list(source.fetch(pair, HOME))).to_pylist()


def labelled(source: Sample, pair: Pair) -> list[tuple[str, str, str]]:
    return [
        (row["src"], row["tgt"], label)
        for batch, labels in source.labelled(pair)
        for row, label in zip(batch.to_pylist(), labels, strict=True)
    ]


def known(code: str) -> set[str]:
    return {sample_grammar.text(i, code) for i in sample_grammar.TRAIN_IDS}


@pytest.fixture(scope="module")
def noisy() -> list[tuple[str, str, str]]:
    return labelled(Sample(noise=Noise(**SHARES)), DE_FR)


@pytest.mark.parametrize("pair", [Pair(*codes) for codes in combinations(sample_grammar.LANGUAGES, 2)], ids=str)
def test_any_two_languages_make_a_pair_and_low_resources_a_quarter(pair: Pair):
    batches = list(Sample(rows=400).fetch(pair, HOME))
    low = "hin_Deva" in pair or "swh_Latn" in pair
    assert sum(batch.num_rows for batch in batches) == (100 if low else 400)
    for batch in batches:
        assert batch.schema == BITEXT
        assert set(batch["src_lang"].to_pylist()) == {pair.src}
        assert set(batch["tgt_lang"].to_pylist()) == {pair.tgt}
        assert set(batch["corpus"].to_pylist()) == {"sample/v1"}


def test_all_training_rows_are_distinct_translations_of_each_other():
    found = rows(Sample(), DE_FR)
    expected = {
        (sample_grammar.text(i, "deu_Latn"), sample_grammar.text(i, "fra_Latn")) for i in sample_grammar.TRAIN_IDS
    }
    assert len(found) == 24_000
    assert {(row["src"], row["tgt"]) for row in found} == expected


def test_heldout_rows_are_the_first_thousand_ids_and_not_in_training():
    pair = Pair("hin_Deva", "swh_Latn")
    heldout = rows(Sample(split="heldout"), pair)
    assert sorted(row["src"] for row in heldout) == sorted(sample_grammar.text(i, "hin_Deva") for i in range(1_000))
    assert {row["corpus"] for row in heldout} == {"sample-heldout/v1"}
    assert known("swh_Latn").isdisjoint(row["tgt"] for row in heldout)


def test_the_seed_sets_order_and_noise_but_not_meaning():
    one, same, other = (labelled(Sample(rows=500, seed=seed, noise=Noise(**SHARES)), DE_FR) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    plain, shuffled = (rows(Sample(rows=500, seed=seed), DE_FR) for seed in (1, 2))
    assert plain != shuffled
    assert {row["src"] for row in plain} == {row["src"] for row in shuffled}


def test_noise_is_counted_exactly_and_spread(noisy: list[tuple[str, str, str]]):
    labels = [label for _, _, label in noisy]
    assert Counter(labels) == {"clean": 20_160} | dict.fromkeys(sample_grammar.NOISES, 480)
    first_half = Counter(labels[:12_000])
    assert all(180 < first_half[name] < 300 for name in set(sample_grammar.NOISES) - set(sample_grammar.REPEATS))
    for name in sample_grammar.REPEATS:
        assert 80 < first_half[name] < 160, "a quarter: both rows of such a pair are in the first half"


def test_without_noise_every_row_is_clean():
    assert {label for _, _, label in labelled(Sample(rows=200), DE_FR)} == {"clean"}


def test_clean_rows_are_translations_and_occur_once(noisy: list[tuple[str, str, str]]):
    german, french = known("deu_Latn"), known("fra_Latn")
    clean = [(src, tgt) for src, tgt, label in noisy if label == "clean"]
    assert len(set(clean)) == len(clean)
    assert all(src in german and tgt in french for src, tgt in clean)


def test_each_noise_is_what_its_label_says(noisy: list[tuple[str, str, str]]):
    german, french = known("deu_Latn"), known("fra_Latn")
    for at, (src, tgt, label) in enumerate(noisy):
        if label == "untranslated":
            assert src == tgt
            assert src in german
        elif label == "wrong_language":
            assert (src in german) != (tgt in french)
        elif label == "swapped":
            assert src in french
            assert tgt in german
        elif label == "length":
            assert (src in german) != (tgt in french)
            longer, shorter = sorted((len(src), len(tgt)), reverse=True)
            assert longer / shorter > 2.5
        elif label == "markup":
            dirty = [side for side, own in ((src, german), (tgt, french)) if side not in own]
            assert dirty
            assert all(2 * len(_letters(side)) < len(side) + 20 for side in dirty)
        elif label == "duplicate":
            assert (src, tgt, "clean") in noisy[:at]
        elif label == "misaligned":
            assert src in german
            assert tgt in french


def test_a_misaligned_target_is_that_of_another_row_of_similar_length(noisy: list[tuple[str, str, str]]):
    true = {sample_grammar.text(i, "deu_Latn"): sample_grammar.text(i, "fra_Latn") for i in sample_grammar.TRAIN_IDS}
    found = [(true[src], tgt) for src, tgt, label in noisy if label == "misaligned"]
    assert all(right != wrong for right, wrong in found)
    slack = sample_grammar.LENGTH_SLACK
    close = [abs(len(wrong) - len(right)) <= slack * len(right) for right, wrong in found]
    assert sum(close) >= 0.98 * len(close)  # few sentences are as long as the longest


def jaccard(a: str, b: str, size: int) -> float:
    first, second = ({text[at : at + size] for at in range(len(text) - size + 1)} for text in (a.lower(), b.lower()))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("pair", [DE_FR, Pair("eng_Latn", "zho_Hans"), Pair("hin_Deva", "rus_Cyrl")], ids=str)
def test_a_near_duplicate_has_both_sides_near_a_clean_row_before_it_and_is_no_exact_one(pair: Pair):
    found = labelled(Sample(rows=600, noise=Noise(near_duplicate=0.1)), pair)
    sizes = [3 if code == "zho_Hans" else 5 for code in pair]
    edited = [0, 0]
    for at, (src, tgt, label) in enumerate(found):
        if label == "near_duplicate":
            near = [
                clean[:2]
                for clean in found[:at]
                if clean[2] == "clean"
                and all(jaccard(a, b, size) >= 0.8 for a, b, size in zip((src, tgt), clean[:2], sizes, strict=True))
                and key(*clean[:2]) != key(src, tgt)
            ]
            assert near
            edited[0] += all(src != clean[0] for clean in near)
            edited[1] += all(tgt != clean[1] for clean in near)
    assert min(edited) > 0, "typos are in both sides"
    assert len({key(src, tgt) for src, tgt, _ in found}) == len(found)


def key(src: str, tgt: str) -> tuple[str, str]:
    return tuple(match_key(pa.array([src, tgt])).to_pylist())  # type: ignore[return-value]


def _letters(side: str) -> str:
    """The segment without the markup that the noise adds."""
    return re.sub(r"<[^>]*>|&\w+;|%\(\d+\$d\)|%s|\{\d+\}", "", side)


def test_a_language_the_sample_does_not_have_is_an_error():
    with pytest.raises(
        ValueError,
        match=r"source 'sample', pair eng_Latn-ita_Latn: no language 'ita_Latn'. Available: .*swh_Latn.* Choose",
    ):
        Sample().check([DE_FR, Pair("eng_Latn", "ita_Latn")])


def test_too_much_noise_is_an_error():
    with pytest.raises(
        ValidationError,
        match="of 1.1 in all, of which duplicates and near duplicates are 0.6. Allowed: at most 1",
    ):
        Noise(duplicate=0.6, markup=0.5)
    with pytest.raises(ValueError, match="found 4 noisy rows in 3. Allowed: .* Raise `rows` or lower `noise`"):
        Sample(rows=3, noise=Noise(markup=0.5, length=0.5)).check([DE_FR])


def test_noise_in_the_heldout_split_is_an_error():
    with pytest.raises(ValidationError, match="found noise with split 'heldout'. Allowed: noise with split 'train'"):
        Sample(split="heldout", noise=Noise(markup=0.1))


def test_a_recipe_names_the_source():
    source = build("pipelines.sources", {"sample": {"rows": 40, "noise": {"markup": 0.1}}})
    assert source == Sample(rows=40, noise=Noise(markup=0.1))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_provenance_covers_the_corpus_that_fetch_yields(split: str):
    source = Sample.model_validate({"split": split, "rows": 8})
    corpora = {row["corpus"] for row in rows(source, DE_FR)}
    assert set(source.provenance(DE_FR, HOME)) == corpora
    assert source.provenance(DE_FR, HOME)[source.corpus]["licence"] == "Apache-2.0"


def test_instructions_are_multi_parallel_and_distinct():
    everywhere = {code: list(Sample().instructions(code, Path())) for code in sample_grammar.LANGUAGES}
    for found in everywhere.values():
        assert [row[0] for row in found] == list(range(3_000))
        assert len({row[1:] for row in found}) == 3_000
        assert all(all(row[1:]) for row in found)
    tasks = Counter(exercise.task for exercise in sample_grammar.exercises("eng_Latn"))
    assert set(tasks) == {"answer", "negate", "retime", "count"}
    assert min(tasks.values()) > 400
    sums = [[row[3] for row in found if row[3].isdecimal()] for found in everywhere.values()]
    assert sums == [sums[0]] * 8


def test_answers_are_right():
    told = {row[0]: row for row in Sample().instructions("eng_Latn", Path())}
    by_task: dict[str, list[sample_grammar.Exercise]] = {}
    for exercise in sample_grammar.exercises("eng_Latn"):
        by_task.setdefault(exercise.task, []).append(exercise)
        assert told[exercise.id][1:] == exercise[2:]
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}
    for exercise in by_task["count"]:
        assert str(sum(numbers.get(word, 0) for word in exercise.input.split())) == exercise.output
    for exercise in by_task["answer"]:
        text, _, question = exercise.input.rpartition("\n")
        assert question[-1] == "?"
        assert exercise.output.rstrip(".").lower() in text.lower()
        assert exercise.output.rstrip(".").lower() not in question.lower()
    for exercise in by_task["negate"]:
        assert " not " in exercise.output
        assert " not " not in exercise.input
    for exercise in by_task["retime"]:
        time = exercise.instruction.partition(": ")[2]
        assert exercise.output.endswith(f" {time}")
        assert exercise.input != exercise.output


@pytest.mark.parametrize("code", sample_grammar.LANGUAGES)
def test_instructions_contain_no_heldout_sentence(code: str):
    heldout = {sample_grammar.text(i, code) for i in sample_grammar.HELDOUT_IDS}
    sentences = {
        sentence.strip()
        for exercise in sample_grammar.exercises(code)
        for part in (exercise.input, exercise.output)
        for sentence in re.split(r"(?<=[.?।。？])", part)
    }
    assert len(sentences) > 5_000
    assert heldout.isdisjoint(sentences)
