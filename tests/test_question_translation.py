import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignment_train.objectives.question_translation import QuestionTranslation, questions
from pipelines.registry import build
from pipelines.schema import BITEXT
from tests.support.models import bitext, tiny
from tests.support.trained import trained

TO_ENGLISH = "Translate the following sentences from German to English. {} "
TO_GERMAN = "Translate the following sentences from English to German. {} "


def asked(rows: int) -> pa.Table:
    """Numbers in German and English, each with a question mark."""
    table = bitext(rows)
    marked = [[f"{text}?" for text in table[side].to_pylist()] for side in ("src", "tgt")]
    return pa.table([*map(pa.array, marked), *table.columns[2:]], schema=BITEXT)


def pairs(*rows: tuple[str, str, str, str]) -> pa.Table:
    """Rows of src, tgt, src_lang, tgt_lang."""
    return pa.table(
        [pa.array(column, pa.string()) for column in zip(*((*row, "c") for row in rows), strict=False)], schema=BITEXT
    )


def by_hand(model, exercises: list[tuple[str, str]]) -> torch.Tensor:
    """Mean nats over the tokens of the responses and their EOS, one unpadded text at a time."""
    total, tokens = torch.zeros(()), 0
    for prompt, response in exercises:
        shown = model.tokenizer(prompt.rstrip())["input_ids"]
        ids = [*model.tokenizer(prompt + response)["input_ids"], model.tokenizer.eos_token_id]
        assert ids[: len(shown)] == shown
        assert len(shown) < len(ids) - 1
        logits = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(len(shown), len(ids)):
            total = total - logits[place - 1, ids[place]]
            tokens += 1
    return total / tokens


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("direction", ["to_pivot", "from_pivot", "both"])
def test_the_loss_is_that_of_the_translation_and_its_eos_alone(kind: str, direction: str):
    model = tiny(kind)
    rows = asked(5).to_pylist()
    rows[2] = {**rows[2], "src": rows[2]["tgt"], "tgt": rows[2]["src"], "src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}
    german = [row["src"] if row["src_lang"] == "deu_Latn" else row["tgt"] for row in rows]
    english = [row["tgt"] if row["src_lang"] == "deu_Latn" else row["src"] for row in rows]
    forth = [(TO_ENGLISH.format(x), y) for x, y in zip(german, english, strict=True)]
    back = [(TO_GERMAN.format(y), x) for x, y in zip(german, english, strict=True)]
    wanted = {"to_pivot": forth, "from_pivot": back, "both": forth + back}[direction]

    objective = QuestionTranslation.model_validate({"direction": direction})
    batch = objective.collate(rows, model, 128)
    loss, _ = objective.loss(model, batch)
    assert loss.item() == pytest.approx(by_hand(model, wanted).item(), rel=1e-5)
    assert len(batch["input_ids"]) == len(wanted)
    assert int(batch["cut"]) == 0


def test_gradients_are_those_of_the_loss_by_hand():
    objective, model = QuestionTranslation.model_validate({}), tiny()
    rows = asked(3).to_pylist()
    objective.loss(model, objective.collate(rows, model, 128))[0].backward()
    found = {name: p.grad.clone() for name, p in model.lm.named_parameters()}
    assert objective.setup(model, asked(3)) is None
    model.lm.zero_grad()
    by_hand(model, [(TO_ENGLISH.format(row["src"]), row["tgt"]) for row in rows]).backward()
    assert found.keys() == dict(model.lm.named_parameters()).keys()
    for name, p in model.lm.named_parameters():
        assert p.grad.abs().max() > 0
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("direction", ["to_pivot", "from_pivot", "both"])
def test_rows_are_measured_as_they_are_trained_on(direction: str):
    objective, model = QuestionTranslation.model_validate({"direction": direction}), tiny()
    rows = asked(4).to_pylist()
    batch = objective.collate(rows, model, 512)
    assert objective.token_lengths(rows, model) == (batch["attention_mask"].sum(1)[:4] - 1).tolist()  # EOS comes on top


def test_a_prompt_that_fills_the_length_still_leaves_labels():
    objective, model = QuestionTranslation.model_validate({}), tiny()
    rows = asked(2).to_pylist()
    batch = objective.collate([{**row, "src": " ".join([row["src"]] * 9)} for row in rows], model, 12)
    assert batch["input_ids"].shape == (2, 12)
    assert int(batch["cut"]) == 2
    assert ((batch["labels"][:, 1:] != -100).sum(1) > 0).all()
    assert math.isfinite(objective.loss(model, batch)[0].item())


@pytest.mark.parametrize(
    ("text", "lang", "wanted"),
    [
        ("Why?", "eng_Latn", True),
        ("Why not.", "eng_Latn", False),
        ("Why? Because.", "eng_Latn", False),
        ("Why;", "eng_Latn", False),
        ("Really?!", "eng_Latn", True),
        ("„Warum?“", "deu_Latn", True),
        ("(Pourquoi ?)", "fra_Latn", True),
        ("Почему?..", "rus_Cyrl", True),
        ("¿Por qué?", "spa_Latn", True),
        ("¿Por qué", "spa_Latn", False),
        ("لماذا؟", "arb_Arab", True),
        ("لماذا؟\u200f", "arb_Arab", True),
        ("لأن.", "arb_Arab", False),
        ("为什么？", "zho_Hans", True),
        ("为什么？”", "zho_Hans", True),
        ("因为。", "zho_Hans", False),
        ("なぜですか？", "jpn_Jpan", True),
        ("なぜですか。", "jpn_Jpan", False),
        ("ทำไม?", "tha_Thai", True),
        ("ทำไม", "tha_Thai", False),
        ("ለምን፧", "amh_Ethi", True),
        ("ለምን?", "amh_Ethi", True),
        ("Γιατί;", "ell_Grek", True),
        ("Γιατί\u037e", "ell_Grek", True),
        ("«Γιατί;»", "ell_Grek", True),
        ("Γιατί?", "ell_Grek", True),
        ("Γιατί; Έτσι.", "ell_Grek", False),
        ("Ինչո՞ւ է նա եկել։", "hye_Armn", True),
        ("Ինչո՞ւ է նա եկել:", "hye_Armn", True),
        ("«Ինչո՞ւ»", "hye_Armn", True),
        ("Ինչո՞ւ։ Որովհետև։", "hye_Armn", False),
        ("Նա եկել է։", "hye_Armn", False),
        ("3?", "eng_Latn", True),
        ("?", "eng_Latn", True),
        ("a? 2", "eng_Latn", False),
        ("a?\nb", "eng_Latn", False),
        ("", "eng_Latn", False),
    ],
)
def test_a_question_ends_in_a_mark_of_its_script(text: str, lang: str, wanted: bool):
    beside = [("Γιατί;", "ell_Grek"), ("Ինչո՞ւ", "hye_Armn"), ("Why;", "eng_Latn")]  # scripts are told apart by row
    texts, langs = ([row[i] for row in [*beside, (text, lang)]] for i in (0, 1))
    assert questions(pa.chunked_array([texts]), pa.chunked_array([langs])).to_pylist() == [True, True, False, wanted]


MIXED = pairs(
    ("Warum?", "Why?", "deu_Latn", "eng_Latn"),
    ("Warum?", "Why.", "deu_Latn", "eng_Latn"),
    ("Darum.", "Why?", "deu_Latn", "eng_Latn"),
    ("Γιατί;", "Why?", "ell_Grek", "eng_Latn"),
    ("Why;", "Warum;", "eng_Latn", "deu_Latn"),
    ("Warum?", "Pourquoi ?", "deu_Latn", "fra_Latn"),
    ("Why?", "为什么？", "eng_Latn", "zho_Hans"),
)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [0, 3, 6]),
        ({"only_questions": False}, [0, 1, 2, 3, 4, 6]),
        ({"pivot": "de"}, [0, 5]),
        ({"pivot": "deu_Latn", "only_questions": False}, [0, 1, 2, 4, 5]),
        ({"pivot": "ell_Grek"}, [3]),
    ],
)
def test_only_questions_with_the_pivot_are_wanted(settings: dict[str, Any], wanted: list[int]):
    objective = QuestionTranslation.model_validate(settings)
    for table in (MIXED, pa.concat_tables([MIXED.slice(0, 2), MIXED.slice(2)])):
        mask = objective.row_mask(table)
        assert mask.type == pa.bool_()
        assert [i for i, chosen in enumerate(mask.to_pylist()) if chosen] == wanted
        assert table.filter(mask).num_rows == len(wanted)


