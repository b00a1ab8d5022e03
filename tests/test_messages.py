import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.tasks.messages import Messages

HOME = Path("unused")


def talk(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant", "user", "assistant")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def task(folder: Path, rows: list[Any], train: list[str], file: str = "talk.jsonl", **settings: Any) -> Messages:
    (folder / file).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return Messages.model_validate({"path": str(folder / file), "train": train, **settings})


def test_the_last_message_is_the_answer_and_rows_go_by_their_language(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    rows = [
        {"id": 1, "lang": "ar", "messages": [system, *talk("ما اللون؟", "أحمر.")]},
        {"id": 1, "lang": "en", "messages": [system, *talk("Which colour?", " Red. ", "Why?", "It is. So be it.")]},
        {"lang": "de", "messages": talk("Welche?", "Rot.")},
    ]
    item = task(tmp_path, rows, ["ar", "en"])
    arabic, english = (list(item.examples(cell, HOME)) for cell in item.cells)
    assert [(e.item, e.src_lang, item.answer(e)) for e in (*arabic, *english)] == [
        ("1", "arb_Arab", "أحمر."),
        ("1", "eng_Latn", "It is. So be it."),
    ]
    assert item.render(english[0]) == [system, *talk("Which colour?", "Red.", "Why?")]
    assert item.parse(item.answer(arabic[0])) == arabic[0].gold
    assert item.parse(" ") is None
    assert item.segments(english[0]) == [
        "Which colour?\nRed.\nWhy?", "Which colour?", "Red.", "Why?", "It is. So be it.", "It is.", "So be it.",
    ]  # fmt: skip
    assert item.provenance(HOME)["talk/local"]["version"] == "local"


def test_a_prompt_and_an_answer_will_do_in_a_file_a_language(tmp_path: Path) -> None:
    (tmp_path / "th.jsonl").write_text('{"inputs": "สีอะไร", "targets": "แดง"}\n', encoding="utf-8")
    settings = {
        "path": str(tmp_path),
        "data_files": "{lang}.jsonl",
        "columns": {"prompt": "inputs", "answer": "targets"},
    }
    item = Messages.model_validate({**settings, "train": ["th"]})
    (example,) = item.examples("tha_Thai", HOME)
    assert item.render(example) == talk("สีอะไร")
    assert item.answer(example) == "แดง"
    assert example.item == "สีอะไร\nแดง"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, r"line 2: found text. Needed: 'messages', or 'prompt' and 'answer'. Say in `columns`"),
        ({"messages": talk("a")}, r"line 2: found messages of user. Needed: two or more, of system, user, assistant"),
        ({"messages": talk("a", "b", "c")}, r"line 2: found messages of user, assistant, user. Needed"),
        ({"messages": ["a", "b"]}, r"line 2: found messages of None, None. Needed"),
        ({"messages": talk("a", " ")}, r"line 2: found ' ' as the content of message 2. Needed: a text"),
        ({"messages": talk("a", "b"), "lang": "xx"}, r"line 2: language 'xx': not a known language"),
        ({"messages": talk("a", "b")}, r"line 2: found no 'lang', and 2 languages in `train`. Needed: rows that say"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    item = task(tmp_path, [{"lang": "en", "messages": talk("a", "b")}, row], ["en", "de"])
    with pytest.raises(ValueError, match=rf"talk\.jsonl, {message}"):
        list(item.examples("eng_Latn", HOME))


def test_a_language_without_a_row_is_an_error(tmp_path: Path) -> None:
    item = task(tmp_path, [{"lang": "en", "messages": talk("a", "b")}], ["en", "de"])
    with pytest.raises(ValueError, match=r"task 'messages', talk, deu_Latn: found no example. Needed: at least one"):
        list(item.examples("deu_Latn", HOME))
