import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from alignment_train.models.seed import train_tokenizer
from alignment_train.objectives.kl_self_teaching import KlSelfTeaching, halves
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import Optimiser
from alignment_train.training.data import segments
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.progress_log import Reporter
from pipelines.progress import no_progress
from pipelines.registry import build
from pipelines.schema import BITEXT
from tests.support.models import SHAPES, bitext, tiny
from tests.support.trained import UNGUARDED

ROWS = [
    {"src": src, "tgt": tgt, "src_lang": src_lang, "tgt_lang": tgt_lang}
    for src, tgt, src_lang, tgt_lang in (
        ("vier null sieben drei", "four zero seven three", "deu_Latn", "eng_Latn"),
        ("one two three five six", "eins zwei drei fünf sechs", "eng_Latn", "deu_Latn"),
        ("acht neun", "eight nine", "deu_Latn", "eng_Latn"),
    )
]
SPLIT = [  # the teacher's prompt, the student's, the answer
    ("four zero", "vier null", "seven three"),
    ("one two", "eins zwei", "three five six"),
    ("eight", "acht", "nine"),
]
USELESS = [
    {"src": "neun", "tgt": "nueve diez", "src_lang": "deu_Latn", "tgt_lang": "spa_Latn"},
    {"src": "six two", "tgt": "six", "src_lang": "eng_Latn", "tgt_lang": "eng_Latn"},
    {"src": "sechs zwei", "tgt": "six", "src_lang": "deu_Latn", "tgt_lang": "eng_Latn"},
    {"src": "sechs", "tgt": "six two", "src_lang": "deu_Latn", "tgt_lang": "eng_Latn"},
    {"src": "", "tgt": "six two", "src_lang": "deu_Latn", "tgt_lang": "eng_Latn"},
]


def teaching(**settings) -> KlSelfTeaching:
    return KlSelfTeaching.model_validate(settings)


def sharp(kind: str = "llama", **more):
    """A model whose distributions are not nearly even, so that context and temperature matter."""
    model = tiny(kind, **more)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.lm.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


def distributions(model, prompt: str, answer: list[int], temperature: float) -> list[list[float]]:
    """What a plain forward pass over prompt and answer says at each place of the answer."""
    ids = [*model.tokenizer(prompt)["input_ids"], *answer]
    with torch.no_grad():
        logits = model.lm(input_ids=torch.tensor([ids])).logits[0].double() / temperature
    return logits.softmax(-1)[len(ids) - len(answer) - 1 : -1].tolist()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "xglm"])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (2.0, 0.7), (0.5, 1.0)])
def test_the_loss_is_that_of_the_formula_row_by_row(kind: str, temperature: float, alpha: float):
    objective, model = teaching(temperature=temperature, alpha=alpha), sharp(kind)
    loss, metrics = objective.loss(model, objective.collate(ROWS + USELESS, model, 32))
    divergences, golds = [], []
    for own, other, text in SPLIT:
        answer = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
        taught, learnt = (distributions(model, prompt, answer, temperature) for prompt in (own, other))
        for p, q in zip(taught, learnt, strict=True):
            divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
        golds += [-math.log(q[i]) for q, i in zip(distributions(model, other, answer, 1), answer, strict=True)]
    divergence, gold = sum(divergences) / len(divergences), sum(golds) / len(golds)
    assert divergence > 0.01
    assert metrics["kl"] == pytest.approx(divergence, rel=1e-4)
    assert metrics["cross_entropy"] == pytest.approx(gold, rel=1e-4)
    assert loss.item() == pytest.approx(alpha * temperature**2 * divergence + (1 - alpha) * gold, rel=1e-4)


def test_teacher_and_student_predict_the_same_ids():
    model = sharp()
    batch = teaching().collate(ROWS, model, 32)
    assert batch["input_ids"].shape[0] == 6
    for teacher, student, (own, other, text) in zip(
        *(zip(*(batch[name].chunk(2)[i] for name in ("input_ids", "labels")), strict=True) for i in (0, 1)),
        SPLIT,
        strict=True,
    ):
        answer = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
        for (ids, labels), prompt in ((teacher, own), (student, other)):
            begun = model.tokenizer(prompt)["input_ids"]
            assert ids.tolist()[: len(begun) + len(answer)] == begun + answer
            assert labels.tolist()[: len(begun)] == [-100] * len(begun)
            assert labels[labels != -100].tolist() == answer


def test_the_same_prompt_on_both_sides_has_no_divergence():
    model, objective = sharp(), teaching(alpha=1.0)
    same = [{**row, "src": row["tgt"]} for row in ROWS[::2]]
    assert objective.loss(model, objective.collate(same, model, 32))[0].item() == pytest.approx(0, abs=1e-6)


