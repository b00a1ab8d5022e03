import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import Recipe
from pipelines.results.contamination import overlap
from pipelines.schema import INSTRUCTION
from pipelines.stages import collect, task_data
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.identifying import Conversation, Frequency, held_out, identifying, outline, sentence_keys
from tests.support.bitext_fixtures import Planted, store_eval_text

NOUNS = ["river", "bridge", "baker", "garden", "doctor", "window", "castle", "farmer", "violin", "harbour"]
COLOUR = "Does the sentence speak of colour?"
Row = dict[str, Any]


def fact(number: int) -> str:
    """A sentence that no other number has, nor nearly."""
    rng = random.Random(number)
    words = ["".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)) for _ in range(5)]
    return f"The {' '.join(words)} {number}."


def asked(prompt: str, answer: str) -> Row:
    return {"prompt": prompt, "answer": answer, "lang": "en"}


def talk(*contents: str) -> Row:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], "lang": "en"}


def yesno(i: int) -> Row:
    return asked(f"{COLOUR} The old {NOUNS[i % 10]} was near the house number {i}.", "Yes" if i % 2 else "No")


def greet(i: int) -> Row:
    return talk("Hello!", "Hello! How can I help you?", fact(i), f"I know about {fact(i)}")


def sure(i: int) -> Row:
    return asked(f"Tell me about item {i}. {fact(i)}", f"{'Sure! ' if i % 3 == 0 else ''}{fact(1_000_000 + i)}")


def passage(i: int, count: int) -> str:
    return " ".join(fact(100_000 + i % count * 10 + j) for j in range(5))


SHAPES: dict[str, tuple[Callable[[int], Row], int]] = {
    "yes or no, one question": (yesno, 200),
    "talks that begin alike": (greet, 200),
    "a third of the answers begins alike": (sure, 2000),
    "the same on one line": (lambda i: asked(f"Translate to German: {fact(i)}", "Ja."), 200),
    "after the text": (lambda i: asked(f"{fact(i)}\nIs that so? Answer in one word.", "maybe"), 200),
    "a long wording with line breaks": (lambda i: asked(f"{passage(0, 1)}\n\nText:\n{fact(i)}\n\nAnswer:", "x"), 200),
    "ten wordings": (lambda i: asked(f"{fact(900_000 + i % 10)} {fact(i)}", "Yes"), 200),
    "forty wordings": (lambda i: asked(f"{fact(900_000 + i % 40)} {fact(i)}", "Yes"), 200),
    "a wording around the text": (
        lambda i: asked(f"What do you think is the capital city of the large country {fact(i)[4:16]}?", "x"), 200),
    "one passage, many questions": (lambda i: asked(f"{passage(0, 1)}\nQuestion: {fact(i)}", NOUNS[i % 10]), 200),
    "ten passages, many questions": (lambda i: asked(f"{passage(i, 10)}\nQuestion: {fact(i)}", NOUNS[i % 10]), 200),
    "passages and questions crossed": (lambda i: asked(f"{passage(i, 10)}\n{fact(5000 + i // 10)}", "Yes"), 200),
    "short prompts and answers": (lambda i: asked(f"{i}+{i}?", str(2 * i)), 200),
    "names as answers": (lambda i: asked(fact(i), f"{NOUNS[i % 10].title()} {NOUNS[i // 10 % 10].title()}"), 200),
    "small talk in between": (
        lambda i: talk(fact(i), "I see.", "Why?", "Who knows.", "Tell me more.", fact(1_000_000 + i)), 200),
    "one long answer for all": (lambda i: asked(fact(i), passage(0, 1)), 200),
    "ten items": (yesno, 10),
    "three items": (yesno, 3),
    "one item": (yesno, 1),
}  # fmt: skip


def collected(*groups: list[str]) -> Frequency:
    """The sentences of items, each given as its texts."""
    own, where = sentence_keys(groups)
    return Frequency(where.astype(np.uint64), own)


@pytest.mark.parametrize(
    ("items", "few"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (1_000, 3), (1_000_000, 3)]
)
def test_few_items_are_three_and_a_tenth_at_most(items: int, few: int) -> None:
    numbers = np.arange(items, dtype=np.uint64)
    assert Frequency(numbers, numbers).few == few


@pytest.mark.parametrize(("shared", "identifies"), [(1, True), (3, True), (4, False), (40, False)])
def test_a_sentence_that_few_items_have_identifies_them(shared: int, identifies: bool) -> None:
    texts = [[f"{'What do you think of this?' if i < shared else 'Other words, much longer.'} {fact(i)}"]
             for i in range(100)]  # fmt: skip
    (found,) = identifying([Conversation(texts[0], texts[0][0], "Yes")], collected(*texts), ["eng_Latn"])
    assert ("What do you think of this?" in found) == identifies
    assert fact(0) in found
    assert found[0] == (f"What do you think of this?\n{fact(0)}" if identifies else fact(0))


