from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.results.contamination import Overlap, overlap, together
from pipelines.schema import BITEXT, EVAL_TEXT, INSTRUCTION
from pipelines.storage.store import Store
from pipelines.text.near import HeldOutIndex

LONG = "The weather has been fine here since Monday last week"
HELD = {
    "eng_Latn": ["The house!", LONG, "Nobody says this", "..."],
    "zho_Hans": ["大房子", "这是一个很长的句子关于天气和房子还有狗"],
}


def stored(
    folder: Path,
    bitext: list[tuple[str, str]],
    messages: list[str],
    part: str = "bitext",
    held: dict[str, list[str]] = HELD,
) -> Store:
    """A store whose mix has these rows of English and Chinese, and conversations with these prompts."""
    store = Store.open(folder, "planted")
    with store.writing("eval_text") as out:
        rows = [("retrieval", str(i), "eng_Latn-zho_Hans", lang, text) for lang, own in held.items()
                for i, text in enumerate(own)]  # fmt: skip
        rows.append(("loss", "0", "eng_Latn-zho_Hans", "eng_Latn", LONG))
        out.write(pa.record_batch([pa.array(column) for column in zip(*rows, strict=True)], schema=EVAL_TEXT))
        out.commit("eval_text", {})
    with store.writing("training_mix") as out:
        n = len(bitext)
        columns = [[a for a, _ in bitext], [b for _, b in bitext], ["eng_Latn"] * n, ["zho_Hans"] * n, ["x/v1"] * n]
        out.write(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=BITEXT), part)
        roles = ("user", "assistant")
        said = [
            [{"role": r, "content": c} for r, c in zip(roles, (text, f"Answer {i}"), strict=True)]
            for i, text in enumerate(messages)
        ]
        row = [said, *([value] * len(said) for value in ("zho_Hans", "eng_Latn", "x/v1", "t/1"))]
        out.write(pa.record_batch([pa.array(c, f.type) for c, f in zip(row, INSTRUCTION, strict=True)],
                                  schema=INSTRUCTION), "instructions")  # fmt: skip
        out.commit("mix", {})
    return store


def kinds(found: Overlap) -> dict[str, str]:
    return {text: kind for texts in found.texts.values() for (_, text), kind in texts.items() if kind}


def test_a_mix_that_was_decontaminated_holds_nothing(tmp_path: Path) -> None:
    found = overlap(stored(tmp_path, [("A river", "河"), ("...", "房子")], ["What?", "大狗"]), 0.8)
    assert kinds(found) == {}
    assert found.counts() == {
        "near": 0.8,
        "evals": {"loss": {"texts": 1, "exact": 0, "near": 0}, "retrieval": {"texts": 6, "exact": 0, "near": 0}},
        "examples": [],
    }
    assert found.rows == {"eng_Latn": 4, "zho_Hans": 4}


def test_planted_rows_are_found_exactly_and_nearly_in_bitext_and_messages(tmp_path: Path) -> None:
    said = [f"Translate: {LONG.upper()}, but I hear otherwise.", "大房子。"]
    store = stored(tmp_path, [("the HOUSE", "狗"), ("A river", "这是一个很长的句子关于天气和房子还有猫")], said)
    found = overlap(store, 0.8)
    assert kinds(found) == {"The house!": "exact", LONG: "near", "大房子": "exact", HELD["zho_Hans"][1]: "near"}
    assert found.counts()["evals"] == {
        "loss": {"texts": 1, "exact": 0, "near": 1}, "retrieval": {"texts": 6, "exact": 2, "near": 2},
    }  # fmt: skip
    assert found.contained("loss") == {LONG}
    assert kinds(overlap(store, 1.0))[LONG] == "near"  # all of it is held
    assert HELD["zho_Hans"][1] not in kinds(overlap(store, 1.0))


def test_where_the_recipe_looks_for_no_near_copies_the_report_does(tmp_path: Path) -> None:
    store = stored(tmp_path, [("Well: " + LONG, "狗")], ["x"])
    assert overlap(store, None) == overlap(store, 0.8)
    assert kinds(overlap(store, None)) == {LONG: "near"}


def test_a_text_in_another_language_and_dev_rows_do_not_count(tmp_path: Path) -> None:
    assert kinds(overlap(stored(tmp_path / "a", [("大房子", "The house")], ["x"]), 0.8)) == {}
    dev = stored(tmp_path / "b", [("The house", "大房子")], ["x"], part="dev")
    assert kinds(overlap(dev, 0.8)) == {}
    assert overlap(dev, 0.8).rows == {"eng_Latn": 1, "zho_Hans": 1}


SCATTERED = "Qu'est-ce que ma fille a choisi en ville la semaine dernière ?"
CONVERSATION = (
    "Réponds à la question à l'aide du texte.\nMa fille a choisi un tapis blanc dans la cuisine l'année dernière. La "
    "semaine dernière, il a beaucoup plu, alors le chauffeur n'est pas allé en ville avec le fermier.\nQuand est-ce "
    "que ma fille a choisi un tapis blanc dans la cuisine ?\nRéponds en anglais :"
)
ASKED = "Mwandishi alipofika ofisini wiki iliyopita, baba yangu alikuwa akilala."
PROMPT = (
    "Tafadhali tafsiri maandishi yafuatayo kwa Kiingereza.\n\n"
    "Mpishi alipofika dukani wiki iliyopita, baba yangu alikuwa akilala."
)


@pytest.mark.parametrize(("text", "said"), [(SCATTERED, CONVERSATION), (ASKED, PROMPT)], ids=["sentences", "prompt"])
def test_a_text_that_sentences_or_the_prompt_hold_between_them_is_not_held(
    tmp_path: Path, text: str, said: str
) -> None:
    (share,) = HeldOutIndex(pa.array([text]), "eng_Latn", 0.8).scores(pa.array([said]))
    assert share > 0.8  # of its shingles; the rows are of the sample's mix, which was decontaminated
    assert kinds(overlap(stored(tmp_path, [("a", "b")], [said], held={"eng_Latn": [text]}), 0.8)) == {}


@pytest.mark.parametrize("inside", ["", " le matin"])
def test_a_text_in_one_passage_of_a_conversation_is_held(tmp_path: Path, inside: str) -> None:
    said = f"{CONVERSATION} {SCATTERED.replace(' en ville', f'{inside}. En ville')} {CONVERSATION}"
    found = overlap(stored(tmp_path, [("a", "b")], [said], held={"eng_Latn": [SCATTERED]}), 0.8)
    assert kinds(found) == {SCATTERED: "near"}


def test_most_distinct_neighbours_are_those_of_the_best_passage() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        row, wanted, width = rng.integers(9, size=rng.integers(1, 30)), rng.permutation(9)[:5], int(rng.integers(1, 12))
        best = max(len(set(row[i : i + width]) & set(wanted)) for i in range(len(row)))
        assert together(row, wanted, width) == best
    assert together(np.array([1, 2]), np.array([3]), 2) == 0


def test_each_batch_is_told(tmp_path: Path) -> None:
    told = list[tuple[float, float]]()
    overlap(stored(tmp_path, [("a", "b")] * 3, ["x"]), 0.8, lambda done, total=0, note="": told.append((done, total)))
    assert told == [(0, 4), (3, 4)]


def test_a_store_without_a_mix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no eval_text"):
        overlap(Store.open(tmp_path, "planted"), 0.8)
