import itertools
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.stages.dedup import connection
from pipelines.text import near
from pipelines.text.near import HeldOutIndex, banding, near_duplicates, shingles, size

ALPHABETS = {
    "eng_Latn": "aaeeiioouubcdfghjklmnpqrstvwyz" + "     ",
    "rus_Cyrl": "абвгдежзийклмнопрстуфхцчшщъыьэюя" + "     ",
    "arb_Arab": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي" + "     ",
    "hin_Deva": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह" + "ािीुू     ",
    "tha_Thai": "กขคฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮะาิีึืุู",
    "zho_Hans": "".join(chr(point) for point in range(0x4E00, 0x4E00 + 500)),
}


def text(rng: random.Random, lang: str, length: int) -> str:
    return " ".join("".join(rng.choices(ALPHABETS[lang], k=length)).split())


def edited(rng: random.Random, lang: str, old: str, edits: int) -> str:
    """`old` with so many characters replaced, dropped or doubled."""
    out = list(old)
    for _ in range(edits):
        place = rng.randrange(len(out))
        out[place] = rng.choice(["", out[place] * 2, rng.choice(ALPHABETS[lang])])
    return "".join(out)


def reference(words: str, characters: int) -> set[str]:
    """Shingles by definition, for text whose only sign that does not count is the space."""
    bare = unicodedata.normalize("NFC", words).lower().replace(" ", "")
    if len(bare) < characters:
        return {bare} - {""}
    return {bare[i : i + characters] for i in range(len(bare) - characters + 1)}


def similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def found(folder: Path, *columns: list[str], sizes: tuple[int, ...] = (5,), threshold: float = 0.8, **more) -> list:
    """`near_duplicates` of one batch; None where a row stays."""
    batches = more.pop("batches", [[pa.array(column, pa.string()) for column in columns]])
    with connection(folder / "spill") as duck:
        score = near_duplicates(lambda: batches, sizes, threshold, duck, folder / "near", **more)
    assert not (folder / "near").exists()
    return [None if np.isnan(value) else round(float(value), 9) for value in score]


@pytest.mark.parametrize(
    ("columns", "sizes", "counts"),
    [
        ((["Hello, world!", "abcde", "abcd", "", "… !", "aaaaaaaa"],), (5,), [6, 1, 1, 0, 0, 1]),
        ((["大房子在哪里？", "房子", "房", ""],), (3,), [4, 1, 1, 0]),
        ((["บ้านหลังใหญ่", "ใหญ่"],), (3,), [10, 2]),
        ((["بيت كبير جدا"],), (5,), [6]),
        ((["abcdef", "abcdef", "", "x"], ["大房子在", "", "房", ""]), (5, 3), [4, 2, 1, 1]),
        ((["abcdef", "abcde"], ["abcdef", "vwxyz"]), (5, 5), [4, 2]),
    ],
)
def test_shingles_by_hand(columns: tuple, sizes: tuple, counts: list[int]) -> None:
    made = shingles([pa.array(column) for column in columns], sizes)
    rows = [set(made.hashes[a:b].tolist()) for a, b in zip(made.offsets, made.offsets[1:], strict=False)]
    assert [len(row) for row in rows] == counts


@pytest.mark.parametrize("lang", ALPHABETS)
def test_shingles_are_those_of_the_definition(lang: str) -> None:
    rng = random.Random(lang)
    texts = [text(rng, lang, length) for length in (0, 1, 2, 3, 4, 5, 6, 40, 200)]
    texts += [edited(rng, lang, texts[-1], 5), *texts[:6]]
    made = shingles([pa.array(["other", *texts]).slice(1)], [size(lang)])
    rows = [set(made.hashes[a:b].tolist()) for a, b in zip(made.offsets, made.offsets[1:], strict=False)]
    wanted = [reference(item, size(lang)) for item in texts]
    assert [len(row) for row in rows] == [len(row) for row in wanted]
    for i, one in enumerate(wanted):
        assert [len(rows[i] & row) for row in rows] == [len(one & row) for row in wanted]


