from pathlib import Path

import pytest

from pipelines.tasks import Span
from pipelines.tasks.json_extraction import JsonExtraction

HOME = Path("unused")
GERMAN = """# newdoc id = n01001
# sent_id = n01001-0001
# text = „Vereinigte Staaten“, schrieb Kori Schulman.
1\t„\tO\t-\t-
2\tVereinigte\tB-LOC\t-\tx
3\tStaaten\tI-LOC\t-\tx
4\t“\tO\t-\t-
5\t,\tO\t-\t-
6\tschrieb\tO\t-\t-
7\tKori\tB-PER\t-\tx
8\tSchulman\tI-PER\t-\tx
9\t.\tO\t-\t-
"""
RUSSIAN = "# sent_id = a\n# text = Он молчал.\n1\tОн\tO\t-\t-\n2-3\tмолчал.\t_\n2\tмолчал\tB-OTH\t-\t-\n3\t.\tO\t-\t-\n"


def task(folder: Path, **settings: object) -> JsonExtraction:
    (folder / "de.iob2").write_text(GERMAN, encoding="utf-8")
    (folder / "ru.iob2").write_text(RUSSIAN, encoding="utf-8")
    return JsonExtraction.model_validate(
        {"path": str(folder), "data_files": "{lang}.iob2", "train": ["de", "ru"], **settings}
    )


def test_entities_are_asked_for_and_answered_as_json(tmp_path: Path) -> None:
    item = task(tmp_path)
    german, russian = (next(iter(item.examples(cell, HOME))) for cell in item.cells)
    assert (german.item, german.given) == ("n01001-0001", "„Vereinigte Staaten“, schrieb Kori Schulman.")
    system, user = item.render(german)
    assert "PER, a person; ORG, " in system["content"]
    assert user == {"role": "user", "content": german.given}
    assert item.answer(german) == (
        '{"Results": [{"TypeName": "LOC", "Text": "Vereinigte Staaten"}, {"TypeName": "PER", "Text": "Kori Schulman"}]}'
    )
    assert item.parse(item.answer(german)) == german.gold
    assert item.answer(russian) == '{"Results": []}'  # OTH is no type that is asked for
    other = task(tmp_path, types={"OTH": "a name of another kind"})
    assert other.answer(russian) == '{"Results": [{"TypeName": "OTH", "Text": "молчал"}]}'
    assert other.parse(other.answer(russian)) == russian.gold


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ('{"Results": []}', ()),
        (' {"Results": [{"Text": "北京", "TypeName": "LOC", "Start": 0}]}\n', (Span("LOC", "北京"),)),
        ('"Results": [{"TypeName": "PER", "Text": "\\"A\\""}]', (Span("PER", '"A"'),)),
        ('{"Results": [{"TypeName": "PER"}]}', None),
        ('{"Results": [{"TypeName": "PER", "Text": null}]}', None),
        ('{"Results": ["A"]}', None),
        ('{"Results": {}}', None),
        ('[{"TypeName": "PER", "Text": "A"}]', None),
        ('{"Results": []} and more', None),
        ('{"Results": [', None),
        ("None", None),
        ("[" * 100_000, None),
    ],
)
def test_answers_are_read_or_refused(answer: str, spans: tuple[Span, ...] | None) -> None:
    assert JsonExtraction.model_validate({"path": ".", "train": ["de"]}).parse(answer) == spans


def test_the_wrong_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"de\.iob2, line 4: found label '-' in column 4. Allowed: O, B-type and I-type"
    ):
        list(task(tmp_path, column=4).examples("deu_Latn", HOME))