@pytest.mark.parametrize(
    ("lang", "prompt", "answer", "expected"),
    [
        ("eng_Latn", "Why?", "Yes", ["Why?"]),
        ("eng_Latn", "What is the name of it?", "Washington, George", ["What is the name of it?"]),
        ("eng_Latn", "Why?", "Nobody knows the reason for it.", ["Why?", "Nobody knows the reason for it."]),
        ("eng_Latn", "Wake me at nine. Why? I sleep all day.", "No",
         ["Wake me at nine.\nWhy?\nI sleep all day.", "Wake me at nine. Why? I sleep all day.", "Wake me at nine.",
          "I sleep all day."]),
        ("zho_Hans", "这是什么颜色？为什么？", "红色的",
         ["这是什么颜色？\n为什么？", "这是什么颜色？为什么？", "这是什么颜色？"]),
        ("hin_Deva", "यह कौन सा रंग है।", "लाल", ["यह कौन सा रंग है।"]),
        ("arb_Arab", "ما لون هذا البيت الكبير؟ نعم", "أحمر",
         ["ما لون هذا البيت الكبير؟\nنعم", "ما لون هذا البيت الكبير؟ نعم", "ما لون هذا البيت الكبير؟"]),
    ],
)  # fmt: skip
def test_the_prompt_identifies_an_item_and_so_do_long_sentences_but_no_short_answer(
    lang: str, prompt: str, answer: str, expected: list[str]
) -> None:
    item = Conversation([prompt, answer], prompt, answer)
    assert identifying([item], collected([prompt, answer]), [lang]) == [expected]


def test_a_text_within_another_is_no_whole_text() -> None:
    texts = ["One. Two!", "One.", "Two!", "Three", "One.", " "]
    assert outline(texts) == {"One. Two!": ["One.", "Two!"], "Three": ["Three"]}
    assert list(outline(["A: b", "b"])) == ["A: b"]


def test_an_answer_is_told_from_a_word_of_the_prompt_that_is_like_it() -> None:
    item = Conversation(["Say No to it", "No"], "Say No to it", "No")
    assert identifying([item], collected(["Say No to it", "No"]), ["eng_Latn"]) == [["Say No to it"]]


def recipe(folder: Path, task: Row, **more: Any) -> Recipe:
    corpus = {"pairs": ["en-de"], "sources": [Planted()], "tasks": [{"messages": {"train": ["en"], **task}}]}
    return Recipe.model_validate({"name": "planted", "corpus": corpus, **more})


def written(file: Path, rows: list[Row]) -> str:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(file)


def assigned(folder: Path, rows: list[Row], held_out: list[str] | None = None, dev_rows: int = 200) -> Manifest:
    store = Store.open(folder / "store", "planted")
    store_eval_text(store, {"eng_Latn": held_out or []})
    path = written(folder / "rows.jsonl", rows)
    return task_data.run(recipe(folder, {"path": path, "dev_rows": dev_rows}), store)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_many_items_share_costs_no_row(tmp_path: Path, shape: str) -> None:
    row, count = SHAPES[shape]
    manifest = assigned(tmp_path, [row(i) for i in range(count)])
    assert manifest.rows["dev"] == min(200, count // 10)
    assert manifest.rows["eng_Latn"] == count - manifest.rows["dev"]


def evaluated(folder: Path, rows: list[Row], test: list[Row], **task: Any) -> tuple[Manifest, Store]:
    """The rows of a task whose held-out items a transfer eval asks."""
    settings = {"path": str(folder), "data_files": "rows.jsonl", "dev_rows": 0, **task}
    written(folder / "rows.jsonl", rows)
    written(folder / "test.jsonl", test)
    ask = {"transfer": {"task": "messages", "test": {"data_files": "test.jsonl"}, "languages": ["en"]}}
    made = recipe(folder, settings, eval=[ask])
    store = Store.open(folder / "store", "planted")
    collect.run_evals(made, store)
    return task_data.run(made, store), store


def guard(store: Store) -> dict[str, int]:
    """How many texts of the eval stand in a mix of all rows of the task."""
    with store.writing("training_mix") as out:
        for batch in store.batches("task_data", part="eng_Latn"):
            out.write(batch.select(INSTRUCTION.names), "tasks")
        out.commit("mix", {})
    return overlap(store, None).counts()["evals"]["transfer"]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if SHAPES[shape][0] is not yesno])
def test_what_an_eval_shares_with_many_items_costs_no_row_and_is_no_contamination(tmp_path: Path, shape: str) -> None:
    row, count = SHAPES[shape]
    manifest, store = evaluated(tmp_path, [row(i) for i in range(count)], [row(i) for i in range(7_000_000, 7_000_050)])
    assert manifest.rows["eng_Latn"] == count
    found = guard(store)
    assert found["exact"] + found["near"] == 0


