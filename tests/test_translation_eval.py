"""The eval `translation`; tests/test_translation.py is of the task."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipelines import statistics
from pipelines.evals._comet import Comet
from pipelines.evals._surface import bleu, chrf, surface
from pipelines.evals.translation import Direction, Translation
from pipelines.instructions.translate import Translate
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.results.comparison import compared, language_groups
from pipelines.results.summary import subject, table
from pipelines.results.verdict import verdict
from pipelines.schema import bitext_batch
from pipelines.sources import Source
from pipelines.statistics import BootstrappedMetric, paired, without
from pipelines.tasks import Message
from tests.support.bitext_fixtures import Planted
from tests.support.fake_lm import Unasked
from tests.support.fake_metrics import result

DE, FR, ES = Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn"), Pair("eng_Latn", "spa_Latn")
TO_DE, TO_EN = Direction("eng_Latn", "deu_Latn"), Direction("deu_Latn", "eng_Latn")
SPOKEN = {
    "eng_Latn": ["The house of my brother stands near the river.", "We have not seen the children since yesterday.",
                 "She bought seven apples and a loaf of bread.", "Nobody knows why the train is late today."],
    "deu_Latn": ["Das Haus meines Bruders steht nah am Fluss.", "Wir haben die Kinder seit gestern nicht gesehen.",
                 "Sie hat sieben Äpfel und ein Brot gekauft.", "Niemand weiß, warum der Zug heute Verspätung hat."],
    "fra_Latn": ["La maison de mon frère se trouve près de la rivière.", "Nous n'avons pas vu les enfants depuis hier.",
                 "Elle a acheté sept pommes et une miche de pain.", "Personne ne sait où est le train ce matin."],
}  # fmt: skip


class Spoken(Source):
    """The sentences above, parallel in all their languages."""

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        yield bitext_batch(SPOKEN[pair.src], SPOKEN[pair.tgt], *pair, "spoken/v1")

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return {}


@dataclass
class Says(Unasked):
    """Answers each prompt by what `answers` has for the text in it that is found last, and remembers the prompts."""

    answers: dict[str, str]
    before: str = " "
    prompts: list[str] = field(default_factory=list)
    num_layers: int = 2
    trained_layer: int = 1

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        self.prompts += prompts
        out = []
        for prompt in prompts:
            place, said = max((prompt.rfind(text), said) for text, said in self.answers.items())
            assert place >= 0, prompt
            said = f"{said}\nMore." if prompt.endswith("\n") else f"{self.before}{said}\nMore."
            out.append(re.split("|".join(stop), said)[0])
        return out


def translation(source: Source | None = None, **settings: Any) -> Translation:
    settings = {"identifier": {"lid": {"identifiers": ["fasttext"]}}, **settings}
    plugin = build("pipelines.evals", {"translation": {"source": source or Spoken(), **settings}})
    assert isinstance(plugin, Translation)
    return plugin


def held_out(item: Translation, *pairs: Pair) -> pa.Table:
    return pa.Table.from_batches(list(item.texts(list(pairs), Path("unused"))))


def dictionary(*pairs: Pair, change: Any = lambda text: text) -> dict[str, str]:
    """Every sentence of the pairs with its translation; with several pairs the last one's."""
    out = {}
    for pair in pairs:
        for src, tgt in zip(SPOKEN[pair.src], SPOKEN[pair.tgt], strict=True):
            out |= {src: change(tgt), tgt: change(src)}
    return out


def corpus(seed: int, n: int = 40) -> tuple[list[str], list[str]]:
    """Outputs that share some words with their references; some are empty, short or equal."""
    rng = np.random.default_rng(seed)
    words = ["the", "river", "an", "der", "Fluss", "7", "Äpfel", ",", "日本語", "ไทย", "ein."]
    texts = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(2 * n)]
    outputs, references = texts[:n], texts[n:]
    outputs[0], outputs[1], outputs[2] = "", references[1], "x"
    return outputs, references


@pytest.mark.parametrize("lang", ["deu_Latn", "zho_Hans", "tha_Thai", "jpn_Jpan"])
def test_chrf_and_bleu_of_any_items_are_those_of_sacrebleu(lang: str) -> None:
    outputs, references = corpus(3)
    own = surface(lang)
    theirs = {"chrF": CHRF(), "BLEU": BLEU(tokenize={"deu_Latn": "13a", "zho_Hans": "zh"}.get(lang, "char"))}
    counts = {name: used.counts(outputs, references) for name, used in own.items()}
    rng = np.random.default_rng(0)
    for chosen in [np.arange(40), *([i] for i in range(6)), *(rng.integers(40, size=n) for n in (2, 3, 5, 40))]:
        for name, metric in theirs.items():
            right = metric.corpus_score([outputs[i] for i in chosen], [[references[i] for i in chosen]]).score
            found = own[name].formula(counts[name][chosen].sum(axis=0))
            assert found == pytest.approx(right, abs=1e-9), (name, chosen)
            assert own[name].signature == str(metric.get_signature())