@pytest.mark.parametrize(
    ("one", "other"), [("The House.", "the house"), ("ΟΔΟΣ", "οδος"), ("可以，吗？", "可以吗"), ("ДОМ 7", "дом7")]
)
def test_case_punctuation_and_spaces_do_not_count(one: str, other: str) -> None:
    made = shingles([pa.array([one, other])], [3])
    first, second = np.split(made.hashes, [made.offsets[1]])
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("lang", ALPHABETS)
def test_planted_near_duplicates_are_found_and_no_others(tmp_path: Path, lang: str) -> None:
    rng = random.Random(lang)
    texts, near_ones, k = [], 0, size(lang)
    sets: list[set[str]] = []
    for _ in range(400):
        old = text(rng, lang, rng.randrange(30, 150))
        texts += [old, edited(rng, lang, old, rng.randrange(1, 6))]
        sets += [reference(item, k) for item in texts[-2:]]
        near_ones += similarity(*sets[-2:]) >= 0.8
    score = found(tmp_path, texts, sizes=(k,))
    true = [similarity(*sets[i - 1 : i + 1]) if i % 2 else 0.0 for i in range(len(texts))]
    right = sum(value is not None and true[i] >= 0.8 for i, value in enumerate(score))
    assert 100 < near_ones < 400
    assert right >= 0.95 * near_ones  # recall
    assert right >= 0.95 * sum(value is not None for value in score)  # precision
    assert all(value is None or value == round(true[i], 9) for i, value in enumerate(score))


def test_a_pair_is_compared_on_both_sides_together(tmp_path: Path) -> None:
    rng = random.Random(1)
    src, tgt = text(rng, "eng_Latn", 90), text(rng, "zho_Hans", 40)
    columns = [src] * 3, [tgt, edited(rng, "zho_Hans", tgt, 1), text(rng, "zho_Hans", 40)]
    one, two, three = (reference(a, 5) | reference(b, 3) for a, b in zip(*columns, strict=True))
    assert similarity(one, three) < 0.8 < similarity(one, two)
    assert found(tmp_path, *columns, sizes=(5, 3)) == [None, round(similarity(one, two), 9), None]


def test_a_pair_with_its_sides_changed_is_another(tmp_path: Path) -> None:
    rng = random.Random(7)
    one, other = text(rng, "eng_Latn", 60), text(rng, "eng_Latn", 60)
    assert found(tmp_path, [one, other, one], [other, one, other], sizes=(5, 5)) == [None, None, 1.0]


def test_no_row_goes_that_is_unlike_all_that_stay(tmp_path: Path) -> None:
    """a ~ b ~ c, but not a ~ c: c has nobody to stand for it once b is gone."""
    base = text(random.Random(2), "eng_Latn", 120).replace(" ", "")
    a, b, c = base[:80], base[6:86], base[12:92]
    near_by, far = similarity(reference(a, 5), reference(b, 5)), similarity(reference(a, 5), reference(c, 5))
    assert far < 0.8 < near_by
    assert found(tmp_path, [a, b, c]) == [None, round(near_by, 9), None]
    assert found(tmp_path, [a, b, c], better=np.array([1, 0, 2])) == [round(near_by, 9), None, round(near_by, 9)]


def test_the_outcome_is_that_of_comparing_all_with_all(tmp_path: Path) -> None:
    rng = random.Random(3)
    heads = [text(rng, "eng_Latn", 60) for _ in range(8)]
    texts = [edited(rng, "eng_Latn", rng.choice(heads), rng.randrange(4)) for _ in range(300)]
    sets = [reference(item, 5) for item in texts]
    better = np.random.default_rng(3).permutation(len(texts))
    kept: list[int] = []
    wanted: list[float | None] = [None] * len(texts)
    for row in np.argsort(better).tolist():
        close = [value for value in (similarity(sets[row], sets[other]) for other in kept) if value >= 0.8]
        if close:
            wanted[row] = round(close[0], 9)
        else:
            kept.append(row)
    assert 30 < len(kept) < 200
    score = found(tmp_path, texts, better=better)
    assert np.mean([a == b for a, b in zip(score, wanted, strict=True)]) > 0.98


def test_many_rows_after_one_template_leave_one(tmp_path: Path) -> None:
    head = text(random.Random(4), "eng_Latn", 150)
    assert found(tmp_path, [f"{head} {number}" for number in range(500)]).count(None) == 1


