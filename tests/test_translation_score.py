import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import sample_grammar
from pipelines.filters import translation_score
from pipelines.filters._words import words
from pipelines.filters.translation_score import Dictionary, Learned, TranslationScore, learn, sample
from pipelines.languages import Pair
from pipelines.schema import bitext_batch
from pipelines.sources.sample import Noise, Sample

PAIRS = [Pair.parse(pair) for pair in ("en-de", "en-fr", "en-es", "en-ru", "en-zh", "en-sw", "en-hi")]
NOISE = Noise(untranslated=0.05, wrong_language=0.05, misaligned=0.05, duplicate=0.05, markup=0.05)
MISALIGNED = 0.9
"""Recall at the default bound. The rest of them share most of their words with the true target, as grammar's do."""


def numbers(text: str) -> tuple[list[int], list[int]]:
    found = words(pa.array([text]))
    return found.words.tolist(), found.stems.tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Das Haus, rot.", 5),
        ("большой дом", 2),
        ("بيت كبير", 2),
        ("हिन्दी भाषा", 2),  # a word with its vowel signs is one
        ("我今天去", 4),
        ("私はペンを2本", 7),
        ("ไปโรงเรียน", 10),  # every two characters, and the last alone
        ("1984 年", 2),
    ],
)
def test_words_are_runs_of_letters_or_in_scripts_without_spaces_characters(text: str, count: int) -> None:
    assert len(numbers(text)[0]) == count


@pytest.mark.parametrize(
    ("one", "other"),
    [("HAUS rot", "haus ROT"), ("ДОМ", "дом"), ("١٩٨٤", "1984"), ("१२", "12"), ("２０", "20")],
)
def test_case_and_kind_of_digit_do_not_count(one: str, other: str) -> None:
    assert numbers(one) == numbers(other)


def test_words_do_not_reach_from_one_text_into_the_next() -> None:
    texts = ["ไป", "กิน", "", "Haus", "hausarbeit", "家"]
    found = words(pa.array(texts))
    each = [numbers(text)[0] for text in texts]
    assert found.words.tolist() == [number for one in each for number in one]
    assert found.starts.tolist() == np.cumsum([0, *map(len, each)]).tolist()


def test_a_long_word_has_a_stem_that_others_share() -> None:
    (_, [stem]), (_, [same]), (_, [other]), (_, [none]) = map(numbers, ("Häuser", "häusern", "hausen", "Häuse"))
    assert stem == same != other
    assert none == -1


def auc(true: np.ndarray, false: np.ndarray) -> float:
    """How often a true pair scores above a false one."""
    false = np.sort(false)
    return float(np.mean(np.searchsorted(false, true, "left") + np.searchsorted(false, true, "right")) / 2 / len(false))