@pytest.mark.parametrize("formula", [chrf, bleu])
def test_formulas_take_many_sums_at_once(formula: Any) -> None:
    used = next(used for used in surface("deu_Latn").values() if used.formula is formula)
    counts = used.counts(*corpus(5))
    sums = np.stack([counts[i : i + 7].sum(axis=0) for i in range(30)])
    assert formula(sums) == pytest.approx([float(formula(row)) for row in sums], abs=1e-12)
    assert formula(np.zeros_like(sums[:2])) == pytest.approx([0, 0])


def test_intervals_resample_items_and_not_their_scores() -> None:
    outputs, references = corpus(7)
    used = surface("deu_Latn")["chrF"]
    metric = statistics.pooled(used.counts(outputs, references), used.formula)
    for row in (0, 1, 999):
        chosen = np.repeat(np.arange(40), statistics.weights(40)[row])
        right = CHRF().corpus_score([outputs[i] for i in chosen], [[references[i] for i in chosen]]).score
        assert metric.resamples[row] == pytest.approx(right, abs=1e-9)
    assert [metric["low"], metric["high"]] == pytest.approx(np.quantile(metric.resamples, [0.025, 0.975]))


def test_composed_and_decomposed_letters_are_the_same() -> None:
    for used in surface("deu_Latn").values():
        assert np.array_equal(used.counts(["Äpfel"], ["Äpfel"]), used.counts(["Äpfel"], ["A\u0308pfel"]))


def test_a_right_translation_is_100_and_in_the_language() -> None:
    item = translation()
    texts = held_out(item, DE)
    found = item.run(Says(dictionary(DE)), texts)
    assert {key: metric["value"] for key, metric in found.items()} == pytest.approx(
        {f"translation/{one}/{name}": value for one in (TO_EN, TO_DE)
         for name, value in (("chrF", 100), ("BLEU", 100), ("in_language", 1))}
    )  # fmt: skip
    assert {metric["n"] for metric in found.values()} == {4}
    said = item.signatures(texts)
    assert set(said) == {key for key in found if not key.endswith("in_language")}
    assert re.fullmatch(
        r"nrefs:1\|case:mixed\|eff:yes\|nc:6\|nw:0\|space:no\|version:.+", said[f"translation/{TO_DE}/chrF"]
    )


def test_copying_is_shown_as_such_and_is_in_the_wrong_language() -> None:
    item = translation()
    texts = held_out(item, DE)
    copied = item.run(Says({text: text for both in SPOKEN.values() for text in both}), texts)
    assert item.baselines(texts, None) == {"copy": copied}
    assert 5 < copied[f"translation/{TO_DE}/chrF"]["value"] < 40
    assert copied[f"translation/{TO_DE}/in_language"]["value"] == 0
    found = item.run(Says(dictionary(DE)), texts)
    shown = table(result({"base": copied, "aligned": found, "copy": copied}))
    assert re.search(
        rf"German\s→ English +chrF +\d\d\.\d +– +100\.0 +– +{copied[f'translation/{TO_EN}/chrF']['value']:.1f}\n", shown
    )
    assert re.search(r"German\s→ English +in language +0\.0 % +– +100\.0 %", shown)


def test_nothing_is_in_no_language_and_scores_0() -> None:
    item = translation()
    found = item.run(Says(dictionary(DE, change=lambda _: " ")), held_out(item, DE))
    assert {metric["value"] for metric in found.values()} == {0}


def test_runs_of_one_letter_are_in_no_language() -> None:
    item = translation()
    found = item.run(Says(dictionary(DE, change=lambda _: "t" * 30)), held_out(item, DE))
    assert found[f"translation/{TO_EN}/in_language"]["value"] == 0


def test_an_answer_may_begin_on_a_new_line() -> None:
    item = translation()
    model = Says(dictionary(DE), before="\n")
    assert item.run(model, held_out(item, DE))[f"translation/{TO_DE}/chrF"]["value"] == pytest.approx(100)
    assert model.prompts[8:] == [f"{prompt}\n" for prompt in model.prompts[:8]]