@pytest.mark.parametrize("table", [MIXED, BITEXT.empty_table()], ids=["other", "empty"])
def test_a_pivot_that_no_row_has_is_an_error(table: pa.Table):
    message = f"train.objectives.question_translation.pivot: found no row in swh_Latn among {table.num_rows} rows of"
    with pytest.raises(ValueError, match=message):
        QuestionTranslation.model_validate({"pivot": "swh_Latn"}).row_mask(table)


def test_it_trains_on_the_questions_among_other_rows_and_the_control_goes_without_it(tmp_path, monkeypatch):
    seen: set[str] = set()
    collate = QuestionTranslation.collate

    def watched(self, rows, *rest):
        seen.update(row["src"] for row in rows)
        return collate(self, rows, *rest)

    monkeypatch.setattr(QuestionTranslation, "collate", watched)
    objective = QuestionTranslation.model_validate({"rows": 8, "direction": "both"})
    table = pa.concat_tables([bitext(50), asked(64), bitext(50)])
    _, outcome, reporter = trained(tmp_path, objective, table, 30, max_length=96)
    first, last = reporter.ends()
    assert last["question_translation"] < 0.8 * first["question_translation"], (first, last)
    assert outcome.rows == {"question_translation": 240}
    assert seen == set(asked(64)["src"].to_pylist())  # 30 batches of 8 are more than three epochs
    assert objective.is_alignment


def test_no_question_at_all_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match="question_translation: found 0 usable rows among the 50 .*at least one"):
        trained(tmp_path, QuestionTranslation.model_validate({}), bitext(50), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "sideways"}, "found 'sideways'"),
        ({"pivot": "nowhere"}, "nowhere"),
        ({"only_question": True}, "unknown key. Did you mean 'only_questions'"),
        ({"rows": 0}, "found 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build("alignment_train.objectives", {"question_translation": settings})