def test_rows_without_shingles_stay(tmp_path: Path) -> None:
    assert found(tmp_path, ["", "...", "", "!"], ["", "", "…", ""], sizes=(5, 5)) == [None] * 4
    assert found(tmp_path, batches=[]) == []
    assert found(tmp_path, ["a", "b", "a"]) == [None, None, 1.0]


def test_how_the_rows_come_cut_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    heads = [text(rng, "rus_Cyrl", 60) for _ in range(20)]
    texts = pa.array([edited(rng, "rus_Cyrl", rng.choice(heads), rng.randrange(3)) for _ in range(200)])
    whole = found(tmp_path, batches=[[texts]])
    cuts = [0, 1, 1, 130, 131, 200]
    assert found(tmp_path, batches=[[texts[a:b]] for a, b in itertools.pairwise(cuts)]) == whole
    for name, value in {"SLICE_ROWS": 7, "EDGES": 50, "PAIRS": 11}.items():
        monkeypatch.setattr(near, name, value)
    assert found(tmp_path, batches=[[texts]]) == whole
    assert 20 < whole.count(None) < 120


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_reach_the_recall_at_the_threshold(threshold: float) -> None:
    bands, width = banding(threshold)
    assert bands * width <= near.PERMUTATIONS
    assert 1 - (1 - threshold**width) ** bands >= near.RECALL
    assert banding(0.8) == (18, 7)


@pytest.mark.parametrize("lang", ALPHABETS)
def test_held_out_texts_are_found_as_by_comparing_all_with_all(lang: str) -> None:
    rng, k = random.Random(lang), size(lang)
    held = [text(rng, lang, length) for length in range(2, 122)]
    texts = [text(rng, lang, 60) for _ in range(60)]
    texts += [edited(rng, lang, item, rng.randrange(6)) for item in held]
    texts += [f"{text(rng, lang, 30)} {edited(rng, lang, item, rng.randrange(4))} {item[:9]}" for item in held]
    wanted = []
    for one in (reference(item, k) for item in texts):
        best = 0.0
        for other in (reference(item, k) for item in held):
            long = len(other) >= near.CONTAINED[k] - k + 1
            value = len(one & other) / len(other) if long else similarity(one, other)
            best = max(best, value if value >= 0.8 else 0.0)
        wanted.append(best)
    assert HeldOutIndex(pa.array(held), lang, 0.8).scores(pa.array(texts)).tolist() == pytest.approx(wanted)
    assert 60 < sum(value > 0 for value in wanted) < 240


def test_a_search_that_meets_many_texts_is_cut_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    held = pa.array([f"{text(random.Random(6), 'eng_Latn', 40)} {number}" for number in range(200)])
    search = HeldOutIndex(held, "eng_Latn", 0.8)
    whole = search.scores(held)
    monkeypatch.setattr(near, "POSTINGS", 100)
    assert search.scores(held).tolist() == whole.tolist() == [1.0] * 200
    assert search.held(held).tolist() == [1.0] * 200


def test_which_held_out_texts_are_held_and_how_much_is_said_in_their_order() -> None:
    held = ["Good morning, Tom", "...", "The weather has been fine here since Monday last week", "Nobody says this"]
    search = HeldOutIndex(pa.array(held), "eng_Latn", 0.8)
    said = ["He wrote: the weather has been fine here since Monday last week!", "good morning tom", "x"] * 1_100
    assert search.texts.to_pylist() == [held[0], held[2], held[3]]
    assert search.held(pa.array(said)).tolist() == [1.0, 1.0, 0.0]
    assert search.held(pa.array(["x"] * 1_500 + ["Good morning, Toms"])).tolist() == pytest.approx([10 / 11, 0, 0])


def test_a_short_held_out_text_may_be_part_of_another() -> None:
    search = HeldOutIndex(
        pa.array(["Good morning, Tom", "The weather has been fine here since Monday last week"]), "eng_Latn", 0.8
    )
    said = pa.array(
        [
            "Good morning, Tom!",
            "Good morning, Tom, said the postman.",
            "He wrote: the weather has been fine here since Monday last week, but I hear otherwise.",
            "",
        ]
    )
    assert search.scores(said).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_nothing_held_out_forbids_nothing() -> None:
    search = HeldOutIndex(pa.array(["...", ""]), "eng_Latn", 0.8)
    assert len(search) == 0
    assert search.scores(pa.array(["...", "a", ""])).tolist() == [0.0] * 3