def test_prompts_are_those_of_the_instruction_type(monkeypatch: pytest.MonkeyPatch) -> None:
    item = translation()
    for setting in ("source", "english"):
        model = Says(dictionary(DE))
        translation(prompt=setting).run(model, held_out(item, DE))
        batch = bitext_batch(SPOKEN["deu_Latn"] * 40, SPOKEN["eng_Latn"] * 40, *DE, "x")
        kind = build("pipelines.instructions", {"translate": {"prompt": setting}})
        assert isinstance(kind, Translate)
        rendered = kind.render(batch, np.random.default_rng(0)).to_pylist()
        usual = {row["messages"][0]["content"] for row in rendered if row["template"] == "translate/0"}
        assert set(model.prompts) == usual


def test_a_template_names_languages_and_is_checked() -> None:
    item = translation(prompt="{src_name}: {src}\n{tgt_name}:")
    model = Says(dictionary(DE))
    item.run(model, held_out(item, DE))
    assert f"English: {SPOKEN['eng_Latn'][0]}\nGerman:" in model.prompts
    with pytest.raises(ValueError, match="found 'Translate {text}'. Allowed: source, english, or a"):
        translation(prompt="Translate {text}")
    with pytest.raises(ValueError, match="found '{src'"):
        translation(prompt="{src")


def test_examples_come_before_and_are_never_asked() -> None:
    item = translation(Planted(rows=30), rows=20, shots=3, directions="all")
    texts = held_out(item, DE, FR)
    assert texts.num_rows == 2 * 2 * 23
    for one, items in item.asked(texts).items():
        assert (len(items.src), len(items.examples)) == (20, 3), one
        assert not {src for src, _ in items.examples} & set(items.src)
        for src, tgt in [*items.examples, *zip(items.src, items.tgt, strict=True)]:
            assert (src.split()[0], tgt.split()[0]) == one
            assert src.split()[1:] == tgt.split()[1:]
    model = Says(dict.fromkeys(texts["text"].to_pylist(), "x"))
    item.run(model, texts)
    first = item.asked(texts)[TO_EN]
    blocks = model.prompts[0].split("\n\n")
    assert [block.rsplit(": ", 1)[1] for block in blocks[:-1]] == [tgt for _, tgt in first.examples]
    assert first.src[0] in blocks[-1]
    assert first.tgt[0] not in model.prompts[0]
    few = translation(Planted(rows=4), shots=4)
    with pytest.raises(ValueError, match="deu_Latn>eng_Latn has 4 rows. Needed: more than its 4 examples"):
        few.asked(held_out(few, DE))


def test_directions_are_those_of_pairs_of_all_languages_or_listed() -> None:
    pairs = (DE, FR, ES)
    langs = ("deu_Latn", "eng_Latn", "fra_Latn", "spa_Latn")
    texts = held_out(translation(Planted(rows=9)), *pairs)
    assert set(translation().asked(texts)) == {Direction(*way) for p in pairs for way in (p, p[::-1])}
    assert set(translation(directions="all").asked(texts)) == {Direction(a, b) for a in langs for b in langs if a != b}
    listed = translation(directions=["de-fr", ["en", "es"]])
    assert list(listed.asked(texts)) == [Direction("deu_Latn", "fra_Latn"), Direction("eng_Latn", "spa_Latn")]
    listed.check(list(pairs))
    said = {**listed.settings()["translation"], "source": Spoken()}
    assert build("pipelines.evals", {"translation": said}) == listed, "as it is written out it is read"
    with pytest.raises(
        ValueError, match="found deu_Latn>rus_Cyrl. Allowed: two of deu_Latn, eng_Latn, fra_Latn, spa_Latn"
    ):
        translation(directions=["de-ru"]).check(list(pairs))
    with pytest.raises(ValueError, match="found 'both'. Allowed: pairs, all, or a list such as"):
        translation(directions="both")
    with pytest.raises(ValueError, match="direction 'de-fr-es': allowed are two languages"):
        translation(directions=["de-fr-es"])


def test_languages_that_share_no_sentences_make_no_direction() -> None:
    class Apart(Planted):
        def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
            src, tgt = ([f"{lang} {pair} {i}" for i in range(9)] for lang in pair)
            yield bitext_batch(src, tgt, *pair, "x")

    texts = held_out(translation(Apart()), DE, FR)
    assert len(translation(directions="all").asked(texts)) == 4
    with pytest.raises(ValueError, match="deu_Latn>fra_Latn has 0 rows"):
        translation(directions=["de-fr"]).asked(texts)