def test_no_gradient_goes_through_the_teacher():
    model, objective = sharp(), teaching(alpha=1.0, temperature=2.0)
    batch = objective.collate(ROWS, model, 32)
    loss, _ = objective.loss(model, batch)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.lm.named_parameters()}
    model.lm.zero_grad()

    first, second = ({name: batch[name].chunk(2)[i] for name in batch if name != "cut"} for i in (0, 1))
    taught = (model.predictions(first)[0].materialize().detach() / 2).softmax(-1)
    learnt = (model.predictions(second)[0].materialize() / 2).log_softmax(-1)
    (4 * (taught * (taught.log() - learnt)).sum(-1).mean()).backward()
    for name, weight in model.lm.named_parameters():
        assert torch.allclose(found[name], weight.grad, atol=1e-5), name
    assert all(float(gradient.norm()) > 0 for gradient in found.values())


def test_the_teacher_has_no_dropout_and_the_model_goes_on_training(monkeypatch):
    model, objective = sharp(attention_dropout=0.5), teaching(alpha=1.0)
    model.lm.train()
    same = [{**row, "src": row["tgt"]} for row in ROWS[::2]]
    batch = objective.collate(same, model, 32)
    seen, predictions = [], model.predictions

    def watched(batch):
        found = predictions(batch)
        seen.append(found[0].states)
        return found

    monkeypatch.setattr(model, "predictions", watched)
    first, second = objective.loss(model, batch)[0], objective.loss(model, batch)[0]
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[3])
    assert first.item() != second.item()
    assert model.lm.training
    model.lm.eval()
    objective.loss(model, batch)
    assert not model.lm.training


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_training_makes_the_student_predict_as_the_teacher(alpha: float):
    model, objective = sharp(), teaching(alpha=alpha)
    batch = objective.collate(bitext(32).to_pylist(), model, 32)
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=3e-3)
    losses, divergences = [], []
    for _ in range(40):
        loss, metrics = objective.loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        divergences.append(metrics["kl"])
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.6 * losses[0], losses
    if alpha:
        assert divergences[-1] < 0.5 * divergences[0], divergences


def test_a_batch_without_such_pairs_gives_zero_and_no_gradient():
    model, objective = sharp(), teaching()
    loss, _ = objective.loss(model, objective.collate(USELESS, model, 32))
    loss.backward()
    assert loss.item() == 0
    assert not any(weight.grad.any() for weight in model.lm.parameters() if weight.grad is not None)


def test_useless_rows_change_nothing():
    model, objective = sharp(), teaching()
    few, many = (objective.collate(rows, model, 32) for rows in (ROWS, ROWS + USELESS))
    assert all(torch.equal(few[name], many[name]) for name in ("input_ids", "labels"))


def test_long_texts_keep_the_prompt_next_to_the_answer_and_are_counted():
    model, objective = sharp(), teaching()
    row = {
        "src": "eins zwei drei vier fünf sechs sieben acht neun null eins zwei", "src_lang": "deu_Latn",
        "tgt": "one two three four five six seven eight nine zero one two", "tgt_lang": "eng_Latn",
    }  # fmt: skip
    batch = objective.collate([row, ROWS[2]], model, 8)
    assert batch["cut"].item() == 2
    words = [model.tokenizer.decode(ids) for ids in batch["input_ids"][::2]]
    assert words == ["three four five six seven eight nine zero", "drei vier fünf sechs seven eight nine zero"]
    assert batch["labels"][0].tolist()[:4] == [-100] * 4
    assert objective.collate([row], model, 32)["cut"].item() == 0
    whole = objective.collate([row], model, 14)  # 1 + 6 in the prompt, 6 + 1 in the answer
    assert whole["cut"].item() == 0
    assert objective.collate([row], model, 13)["cut"].item() == 2


@pytest.mark.parametrize(
    ("text", "language", "wanted"),
    [
        ("one two three four", "eng_Latn", ("one two", "three four")),
        ("one two three", "eng_Latn", ("one", "two three")),
        ("  one  two ", "eng_Latn", ("one", "two")),
        ("واحد اثنان", "arb_Arab", ("واحد", "اثنان")),
        ("seventeen", "eng_Latn", None),
        ("", "eng_Latn", None),
        ("  ", "eng_Latn", None),
        ("一二三四", "kor_Hang", None),
    ],
)
def test_a_text_is_cut_at_the_start_of_a_word(text: str, language: str, wanted: tuple[str, str] | None):
    tokenizer = tiny().tokenizer
    (found,) = halves([text], [language], tokenizer)
    assert (found and tuple(tokenizer.decode(part, skip_special_tokens=True).strip() for part in found)) == wanted
    if found:
        assert found[0][0] == tokenizer.bos_token_id
        assert found[0] + found[1] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("digits", "language"), [("一二三四五六七八九", "zho_Hans"), ("๑๒๓๔๕๖๗๘๙", "tha_Thai")])
