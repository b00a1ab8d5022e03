from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.runner import needed
from pipelines.schema import INSTRUCTION
from pipelines.stages import instruct, mix, task_data
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Message, Task
from tests.support.bitext_fixtures import recipe, store_bitext, store_eval_text

PAIR = Pair("deu_Latn", "eng_Latn")


class Quiz(Task):
    """Numbered questions, parallel by number; every tenth sounds like the one before it."""

    train: list[str] = ["deu_Latn", "eng_Latn"]
    count: int = 100

    @property
    def cells(self) -> list[str]:
        return self.train

    def provenance(self, home: Path) -> dict[str, dict[str, Any]]:
        return {"quiz/v1": {"version": "v1", "licence": "CC-BY-4.0", "url": "", "citation": "tests"}}

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        for number in range(self.count):
            given = f"{cell} asks {number - (number % 10 == 9)}?"
            yield Example(str(number), cell, cell, "quiz/v1", given, f"{cell} says {number}")

    def render(self, example: Example) -> list[Message]:
        return [{"role": "system", "content": "Answer."}, {"role": "user", "content": example.given}]

    def answer(self, example: Example) -> str:
        return example.gold

    def parse(self, answer: str) -> str:
        return answer

    def segments(self, example: Example) -> list[str]:
        return [example.given]


def taught(*tasks: Task, seed: int = 0, **corpus: Any) -> Recipe:
    return recipe(["de-en"], seed=seed, **{"tasks": list(tasks), "decontaminate": {"near": None}, **corpus})


def assigned(folder: Path, made: Recipe, held_out: dict[str, list[str]] | None = None) -> tuple[Store, Manifest]:
    store = Store.open(folder, made.name)
    store_eval_text(store, held_out or {"eng_Latn": ["Nothing like it."]})
    return store, task_data.run(made, store)


def numbers(store: Store, part: str) -> set[int]:
    """The items of a part."""
    rows = store.table("task_data", part=part).to_pylist()
    return {int(row["messages"][-1]["content"].split()[-1]) for row in rows}


def test_an_item_is_set_aside_in_every_language_and_so_is_who_sounds_like_it(tmp_path: Path) -> None:
    store, manifest = assigned(tmp_path, taught(Quiz(dev_rows=10)))
    dev, german, english = (numbers(store, part) for part in ("dev", "deu_Latn", "eng_Latn"))
    assert len(dev) == 10
    assert manifest.rows["dev"] == 20
    twins = {number - 1 if number % 10 == 9 else number + 1 for number in dev if number % 10 >= 8}
    assert twins - dev  # else this would show nothing
    assert german == english == set(range(100)) - dev - twins
    ledger = {(row.step, row.corpus): (row.into, row.dropped, row.kept) for row in manifest.ledger}
    assert ledger["dev", "test_assign eng_Latn"] == (100, 10, 90)
    assert ledger["dev_overlap", "test_assign eng_Latn"] == (90, len(twins - dev), len(english))
    row = store.table("task_data", part="eng_Latn").to_pylist()[0]
    assert row["messages"][0] == {"role": "system", "content": "Answer."}
    assert (row["template"], row["corpus"], row["src_lang"]) == ("test_assign/0", "quiz/v1", "eng_Latn")
    assert manifest.numbers["rows_in"] == 200
    assert manifest.numbers["rows_out"] == manifest.rows["deu_Latn"] + manifest.rows["eng_Latn"] == 2 * len(english)
    assert manifest.corpora["quiz/v1"]["licence"] == "CC-BY-4.0"


def test_rows_bounds_each_language_by_the_same_items_and_the_seed_draws_them(tmp_path: Path) -> None:
    store, manifest = assigned(tmp_path / "a", taught(Quiz(rows=30)))
    other, _ = assigned(tmp_path / "b", taught(Quiz(rows=30), seed=1))
    german, english = numbers(store, "deu_Latn"), numbers(store, "eng_Latn")
    assert german == english
    assert len(german) == 30
    assert german.isdisjoint(numbers(store, "dev"))
    assert numbers(other, "deu_Latn") != german
    assert sum(row.dropped for row in manifest.ledger if row.step == "rows") > 0
    _, same = assigned(tmp_path / "c", taught(Quiz(rows=30)))
    assert same.files == manifest.files


def test_what_an_eval_holds_is_in_neither_part(tmp_path: Path) -> None:
    held_out = {"eng_Latn": [f"ENG_Latn asks {n}" for n in range(50)], "deu_Latn": ["eng_Latn asks 60?"]}
    store, manifest = assigned(tmp_path, taught(Quiz(dev_rows=10)), held_out)
    dropped = {row.corpus: row.dropped for row in manifest.ledger if row.step == "evaluation_overlap"}
    said = [row["messages"][1]["content"] for part in ("dev", "eng_Latn") for row in
            store.table("task_data", part=part).to_pylist() if row["src_lang"] == "eng_Latn"]  # fmt: skip
    asked = {int(text.split()[-1].rstrip("?")) for text in said}
    assert min(asked) == 50
    assert 60 in asked
    assert dropped["test_assign deu_Latn"] == 0
    assert dropped["test_assign eng_Latn"] > 30