def pieces(folder: Path) -> Path:
    lines = folder / "lines.txt"
    lines.write_text("\n".join(text for both in SPOKEN.values() for text in both), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(lines), model_prefix=str(folder / "spm"), vocab_size=80, minloglevel=2
    )  # type: ignore[attr-defined]
    return folder / "spm.model"


def test_spbleu_is_bleu_over_the_pieces_of_the_model(tmp_path: Path) -> None:
    item = translation(spm=str(pieces(tmp_path)))
    texts = held_out(item, DE)
    half = dictionary(DE, change=lambda text: text[: len(text) // 2])
    found = item.run(Says(half), texts)[f"translation/{TO_DE}/spBLEU"]["value"]
    processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    items = item.asked(texts)[TO_DE]
    cut, whole = ([" ".join(processor.encode(text, out_type=str)) for text in side]
                  for side in ([half[text].strip() for text in items.src], items.tgt))  # fmt: skip
    assert found == pytest.approx(BLEU(tokenize="none", force=True).corpus_score(cut, [whole]).score, abs=1e-9)
    assert 0 < found < 100
    assert re.search(r"\|tok:spm-[0-9a-f]{8}\|", item.signatures(texts)[f"translation/{TO_DE}/spBLEU"])
    assert item.files() == [tmp_path / "spm.model"]
    with pytest.raises(ValueError, match=r"eval.translation.spm: no file .*none.model. Allowed: a SentencePiece model"):
        translation(spm=str(tmp_path / "none.model")).check([DE])


FAKE = """
class Loaded:
    def predict(self, items, batch_size, gpus, progress_bar):
        print("noise on standard output")
        assert (batch_size, gpus, progress_bar) == (5, 0, False)
        scores = [len(row["mt"]) / (len(row["src"]) + len(row["ref"])) for row in items]
        return type("Prediction", (), {"scores": scores})

def download_model(name):
    return "from the hub: " + name

def load_from_checkpoint(path):
    if path != "from the hub: some/model":
        raise RuntimeError("no such model: " + path)
    return Loaded()
"""


def test_comet_scores_come_from_the_other_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comet.py").write_text(FAKE)
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    item = translation(comet={"model": "some/model", "python": sys.executable, "batch": 5})
    item.check([DE])
    texts = held_out(item, DE)
    found = item.run(Says(dictionary(DE)), texts)
    for one, items in item.asked(texts).items():
        right = [len(tgt) / (len(src) + len(tgt)) for src, tgt in zip(items.src, items.tgt, strict=True)]
        assert found[f"translation/{one}/COMET"]["value"] == pytest.approx(100 * np.mean(right))
        assert item.signatures(texts)[f"translation/{one}/COMET"] == "some/model"
    with pytest.raises(ValueError, match="COMET failed in .*no such model: from the hub: other. Needed: a model that"):
        translation(comet={"model": "other", "python": sys.executable}).run(Says(dictionary(DE)), texts)
    (tmp_path / "comet.py").write_text(FAKE.replace("for row in items]", "for row in items][1:]"))
    with pytest.raises(ValueError, match="COMET gave 7 scores for 8 items"):
        item.run(Says(dictionary(DE)), texts)


def test_what_comet_lacks_is_told_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"eval.translation.comet.python: no interpreter /none/python. Needed: that of"
    ):
        translation(comet={"model": "m", "python": "/none/python"}).check([DE])
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(ValueError, match="has no package 'comet'. Needed: unbabel-comet. Install it with"):
        translation(comet={"model": "m", "python": str(bare)}).check([DE])
    assert Comet.model_validate({"model": str(bare), "python": "x"}).files() == [bare]


def test_sacrebleu_that_is_not_installed_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"eval.translation: sacrebleu is not installed.*pip install isogloss\[eval\]"):
        translation().check([DE])