@cache
def scored(pair: Pair, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of the sample's noisy rows, learned from themselves."""
    made = list(Sample(rows=20_000, noise=NOISE).labelled(pair))
    item = TranslationScore()
    item.fit((batch for batch, _ in made), folder)
    loaded = item.reopen(folder)
    scores = np.concatenate([item.score(batch, loaded).to_numpy() for batch, _ in made])
    return scores, np.array([label for _, labels in made for label in labels])


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_misaligned_rows_score_below_translations(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    scores, labels = scored(pair, tmp_path_factory.mktemp("fit"))
    true, false = scores[labels == "clean"], scores[labels == "misaligned"]
    assert len(false) >= 200
    assert auc(true, false) >= 0.98
    bound = TranslationScore().min
    assert bound is not None
    assert np.mean(false < bound) >= MISALIGNED
    assert np.mean(true < bound) <= 0.01
    assert np.median(scores[labels == "untranslated"]) < bound, "copies taught nothing"
    assert np.median(true) > 1


LESSON = [  # language, words that stand for one, two, three ... in it
    ("deu_Latn", ["Haus", "Hund", "Katze", "Baum", "Wasser", "Himmel", "Straße", "Garten"]),
    ("arb_Arab", ["بيت", "كلب", "قطة", "شجرة", "ماء", "سماء", "شارع", "حديقة"]),
    ("tha_Thai", ["บ้าน", "หมา", "แมว", "ต้นไม้", "น้ำ", "ท้องฟ้า", "ถนน", "สวน"]),
    ("zho_Hans", ["房", "狗", "猫", "树", "水", "天", "路", "园"]),
    ("jpn_Jpan", ["いえ", "犬", "ねこ", "木", "みず", "空", "みち", "にわ"]),
]
ENGLISH = ["house", "dog", "cat", "tree", "water", "sky", "street", "garden"]


def taught(lang: str, foreign: list[str], monkeypatch: pytest.MonkeyPatch, rows: int = 2_500) -> Dictionary:
    monkeypatch.setattr(translation_score, "FREQUENT", 0.9)  # eight words only
    space = "" if lang in ("tha_Thai", "zho_Hans", "jpn_Jpan") else " "
    rng = np.random.default_rng(3)
    drawn = [rng.choice(8, size=3, replace=False) for _ in range(rows)]
    src = [" ".join(ENGLISH[at] for at in row) for row in drawn]
    tgt = [space.join(foreign[at] for at in rng.permutation(row)) for row in drawn]
    return Dictionary(learn(pa.array(src), pa.array(tgt)))


@pytest.mark.parametrize(("lang", "foreign"), LESSON, ids=[lang for lang, _ in LESSON])
def test_scores_follow_the_words_that_have_counterparts(
    lang: str, foreign: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "" if lang in ("tha_Thai", "zho_Hans", "jpn_Jpan") else " "
    loaded = taught(lang, foreign, monkeypatch)
    targets = [(0, 1, 2), (0, 1, 5), (0, 4, 5), (3, 4, 5)]
    tgt = [space.join(foreign[at] for at in row) for row in targets]
    scores = loaded.score(pa.array(["house dog cat"] * 4), pa.array(tgt))
    assert list(scores) == sorted(scores, reverse=True)
    assert scores[0] > 0.4
    assert scores[3] < -0.5
    assert len(set(scores)) == 4


def test_texts_of_which_nothing_is_known_score_zero_and_the_same_number_on_both_sides_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = taught(*LESSON[0], monkeypatch)
    src = pa.array(["", "", "?", "Zanzibar", "Zanzibar 1987", "Zanzibar 1987"])
    tgt = pa.array(["", "xyzzy", "", "Unbekannt", "Unbekannt 1987", "Unbekannt 1988"])
    assert loaded.score(src, tgt).tolist() == [0, 0, 0, 0, pytest.approx(1 / 5), 0]


def test_few_rows_teach_nothing_and_all_stay(tmp_path: Path) -> None:
    [(batch, _)] = Sample(rows=999).labelled(PAIRS[0])
    item = TranslationScore()
    assert item.fit(iter([batch]), tmp_path) == [
        "translation_score: fewer than 1,000 rows to learn from, so every row of this pair scores 0."
    ]
    scores = item.score(batch, item.reopen(tmp_path))
    assert scores.to_pylist() == [0.0] * 999
    assert item.keep(scores).to_pylist() == [True] * 999
    item.fit(iter([]), tmp_path)
    assert item.score(batch, item.reopen(tmp_path)).to_pylist() == [0.0] * 999


def test_an_empty_batch_and_endless_segments_have_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = taught(*LESSON[0], monkeypatch)
    assert len(loaded.score(pa.array([], pa.string()), pa.array([], pa.string()))) == 0
    monkeypatch.setattr(translation_score, "LONGEST", 2)
    monkeypatch.setattr(translation_score, "BLOCK", 4)
    src, tgt = " ".join(ENGLISH * 500), " ".join(LESSON[0][1] * 500)
    ten, alone = (loaded.score(pa.array([src] * rows), pa.array([tgt] * rows)) for rows in (10, 1))
    assert ten.tolist() == pytest.approx([alone[0]] * 10)
    assert np.isfinite(ten).all()


def test_the_same_rows_give_the_same_bytes_however_they_are_cut_and_the_handle_travels(tmp_path: Path) -> None:
    batches = list(Sample(rows=9_000, noise=NOISE).fetch(PAIRS[0], tmp_path))
    table = pa.Table.from_batches(batches)
    item, files = TranslationScore(), []
    for name, cut in (("a", 100), ("b", 4_096), ("c", 9_000)):
        (tmp_path / name).mkdir()
        item.fit(iter(table.to_batches(max_chunksize=cut)), tmp_path / name)
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert files[0] == files[1] == files[2]
    assert set(files[0]) == {f"{name}.npy" for name in Learned._fields}
    assert sum(map(len, files[0].values())) < 100_000_000
    loaded = item.reopen(tmp_path / "a")
    one = [item.score(batch, loaded).to_pylist() for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda batch: item.score(batch, loaded).to_pylist(), batches)) == one
    other = pickle.loads(pickle.dumps(loaded))
    assert [item.score(batch, other).to_pylist() for batch in batches] == one


def corpora(sizes: dict[str, int], cut: int) -> Iterator[pa.RecordBatch]:
    for corpus, size in sizes.items():
        texts = [f"{corpus} {at}" for at in range(size)]
        for at in range(0, size, cut):
            yield bitext_batch(texts[at : at + cut], texts[at : at + cut], "eng_Latn", "deu_Latn", corpus)


@pytest.mark.parametrize("cut", [7, 1_000])
def test_what_is_learned_from_is_spread_over_the_corpora(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(translation_score, "ROWS", 100)
    src, tgt = sample(corpora({"big/v1": 1_000, "small/v1": 20, "other/v1": 500}, cut))
    assert src.equals(tgt)
    drawn = src.to_pylist()
    counted = [sum(text.startswith(corpus) for text in drawn) for corpus in ("big", "small", "other")]
    assert counted == [40, 20, 40]
    ordinals = [int(text.split()[1]) for text in drawn if text.startswith("big")]
    assert max(ordinals) > 800, "not the head of the corpus"
    assert src.equals(sample(corpora({"big/v1": 1_000, "small/v1": 20, "other/v1": 500}, 33))[0])


def test_it_says_what_it_is() -> None:
    assert TranslationScore.fits
    assert TranslationScore.judges_quality
    with pytest.raises(ValueError, match="translation_score: nothing is learned yet. Allowed: what `fit` stored"):
        TranslationScore().score(bitext_batch(["a"], ["b"], "deu_Latn", "eng_Latn", "t/v1"))


def test_every_language_of_the_sample_is_tried() -> None:
    assert {code for pair in PAIRS for code in pair} == set(sample_grammar.LANGUAGES)