def test_an_unchanged_recipe_is_not_run_again_and_a_changed_task_is(tmp_path: Path) -> None:
    store, manifest = assigned(tmp_path, taught(Quiz()))
    assert task_data.run(taught(Quiz()), store) is not None
    assert task_data.run(taught(Quiz()), store).seconds == manifest.seconds
    for made in (taught(Quiz(count=90)), taught(Quiz(rows=5)), taught(Quiz(), seed=2)):
        assert task_data.run(made, store).fingerprint != manifest.fingerprint


def test_a_licence_that_the_recipe_refuses_and_a_task_without_a_row_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus.licences, task 'test_assign': found quiz/v1: CC-BY-4.0"):
        assigned(tmp_path, taught(Quiz(), licences=["CC0-*"]))
    held_out = {lang: [f"{lang} asks {n}" for n in range(100)] for lang in PAIR}
    with pytest.raises(
        ValueError,
        match=r"task_data, task 'test_assign': found no row to train on in 200 examples: 20 are dev rows \(dev\); 4 "
        r"have a text that identifies a dev row \(dev_overlap\); 176 have a text that identifies an item of an eval "
        r"\(evaluation_overlap\). Allowed: at least one.*allow_empty: true",
    ):
        assigned(tmp_path, taught(Quiz()), held_out)
    _, manifest = assigned(tmp_path, taught(Quiz(), allow_empty=True), held_out)
    assert manifest.rows == {"dev": 0, "deu_Latn": 0, "eng_Latn": 0, "samples": 44}


def test_tasks_share_the_budget_and_have_parts_of_their_own_in_the_mix(tmp_path: Path) -> None:
    made = taught(
        Quiz(dev_rows=10, train=["eng_Latn"]),
        instructions=["translate"],
        budget={"rows": 120, "shares": {"bitext": 0.5, "test_assign": 0.25}},
        dev_rows=10,
    )
    store, _ = assigned(tmp_path, made)
    store_bitext(store, PAIR, (["eng_Latn asks 50?", *map(str, range(199))], [f"n{n}" for n in range(200)]))
    instruct.run(made, store, PAIR)
    manifest = mix.run(made, store)
    assert manifest.rows == {"bitext": 60, "instructions": 30, "dev": 10, "tasks": 30, "tasks_dev": 10}
    assert manifest.numbers["rows_out"] == 120
    tasks = store.table("training_mix", part="tasks")
    assert tasks.schema.equals(INSTRUCTION)
    assert set(tasks["template"].to_pylist()) == {"test_assign/0"}
    assert {row["template"].split("/")[0] for row in store.table("training_mix", part="instructions").to_pylist()} == {
        "translate"
    }
    dev = store.table("training_mix", part="tasks_dev")
    assert dev.column("messages").to_pylist() == store.table("task_data", part="dev").column("messages").to_pylist()
    receipt = [(row["kind"], row["pair"], row["taken"]) for row in manifest.numbers["receipt"]]
    assert receipt == [
        ("bitext", str(PAIR), 60), ("translate", str(PAIR), 30), ("test_assign", "eng_Latn", 30)
    ]  # fmt: skip
    assert sum(row.kept for row in manifest.ledger if row.step == "budget") == 120
    assert "quiz/v1" in manifest.corpora


def test_dev_bitext_is_kept_out_of_tasks_as_well(tmp_path: Path) -> None:
    made = taught(Quiz(dev_rows=0, train=["eng_Latn"]), dev_rows=20, instructions=[])
    store, _ = assigned(tmp_path, made)
    texts = [f"eng_Latn asks {n}?" for n in range(100)] + [f"other {n}" for n in range(100)]
    store_bitext(store, PAIR, ([f"n{n}" for n in range(200)], texts))
    instruct.run(made, store, PAIR)
    mix.run(made, store)
    dev = set(store.table("training_mix", part="dev")["tgt"].to_pylist())
    asked = {row["messages"][1]["content"] for row in store.table("training_mix", part="tasks").to_pylist()}
    assert len(dev & set(texts[:100])) > 3
    assert len(asked) > 50
    assert dev.isdisjoint(asked)


def test_without_tasks_there_is_no_task_data() -> None:
    assert "task_data" not in [stage.asset for stage in needed(taught())]
    assert [stage.asset for stage in needed(taught(Quiz()))][-2:] == ["task_data", "training_mix"]


def test_a_share_of_an_unknown_task_and_a_task_twice_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"budget.shares: found quiz. Expected: bitext, test_assign. Fix: add the instruction t"
    ):
        taught(Quiz(), budget={"shares": {"quiz": 0.1}})
    with pytest.raises(ValueError, match="tasks: found test_assign twice. Expected: each once"):
        taught(Quiz(), Quiz(count=5))