def test_models_are_compared_item_by_item_and_the_verdict_says_so() -> None:
    item = translation(directions="all")
    texts = held_out(item, DE, FR)
    good = Says(dictionary(DE) | dict(zip(SPOKEN["fra_Latn"], SPOKEN["eng_Latn"], strict=True)))
    poor = Says({text: said[:12] for text, said in good.answers.items()})
    a, b = item.run(good, texts), item.run(poor, texts)
    key = f"translation/{TO_DE}/chrF"
    one, other = a[key], b[key]
    assert isinstance(one, BootstrappedMetric)
    assert isinstance(other, BootstrappedMetric)
    assert paired(one, other).resamples == pytest.approx(one.resamples - other.resamples)
    count, rest = without(other, {SPOKEN["deu_Latn"][1]})
    assert (count, rest["n"] if rest else 0) == (1, 3)
    kept = [i for i, text in enumerate(item.asked(texts)[TO_DE].tgt) if text != SPOKEN["deu_Latn"][1]]
    items = item.asked(texts)[TO_DE]
    right = CHRF().corpus_score([poor.answers[items.src[i]] for i in kept], [[items.tgt[i] for i in kept]]).score
    assert rest is not None
    assert rest["value"] == pytest.approx(right)

    groups = language_groups(a, {"deu_Latn": 9}, "eng_Latn")
    assert groups == {"seen": ["deu_Latn"], "unseen": ["fra_Latn"]}
    models = {"base": b, "aligned": a}
    metrics = {**models, "groups": groups, "pivot": "eng_Latn", **compared(models, "eng_Latn", groups)}
    mean = metrics["means"]["aligned"]["translation/all/chrF"]
    assert mean["value"] == pytest.approx(np.mean([a[name]["value"] for name in a if name.endswith("chrF")]))
    assert metrics["gaps"]["aligned"] == {}, "a direction has no figure of English alone"
    found = verdict(result({**metrics, "copy": item.baselines(texts, None)["copy"]}), "eng_Latn")
    assert found.headline == "Better at translation chrF"
    lines = [line.replace("\u00a0", " ") for line in [*found.findings, *found.details]]
    assert re.match(r"Translation chrF, mean of 6 directions: \d+\.\d \(\+\d+\.\d points vs base, 95 % CI", lines[0])
    assert any(re.fullmatch(r"Translation chrF without learning: source copied \d+\.\d\.", line) for line in lines)
    assert not any("BLEU" in line for line in lines), "one metric of translation counts"


def test_subjects_of_directions_read_from_left_to_right() -> None:
    assert subject("translation/deu_Latn>eng_Latn/chrF") == "German\u00a0→ English"
    assert subject("retrieval/deu_Latn-eng_Latn/recall@1") == "German\u00a0– English"


def test_samples_are_the_first_items_as_they_were_answered() -> None:
    item = translation(shots=1)
    texts = held_out(item, DE)
    model = Says(dictionary(DE))
    item.run(model, texts)
    found = item.samples(model, texts)
    assert [sample.key for sample in found] == [f"translation/{TO_EN}"] * 3 + [f"translation/{TO_DE}"] * 3
    for sample in found:
        assert model.answers[sample.prompt.split("\n")[0]] == sample.reference == sample.output
        assert "\n\n" not in sample.prompt
    assert set(model.prompts[6:]) <= set(model.prompts[:6]), "what is shown was scored: it is not asked anew"


def test_a_source_is_needed_and_shown_with_its_defaults() -> None:
    with pytest.raises(ValueError, match="missing"):
        build("pipelines.evals", "translation")
    settings = translation().settings()["translation"]
    assert settings["identifier"]["lid"]["identifiers"] == ["fasttext"]
    assert (settings["rows"], settings["shots"], settings["directions"]) == (200, 0, "pairs")


@dataclass
class Replies(Unasked):
    """Answers a conversation by what `answers` has for the text in its last turn, a blank line before it."""

    answers: dict[str, str]
    talks: list[list[Message]] = field(default_factory=list)

    def reply(self, talks: Sequence[list[Message]], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        self.talks += talks
        last = [talk[-1]["content"] for talk in talks]
        return [next(f"\n\n {said} \nMore." for src, said in self.answers.items() if src in text) for text in last]


def test_a_chat_model_is_asked_in_turns_and_its_first_line_with_text_counts() -> None:
    item = translation(chat=True, shots=1, directions=["de-en"], prompt="{src}")
    lm = Replies(dictionary(DE))
    texts = held_out(item, DE)
    assert item.run(lm, texts)["translation/deu_Latn>eng_Latn/chrF"]["value"] == pytest.approx(100)
    [asked] = item.asked(texts).values()
    [(src, tgt)] = asked.examples
    assert lm.talks == [
        [{"role": "user", "content": src}, {"role": "assistant", "content": tgt}, {"role": "user", "content": text}]
        for text in asked.src
    ]
    assert [sample.output for sample in item.samples(lm, texts)] == asked.tgt[:3]