def test_a_text_without_spaces_is_cut_between_tokens_near_the_middle(digits: str, language: str):
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list(digits), draw.integers(2, 13))) for _ in range(300)]
    tokenizer = train_tokenizer(iter(texts), 320)
    several = 0
    for text, found in zip(texts, halves(texts, [language] * len(texts), tokenizer), strict=True):
        pieces = [piece for piece in tokenizer.tokenize(text) if piece != "▁"]
        assert (found is None) == (len(pieces) == 1)
        if found:
            several += 1
            assert found[0] + found[1] == tokenizer(text)["input_ids"]
            assert abs(len(found[0]) - 1 - len(found[1])) <= 2  # one for an odd number, one for the mark of a word
            assert "".join(str(tokenizer.decode(part, skip_special_tokens=True)) for part in found) == text
    assert several > 250
    assert halves(["一"], ["zho_Hans"], tokenizer) == [None]


def test_an_eos_that_the_tokenizer_writes_is_not_in_the_middle_of_the_answer():
    model = sharp()
    tokenizer = model.tokenizer
    plain = halves(["one two"], ["eng_Latn"], tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    )
    assert tokenizer("one two")["input_ids"][-1] == tokenizer.eos_token_id
    assert halves(["one two"], ["eng_Latn"], tokenizer) == plain


def test_wanted_marks_the_rows_with_one_side_in_the_language():
    rows = ROWS + USELESS[:2]
    columns = [[row[name] for row in rows] for name in BITEXT.names[:4]] + [["c/v1"] * len(rows)]
    table = pa.table([pa.array(column) for column in columns], schema=BITEXT)
    assert teaching().row_mask(table).to_pylist() == [True, True, True, False, False]
    assert teaching(language="es").row_mask(pa.concat_tables([table, table])).to_pylist() == [
        False, False, False, True, False,
    ] * 2  # fmt: skip


@pytest.mark.parametrize(("rows", "there"), [(5, "deu_Latn, eng_Latn"), (0, "some bitext")], ids=["other", "empty"])
def test_a_language_that_no_pair_has_is_an_error(rows: int, there: str):
    message = (
        f"train.objectives.kl_self_teaching.language: found no pair of swh_Latn and another language among {rows} rows "
        f"of bitext. Expected: {there}. Fix: name one"
    )
    with pytest.raises(ValueError, match=message):
        teaching(language="sw").row_mask(bitext(rows))


def test_settings_are_read_and_refused_in_sentences():
    assert teaching(language="en").language == "eng_Latn"
    assert KlSelfTeaching.is_alignment
    for settings, message in (
        ({"temperature": 0}, "found 0. Expected: more than 0"),
        ({"alpha": 1.5}, "found 1.5. Expected: at most 1"),
        ({"language": "english words"}, "language 'english words': not a known language. Allowed: ISO 639"),
    ):
        with pytest.raises(ValueError, match=message):
            build("alignment_train.objectives", {"kl_self_teaching": settings})


def test_rows_are_measured_by_their_longer_side():
    model = sharp()
    lengths = [max(len(model.tokenizer(row[side])["input_ids"]) for side in ("src", "tgt")) for row in ROWS]
    assert teaching().token_lengths(ROWS, model) == lengths


@pytest.mark.parametrize("kind", SHAPES)
def test_every_family_has_a_loss_and_a_gradient_everywhere(kind: str):
    model, objective = sharp(kind), teaching()
    loss, _ = objective.loss(model, objective.collate(ROWS, model, 32))
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 0
    assert all(weight.grad is not None for weight in model.lm.parameters() if weight.requires_grad)


def test_beside_language_modelling_it_brings_the_predictions_of_unseen_pairs_together(tmp_path):
    apart = {}
    for name, objectives in (("with", [teaching(rows=32)]), ("without", [])):
        model, rows = tiny(), bitext(300)
        optimiser = Optimiser.model_validate({"learning_rate": 5e-3})
        language_model = LanguageModel.model_validate({"rows": 32})
        plan = Plan(
            [language_model, *objectives], 40, 32, optimiser, "float32", seed=3, checkpoint_every=100, guards=UNGUARDED
        )
        reporter = Reporter("test", tmp_path / f"{name}.jsonl", no_progress)
        parts = {"bitext": rows, "segments": segments(rows)}
        train(model, plan, parts, tmp_path / name, reporter, torch.device("cpu"))
        with torch.no_grad():
            batch = teaching().collate(bitext(40, first=5003).to_pylist(), model, 32)
            apart[name] = teaching().loss(model, batch)[1]["kl"]
    assert 0 < apart["with"] < 0.4 * apart["without"], apart


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_in_bfloat16_loss_and_gradient_are_those_of_float32_nearly(alpha: float):
    model, objective = sharp(), teaching(alpha=alpha)
    batch = objective.collate(ROWS, model, 32)
    plain, _ = objective.loss(model, batch)
    plain.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.lm.named_parameters()}
    model.lm.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective.loss(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=0.05)
    for name, weight in model.lm.named_parameters():
        assert torch.cosine_similarity(weight.grad.flatten(), wanted[name].flatten(), dim=0) > 0.95, name
