import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from alignment_train.evaluation.lm import LM
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.evals import harness
from pipelines.evals.harness import Harness
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.statistics import BootstrappedMetric, without
from tests.support.bitext_fixtures import Planted
from tests.support.fake_lm import Unasked
from tests.support.models import tiny

HOME = Path("unused")
PAIRS = [Pair.parse(pair) for pair in ("de-en", "en-zh", "en-th", "de-it")]
XCOPA = {
    "it": [
        ("La donna aprì la porta.", "Entrò il gatto.", "Cadde la neve.", "effect", 0),
        ("Il ragazzo rise.", "Suo fratello cadde.", "Suo fratello raccontò una storia.", "cause", 1),
        ("La candela si spense.", "Soffiò il vento.", "Piovve ieri.", "cause", 0),
        ("Il treno era in ritardo.", "Comprò un libro.", "Arrivò tardi al lavoro.", "effect", 1),
    ],
    "th": [
        ("ผู้หญิงเปิดประตู", "แมวเข้ามา", "หิมะตก", "effect", 0),
        ("เด็กชายหัวเราะ", "พี่ชายล้ม", "พี่ชายเล่าเรื่อง", "cause", 1),
        ("เทียนดับ", "ลมพัด", "เมื่อวานฝนตก", "cause", 0),
        ("รถไฟมาช้า", "เขาซื้อหนังสือ", "เขาไปทำงานสาย", "effect", 1),
    ],
    "zh": [
        ("女人打开了门。", "猫进来了。", "下雪了。", "effect", 0),
        ("男孩笑了。", "他哥哥摔倒了。", "他哥哥讲了一个故事。", "cause", 1),
        ("蜡烛灭了。", "风吹来了。", "昨天下雨了。", "cause", 0),
        ("火车晚点了。", "他买了一本书。", "他上班迟到了。", "effect", 1),
    ],
}
BELEBELE = {
    "deu_Latn": [
        ("Das Boot fährt um acht.", "Wann fährt das Boot?", "um acht", "um neun", "nie", "um zehn", "1"),
        ("Anna wohnt in Rom. Bert wohnt in Paris.", "Wer wohnt in Paris?", "Anna", "Bert", "beide", "keiner", "2"),
        ("Der Hund schläft. Die Katze frisst.", "Wer frisst?", "der Hund", "niemand", "die Katze", "beide", "3"),
    ],
    "zho_Hans": [
        ("船八点开。饭九点吃。", "船几点开？", "八点", "九点", "不开", "十点", "1"),
        ("安娜住在罗马。伯特住在巴黎。", "谁住在巴黎？", "安娜", "伯特", "两人", "没有人", "2"),
        ("狗在睡觉。猫在吃东西。", "谁在吃东西？", "狗", "没有", "猫", "都在吃", "3"),
    ],
}  # fmt: skip
COLUMNS = {
    "xcopa": ("premise", "choice1", "choice2", "question", "label"),
    "belebele": ("flores_passage", "question", "mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4",
                 "correct_answer_num"),
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Items of our own in the forms in which the benchmarks are published."""
    for task, languages in (("xcopa", XCOPA), ("belebele", BELEBELE)):
        for code, items in languages.items():
            rows = [dict(zip(COLUMNS[task], item, strict=True)) for item in items]
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (tmp_path / f"{task}_{code}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "xnli_de.tsv").write_text(
        'Es "regnet" heute.\tEs ist nass.\tentailment\nEs regnet.\tEs ist trocken.\tcontradiction\nEr rennt.\tEr ist '
        "müde.\tneutral\n",
        encoding="utf-8",
    )
    (tmp_path / "paws_de.tsv").write_text(
        "id\tsentence1\tsentence2\tlabel\n1\tAnna sah Bert .\tBert sah Anna .\t0\n2\tEs regnet heute .\tHeute regnet "
        "es .\t1\n",
        encoding="utf-8",
    )
    (tmp_path / "mgsm_de.tsv").write_text("Zwei und drei?\t5\nTausend und zwei?\t1,002\n", encoding="utf-8")
    words = ["Anna", "sah", "``", "Eva", "''", ",", "weil", "sie", "kam", "."]
    fields = [
        "en", "own", "?", 'Anna sah "Eva", weil sie kam.', json.dumps(words), json.dumps(["sie", [7, 8], ["sie"]]),
        json.dumps([["Anna", [0, 1], ["Anna"], False], ["Eva", [3, 4], ["Eva"], True]]),
    ]  # fmt: skip
    (tmp_path / "xwinograd_en.tsv").write_text("\t".join(fields) + "\n", encoding="utf-8")
    return tmp_path


def made(**settings: Any) -> Harness:
    plugin = build("pipelines.evals", {"harness": settings})
    assert isinstance(plugin, Harness)
    return plugin


def held_out(item: Harness) -> pa.Table:
    return pa.Table.from_batches(list(item.texts(PAIRS, HOME)))


def two(data: Path, **settings: Any) -> Harness:
    files = {"xcopa": f"{data}/xcopa_{{lang}}.jsonl", "belebele": f"{data}/belebele_{{lang}}.jsonl"}
    return made(tasks=["xcopa", "belebele"], data=files, **settings)


class Knowing(Unasked):
    """Finds likely what it was told, and answers every prompt with one text."""

    num_layers, trained_layer = 2, 1

    def __init__(self, right: Sequence[str] = (), answer: str = ""):
        self.right, self.answer = right, answer
        self.prompts: list[tuple[str, tuple[str, ...], int]] = []

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        known = [any(text in context + continuation for text in self.right) for context, continuation in requests]
        return np.where(known, -1.0, -2.0), np.array(known)

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        self.prompts += [(prompt, tuple(stop), max_new_tokens) for prompt in prompts]
        return [self.answer] * len(prompts)


@pytest.mark.parametrize("shots", [0, 2])
def test_accuracies_and_log_likelihoods_are_those_of_the_harness_own_model(data: Path, shots: int, monkeypatch):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(logging.getLogger("lm_eval"), "level", logging.ERROR)
    model = tiny("qwen2", initializer_range=0.5)
    item = two(data, shots=shots)
    ours: dict[tuple[str, str], float] = {}

    class Remembering(LM):
        def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
            found = super().loglikelihood(requests)
            ours.update(zip(requests, found[0].tolist(), strict=True))
            return found

    metrics = item.run(Remembering(model, 1, 64, torch.device("cpu")), held_out(item))
    theirs, known = HFLM(pretrained=model.lm, tokenizer=model.tokenizer, batch_size=4, backend="causal"), 0  # type: ignore[arg-type]
    for task, lang, folder in (
        ("xcopa_it", "ita_Latn", "xcopa/default_it"), ("xcopa_th", "tha_Thai", "xcopa/default_th"),
        ("xcopa_zh", "zho_Hans", "xcopa/default_zh"), ("belebele_deu_Latn", "deu_Latn", "belebele/belebele_deu_Latn"),
    ):  # fmt: skip
        family = task.partition("_")[0]
        # As lm-eval's own documentation says to read local files: its JSON builder, the task's YAML included.
        said = {
            "include": str(harness.root() / f"{folder}.yaml"), "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(data / f"{task}.jsonl")}, "cache_dir": str(data / "cache")},
            "validation_split": None, "fewshot_split": "test",
        }  # fmt: skip
        (data / "task.yaml").write_text(yaml.safe_dump(said))
        loaded = TaskManager(include_defaults=False).load(str(data / "task.yaml"))
        loaded["tasks"][task].set_config("num_fewshot", shots)
        loaded["tasks"][task].set_fewshot_seed(1234)
        own: Any = evaluate(theirs, loaded, bootstrap_iters=0)
        name = "acc_2shot" if shots else "acc"
        assert metrics[f"{family}/{lang}/{name}"]["value"] == own["results"][task]["acc,none"], task
        for sample in own["samples"][task]:
            for request, ((nats, _),) in zip(sample["arguments"], sample["resps"], strict=True):
                assert ours[request] == pytest.approx(nats, abs=1e-4)
                known += 1
    assert known == 3 * 4 * 2 + 3 * 4


def test_figures_count_the_items_whose_right_choice_is_the_likeliest(data: Path):
    item = two(data)
    right = ["entrò il gatto", "soffiò il vento", "猫进来了", "讲了一个故事", "风吹来了", "上班迟到了"]
    texts = held_out(item)
    found = item.run(Knowing(right), texts)
    assert found["xcopa/ita_Latn/acc"]["value"] == 0.5
    assert found["xcopa/zho_Hans/acc"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4}
    metric = found["xcopa/ita_Latn/acc"]
    assert isinstance(metric, BootstrappedMetric)
    count, rest = without(metric, {"Entrò il gatto."})
    assert rest is not None
    assert (count, rest["n"], rest["value"]) == (1, 3, pytest.approx(1 / 3)), "each item knows its texts"
    own, each = item.scored(Knowing(right), texts)["xcopa/ita_Latn/acc"]
    assert (own, each.tolist()) == (0.5, [1.0, 0.0, 1.0, 0.0])
    assert set(item.chance(texts)) == set(found)
    chance = item.chance(texts)
    assert (chance["xcopa/tha_Thai/acc"], chance["belebele/deu_Latn/acc_norm"]) == (1 / 2, 1 / 4)
    constant = item.baselines(texts, None)["constant"]
    assert set(constant) == set(found)
    assert constant["xcopa/ita_Latn/acc"] == {"value": 0.5, "n": 4}
    assert constant["belebele/deu_Latn/acc"] == {"value": 1 / 3, "n": 3}, "of 3 items, one each"


def test_texts_are_what_the_items_show_and_nothing_of_their_bookkeeping(data: Path):
    rows = held_out(two(data)).to_pylist()
    first = [row["text"] for row in rows if (row["pair"], row["item"]) == ("xcopa_th", "0")]
    assert first == ["ผู้หญิงเปิดประตู", "แมวเข้ามา", "หิมะตก"]  # not "effect"
    question = [row["text"] for row in rows if (row["pair"], row["item"]) == ("belebele_zho_Hans", "1")]
    assert question == ["安娜住在罗马。伯特住在巴黎。", "谁住在巴黎？", "安娜", "伯特", "两人", "没有人"]
    assert {(row["lang"], row["pair"]) for row in rows} == {
        ("ita_Latn", "xcopa_it"), ("tha_Thai", "xcopa_th"), ("zho_Hans", "xcopa_zh"),
        ("deu_Latn", "belebele_deu_Latn"), ("zho_Hans", "belebele_zho_Hans"),
    }  # fmt: skip
    assert {row["eval"] for row in rows} == {"harness"}


def test_files_are_read_as_their_authors_publish_them(data: Path):
    names = {"xnli": "xnli", "pawsx": "paws", "mgsm": "mgsm", "xwinograd": "xwinograd"}
    files = {task: f"{data}/{name}_{{lang}}.tsv" for task, name in names.items()}
    item = made(tasks=list(files), data=files)
    texts = held_out(item)
    assert 'Es "regnet" heute.' in texts["text"].to_pylist()
    assert 'Anna sah "Eva", weil Eva kam.' in texts["text"].to_pylist()
    model = Knowing(["Ja, Es ist nass", "Nein, Es ist trocken", "richtig? Nein, bert", "weil Eva"], "Es sind 1,002.")
    found = {key: metric["value"] for key, metric in item.run(model, texts).items()}
    assert found == {
        "xnli/deu_Latn/acc": 2 / 3, "pawsx/deu_Latn/acc": 0.5, "xwinograd/eng_Latn/acc": 1.0,
        "mgsm/deu_Latn/exact_match_remove_whitespace": 0.0, "mgsm/deu_Latn/exact_match_flexible-extract": 0.5,
    }  # fmt: skip
    assert model.prompts[0] == ("Frage: Zwei und drei?\nAntwort:", ("Frage:", "</s>", "<|im_end|>"), 256)
    assert set(item.chance(texts)) == {"xnli/deu_Latn/acc", "pawsx/deu_Latn/acc", "xwinograd/eng_Latn/acc"}
    assert item.chance(texts)["xnli/deu_Latn/acc"] == pytest.approx(1 / 3)
    constant = {key: figure["value"] for key, figure in item.baselines(texts, None)["constant"].items()}
    assert constant == {
        "xnli/deu_Latn/acc": pytest.approx(1 / 3),
        "pawsx/deu_Latn/acc": 0.5,
        "xwinograd/eng_Latn/acc": 1.0,
    }  # of a single item


def test_limit_takes_the_first_items(data: Path):
    item = two(data, limit=2)
    texts = held_out(item)
    assert set(texts["item"].to_pylist()) == {"0", "1"}
    assert {metric["n"] for metric in item.run(Knowing(), texts).values()} == {2}


def test_languages_that_a_task_lacks_are_told_and_none_at_all_is_an_error(data: Path):
    assert two(data).notes(PAIRS) == [
        "harness: xcopa is not asked in 2 of 5 languages: German (deu_Latn), English (eng_Latn).",
        "harness: belebele is not asked in 3 of 5 languages: English (eng_Latn), Italian (ita_Latn), Thai (tha_Thai).",
    ]
    recipe = {"name": "x", "corpus": {"pairs": ["de-it"], "sources": [Planted()]}, "eval": [two(data)]}
    assert Recipe.model_validate(recipe).notes() == [note for note in two(data).notes([Pair.parse("de-it")]) if note]
    with pytest.raises(
        ValueError, match="xcopa has none of deu_Latn, eng_Latn. Allowed: a task in at least one .* it has"
    ):
        made(tasks=["xcopa"]).check([Pair.parse("de-en")])
    nowhere = made(tasks=["xcopa"], data={"xcopa": f"{data}/none_{{lang}}.jsonl"})
    with pytest.raises(ValueError, match=r"xcopa with its files .*none_\{lang\}.jsonl has none of"):
        nowhere.check(PAIRS)


def test_tasks_are_found_by_name(monkeypatch):
    plan = made(tasks=["xwinograd", "pawsx", "hellaswag", "arc_de"]).plan(["deu_Latn", "jpn_Jpan"])[0]
    assert [(one.family, one.task, one.lang) for one in plan] == [
        ("xwinograd", "xwinograd_jp", "jpn_Jpan"), ("pawsx", "paws_de", "deu_Latn"), ("pawsx", "paws_ja", "jpn_Jpan"),
        ("hellaswag", "hellaswag", "eng_Latn"), ("arc_de", "arc_de", "deu_Latn"),
    ]  # fmt: skip
    several = made(tasks=["arc_{lang}"]).plan(["deu_Latn", "swh_Latn", "fra_Latn"])
    assert [(one.family, one.task) for one in several[0]] == [("arc", "arc_de"), ("arc", "arc_fr")]
    assert "Swahili" in several[1][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["xcopa", "xcopa"]}, "found a task or number of shots twice. Allowed: each once."),
        ({"tasks": ["xnli"], "data": {"xnly": "a.tsv"}}, r"eval.harness.data: found xnly. Allowed: .* \(xnli\)."),
        ({"tasks": ["pile_10k"]}, "pile_10k cannot be asked: its texts are scored as a whole; .* Remove it."),
        ({"tasks": ["ifeval"], "shots": 2}, "shots: found 2, but ifeval is made to have none. Allowed: 0."),
    ],
)
def test_what_cannot_be_asked_is_refused_before_work_starts(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        made(**settings).check(PAIRS)


def test_an_unknown_task_is_refused(monkeypatch):
    monkeypatch.setattr(harness, "_named", lambda folder, like: {"arc_easy": Path("arc_easy.yaml")})
    for task in ("arc_eazy", "mmlu"):
        with pytest.raises(ValueError, match=f"has no task '{task}'. Allowed: xnli, .* no group. Look it up"):
            made(tasks=[task]).check(PAIRS)
    with pytest.raises(ValueError, match=r"has no task 'story_\{lang\}' in any language. Allowed: xnli"):
        made(tasks=["story_{lang}"]).check(PAIRS)


def test_without_lm_eval_a_recipe_that_names_it_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lm_eval is not installed. .* pip install 'isogloss\[eval\]', or remove"):
        made(tasks=["xcopa"]).check(PAIRS)


def test_data_that_changed_since_the_texts_were_kept_are_refused(data: Path):
    item = two(data)
    texts, pinned = held_out(item), item.pin(PAIRS, HOME)
    file = data / "xcopa_zh.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("风吹来了", "有人吹灭了它"), encoding="utf-8")
    os.utime(file, (1, 1))
    assert item.pin(PAIRS, HOME) != pinned
    other = [{**row, "text": "else"} if row["pair"] == "xcopa_zh" else row for row in texts.to_pylist()]
    with pytest.raises(
        ValueError, match="xcopa_zh: its data changed since eval_text was made. .* corpus stages again."
    ):
        item.run(Knowing(), pa.Table.from_pylist(other, texts.schema))


def test_files_that_do_not_fit_and_too_few_examples_are_refused(data: Path):
    with pytest.raises(ValueError, match="shots: found 4, but xcopa_it has 4 examples to draw from. Allowed: fewer"):
        held_out(two(data, shots=[0, 4]))
    (data / "bad_de.tsv").write_text("Es regnet.\tEs ist nass.\tyes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="bad_de.tsv, item 1: found .* no item of xnli .*. Allowed: the form"):
        held_out(made(tasks=["xnli"], data={"xnli": f"{data}/bad_{{lang}}.tsv"}))
    (data / "none_de.jsonl").write_text("")
    with pytest.raises(ValueError, match="none_de.jsonl is empty. Allowed: at least one item."):
        held_out(made(tasks=["xnli"], data={"xnli": f"{data}/none_{{lang}}.jsonl"}))
    (data / "x_de.xml").write_text("<x/>")
    with pytest.raises(
        ValueError, match="x_de.xml cannot be read: found a file of kind 'xml'. Allowed: tsv, csv, jsonl,"
    ):
        held_out(made(tasks=["xnli"], data={"xnli": f"{data}/x_{{lang}}.xml"}))


def test_a_model_that_diverged_is_refused(data: Path):
    class Broken(Knowing):
        def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(requests), np.nan), np.zeros(len(requests), bool)

    item = two(data)
    with pytest.raises(ValueError, match="a log-likelihood is NaN or infinite. Needed: finite."):
        item.run(Broken(), held_out(item))


def test_a_model_whose_window_is_no_longer_than_an_answer_is_refused_by_the_name_of_the_task(data: Path):
    class Short(Knowing):
        def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
            raise UserError(f"found {max_new_tokens}. Allowed: fewer.")

    item = made(tasks=["mgsm"], data={"mgsm": f"{data}/mgsm_{{lang}}.tsv"})
    with pytest.raises(ValueError, match=r"harness\.tasks: mgsm_direct_de cannot be asked of this model: found 256"):
        item.run(Short(), held_out(item))


def test_content_and_settings_are_pinned_and_licences_stated(data: Path):
    item = two(data)
    assert made(tasks=["xcopa"], shots=3).settings()["harness"]["shots"] == [3]
    assert {name: facts["licence"] for name, facts in item.provenance(PAIRS, HOME).items()} == {
        "xcopa/1.0": "CC-BY-4.0", "belebele/0.0": "CC-BY-SA-4.0",
    }  # fmt: skip
    assert item.pin(PAIRS, HOME)[0][:2] == ["xcopa_it", "ita_Latn"]