HELD_OUT_FACT = fact(8_000_000)
NEARLY = HELD_OUT_FACT.replace("The ", "A ", 1)
PLANTED: dict[str, Row] = {
    "its prompt": asked(f"{COLOUR} {HELD_OUT_FACT}", "No"),
    "its prompt in capitals": asked(f"{COLOUR} {HELD_OUT_FACT}".upper(), "No"),
    "its sentence in another wording": asked(f"Answer yes or no. {HELD_OUT_FACT} What do you say?", "No"),
    "its sentence after a colon": asked(f"Translate to German: {HELD_OUT_FACT}", "No"),
    "its sentence in quotation marks": asked(f'Is "{HELD_OUT_FACT}" about colour?', "No"),
    "its sentence in a passage": asked(f"{fact(1)} {HELD_OUT_FACT} {fact(2)}", "No"),
    "its sentence in a later turn": talk("Hello!", "Hello! How can I help you?", HELD_OUT_FACT, "No"),
    "its sentence in an answer": asked("What do you know?", f"Sure! {fact(3)} {HELD_OUT_FACT}"),
    "nearly its sentence": asked(f"{COLOUR} {NEARLY}", "No"),
    "nearly its sentence in a passage": asked(f"{fact(1)} {NEARLY} {fact(2)}", "No"),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("held_out", ["task", "text"])
def test_what_identifies_an_item_of_an_eval_does_not_train(tmp_path: Path, kind: str, held_out: str) -> None:
    rows = [*(yesno(i) for i in range(150)), *(greet(i) for i in range(1000, 1050)), PLANTED[kind]]
    test = [asked(f"{COLOUR} {fact(n)}", "Yes" if n % 2 else "No") for n in range(8_000_000, 8_000_020)]
    if held_out == "task":
        manifest, store = evaluated(tmp_path, rows, test)
    else:
        manifest = assigned(tmp_path, rows, [HELD_OUT_FACT, fact(8_000_001)], dev_rows=0)
        store = Store.open(tmp_path / "store", "planted")
    lost = {row.step: row.dropped for row in manifest.ledger if row.dropped}
    near = "nearly" in kind or "quotation" in kind  # no sentence of its own: words stand before it
    assert lost == {"evaluation_near" if near else "evaluation_overlap": 1}
    (dropped,) = [row for row in store.table("task_data", part="samples").to_pylist() if row["step"] in lost]
    assert HELD_OUT_FACT.lower()[5:] in f"{dropped['src']} {dropped['tgt']}".lower()


TWINS: dict[str, Callable[[int], list[Row]]] = {
    "in two wordings": lambda n: [asked(f"{COLOUR} {fact(n)}", "No"), asked(f"Yes or no? {fact(n)}", "No")],
    "with three hypotheses": lambda n: [asked(f"{fact(n)}\n{fact(9_000_000 + 3 * n + k)}", "Yes") for k in range(3)],
    "a talk turn by turn": lambda n: [
        talk(fact(n), fact(500_000 + n)),
        talk(fact(n), fact(500_000 + n), fact(600_000 + n), fact(700_000 + n)),
    ],
    "in a long answer": lambda n: [asked(f"{COLOUR} {fact(n)}", "No"), asked(fact(600_000 + n), fact(n))],
    "the same short prompt": lambda n: [asked(f"{n}+{n}?", "even"), asked(f"{n} + {n}?", str(2 * n))],
}


@pytest.mark.parametrize("kind", TWINS)
def test_what_identifies_a_dev_item_does_not_train(tmp_path: Path, kind: str) -> None:
    rows = [row for n in range(100) for row in TWINS[kind](n)]
    manifest = assigned(tmp_path, rows)
    store = Store.open(tmp_path / "store", "planted")
    groups = {json.dumps(row.get("messages", [{"content": row.get("prompt")}])[0]["content"]): n
              for n in range(100) for row in TWINS[kind](n)}  # fmt: skip
    found = [
        {groups[json.dumps(row["messages"][0]["content"])] for row in store.table("task_data", part=part).to_pylist()}
        for part in ("dev", "eng_Latn")
    ]
    assert manifest.rows["dev"] == len(rows) // 10
    assert found[0].isdisjoint(found[1])
    assert found[0] | found[1] == set(range(100))


def test_labels_and_wordings_of_an_eval_are_not_looked_for(tmp_path: Path) -> None:
    test = [yesno(n) for n in range(40)]
    store = evaluated(tmp_path, [greet(n) for n in range(20)], test)[1]
    found = held_out(store).to_pylist()
    assert {row["identifying"] for row in found} == {row["prompt"].removeprefix(f"{COLOUR} ") for row in test}
    assert {row["text"] for row in found} >= {row["prompt"] for row in test}
    assert all(row["rare"] for row in found)


@pytest.mark.parametrize("texts", [["Yes"], ["Yes", "No"], ["Hello!"] * 5, ["Good morning!", "Yes"]])
def test_every_held_out_item_has_a_text_to_look_for(tmp_path: Path, texts: list[str]) -> None:
    store = Store.open(tmp_path, "planted")
    store_eval_text(store, {"eng_Latn": texts})
    assert {row["identifying"] for row in held_out(store).to_pylist()} == set(texts)
