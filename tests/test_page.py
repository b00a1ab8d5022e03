import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import statistics
from pipelines.report import evaluation, evaluation_data, page
from pipelines.results.comparison import compared, language_groups
from pipelines.results.contamination import Overlap
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.fake_metrics import DE, HOSTILE, SW, fabricate, figures, recipe, result, scored

RECIPE = recipe()
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th") and self.cells is not None:
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
            if {"td", "th"} & set(self.open):
                self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The cells of the first row with this head, each without the spaces around."""
        rows = ([" ".join(cell.split()) for cell in cells] for cells in self.cells)
        return next(row for row in rows if row[0] == first)

    def long_row(self, first: str) -> list[str]:
        """The row with this head that has most cells."""
        return max((cells for cells in self.cells if cells[0] == first), key=len)


def metrics(control: bool = True) -> dict:
    english = {"eng_Latn": (5.0, 0.05), "swh_Latn": (6.0, 0.05)}
    out = {
        "base": figures({DE: 0.10, SW: 0.06}, english),
        "aligned": figures({DE: 0.40, SW: 0.02}, {**english, "eng_Latn": (5.5, 0.05)}),
        "chance": {f"retrieval/{pair}/recall@1": 1 / 300 for pair in (DE, SW)},
        "trained_layer": 2,
    }
    return out | ({"control": figures({DE: 0.11, SW: 0.10}, english)} if control else {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fabricate(tmp_path_factory.mktemp("page") / "store", RECIPE)


@pytest.fixture(scope="module")
def text(store: Store) -> str:
    return evaluation.render(RECIPE, store, result(metrics()), (61.0, 1 << 30))


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_the_page_opens_with_the_verdict_and_the_base_model(read: Reader):
    assert "Ruined English: better at finding translations, worse at English" in read.text
    assert "worse in 1 of 2 pairs: English\u00a0– Swahili" in read.text
    assert "a seed model (7.9M parameters, trained here from nothing on 1,000 pairs)" in read.text
    assert read.text.index("better at finding") < read.text.index("Recall@1 by layer")


def test_the_page_is_the_same_twice(store: Store, text: str):
    assert evaluation.render(RECIPE, store, result(metrics()), (61.0, 1 << 30)) == text


def test_the_page_loads_nothing_and_runs_only_the_sorting_script(text: str, read: Reader):
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"img", "iframe", "link", "object", "form", "video"}
    assert text.count("<script") == text.count(f"<script>{page.script()}</script>") == 1
    allowed = base64.b64encode(hashlib.sha256(page.script().encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'\">" in text
    assert not re.search(r"fetch|import|http|eval|innerHTML", page.script())
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            link = attributes.get(name) or "#"
            assert link.startswith("#") or (tag == "a" and link.startswith("https://example.org/"))
    assert "url(http" not in text
    assert "default-src 'none'" in text


def test_hostile_text_is_escaped(text: str, read: Reader):
    assert HOSTILE not in text
    assert "<img" not in text
    assert f"{HOSTILE} lid \ufffd" in read.text
    assert "'\"><img src=x onerror=alert(1)>" in read.text
    assert f"CC-BY 4.0 {HOSTILE}" in read.text
    assert 'href="javascript' not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)


def test_texts_carry_their_language_and_direction(read: Reader):
    found = {
        (attributes["lang"], attributes["dir"]) for tag, attributes in read.tags if tag == "td" and "dir" in attributes
    }
    assert {("de-Latn", "auto"), ("en-Latn", "auto"), ("sw-Latn", "auto")} <= found


def test_models_stand_side_by_side_with_chance_and_change(read: Reader):
    assert read.row("Pair") == [
        "Pair", "Base", "Control", "Aligned", "Chance", "Changealigned vs control, points", "Result",
    ]  # fmt: skip
    assert read.row("German – English") == [
        "German – English", "10.0 7.0 to 13.0", "11.0 8.0 to 14.0", "40.0 37.0 to 43.0", "0.33", "+29.0 +24.8 to +33.2",
        "better",
    ]  # fmt: skip
    assert read.row("English – Swahili")[-2:] == ["−8.0 −12.2 to −3.8", "worse"]
    assert read.row("Mean")[-2:] == ["+10.5 +6.3 to +14.7", "better"]
    assert read.row("English")[1:4] == ["5.00 4.95 to 5.05", "5.00 4.95 to 5.05", "5.50 5.45 to 5.55"]
    assert read.row("English")[4:] == ["+10.0 +8.6 to +11.4", "worse"]
    assert read.row("Swahili")[-1] == "no significant difference"
    assert "600 items each" in read.text


def paired() -> dict[str, Any]:
    """metrics.json as evaluation makes it, with benchmarks, a collapsed layer and eval texts in the mix."""
    rates = {"eng_Latn": (0.8, 0.7), "swh_Latn": (0.4, 0.4), "tha_Thai": (0.5, 0.6)}
    models = {
        name: {f"xcopa/{lang}/acc": scored(both[at], 200) for lang, both in rates.items()}
        | {f"retrieval/{SW}/recall@1": scored(0.1 + 0.2 * at, 200)}
        | {"representation/swh_Latn/effective_rank/layer=1": {"value": 30.0 - 28 * at}}
        | {"representation/swh_Latn/effective_rank": statistics.mean(np.arange(9) * (1 + at))}
        for at, name in enumerate(("base", "aligned"))
    }
    models["merged"] = models["aligned"]
    groups = language_groups(models["base"], {"swh_Latn": 5}, "eng_Latn")
    texts = {("eng_Latn", "text 0"): "exact", ("eng_Latn", f"{HOSTILE}"): "near", ("eng_Latn", "text 3"): ""}
    whole = compared(models, "eng_Latn", groups, Overlap(0.8, {"retrieval": texts}, {}))
    return {**models, **whole, "groups": groups, "pivot": "eng_Latn", "trained_layer": 1}


def test_paired_results_are_shown_with_groups_gaps_and_contamination(store: Store):
    text = evaluation.render(RECIPE, store, result(paired()), None, {"language_map": b"\x89PNG", "pairs": b"x"})
    read = Reader(text)
    assert read.text.index("Collapsed representation, contaminated mix: better") < read.text.index("By language group")
    assert next(attributes for tag, attributes in read.tags if tag == "ul")["aria-label"] == "Guards raised"
    head = read.cells[next(i for i, cells in enumerate(read.cells) if cells[0] == "Pair")]
    assert head[-3:] == ["p", "Detectable", "Result"]
    assert read.row("English – Swahili")[-3:] == ["< 0.01", "7.7", "better"]
    plain = next(cells for cells in read.cells if cells[0] == "Swahili" and cells[1].startswith("4.00"))
    assert [plain[i].split()[0] for i in (2, 3, -4)] == ["8.00", "8.00", "+4.00"]
    assert 1 < float(plain[-2]) < 4, "in directions, as the change is: no percent"
    rows = [cells[:3] for cells in read.cells if cells[0].startswith("Languages not seen in alignment")]
    assert rows == [["Languages not seen in alignmentThai", "XCOPA acc, %", "better"]]
    gaps = {cells[0]: cells for cells in read.cells if cells[1:2] == ["XCOPA acc"]}
    assert [gaps[name][-1] for name in ("Swahili", "Thai", "Mean")] == [
        "narrower, as English got worse", "narrower, as English got worse", "narrower, as English got worse",
    ]  # fmt: skip
    assert gaps["Swahili"][2].split()[0] == "50.0"
    assert read.row("retrieval") == ["retrieval", "3", "1", "1"]
    assert read.row("English – Swahili, recall@1")[1] == "1"
    assert HOSTILE not in text
    assert HOSTILE in read.text
    images = [attributes for tag, attributes in read.tags if tag == "img"]
    assert [image["src"] for image in images] == ["data:image/png;base64,iVBORw==", "data:image/png;base64,eA=="]
    assert all(image["alt"] for image in images)


def translated() -> dict[str, Any]:
    """metrics.json with translation: in the first direction better, each figure with its signature, and generations."""
    way, back = "eng_Latn>arb_Arab", "arb_Arab>eng_Latn"
    models: dict[str, Any] = {
        name: {
            f"translation/{one}/{metric}": statistics.mean(values * factor)
            for one, values in ((way, np.arange(30, 60)), (back, np.full(30, 20 + at)))
            for metric, factor in (("chrF", 1 + at), ("in_language", 0.01))
        }
        for at, name in enumerate(("base", "aligned"))
    }
    copied = {"copy": {f"translation/{one}/chrF": {"value": 4.25} for one in (way, back)}}
    signed = {f"translation/{one}/chrF": "nrefs:1|tok:x" for one in (way, back)}
    signed |= {f"translation/{way}/in_language": "one", f"translation/{back}/in_language": "two"}
    wrote = {"prompt": HOSTILE, "reference": "صباح الخير", "base": "", "aligned": "مساء الخير\x00"}
    return {
        **models, **copied, **compared(models, "eng_Latn", {}), "signatures": signed,
        "samples": {f"translation/{way}": [wrote, {**wrote, "prompt": "Good"}], "json_extraction/swh_Latn": [wrote]},
    }  # fmt: skip


def test_scores_of_directions_stand_as_they_are_with_signature_and_the_copied_source(store: Store):
    read = Reader(evaluation.render(RECIPE, store, result(translated())))
    row = read.row("English → Arabic")
    assert [cell.split()[0] for cell in row[1:5]] == ["44.5", "89.0", "4.2", "+44.5"]
    assert row[-1] == "better"
    heads = [cells for cells in read.cells if cells[0] == "Direction"]
    assert [cells[3] for cells in heads] == ["Source copied", "Changealigned vs base, points"]
    assert "Translating: chrF" in read.text
    assert "In points of 100, with 95 % intervals; 30 items each" in read.text
    assert read.text.count("nrefs:1|tok:x") == 1, "alike in both directions: said once"
    assert "one (English\u00a0→ Arabic)" in read.text


def test_generations_stand_side_by_side_with_language_and_direction_of_writing(store: Store):
    text = evaluation.render(RECIPE, store, result(translated()))
    read = Reader(text)
    rows = [
        cells for cells in read.cells if cells and cells[0] in ("Prompt", "Reference", "Base", "Control", "Aligned")
    ]
    assert rows[:4] == [["Prompt", HOSTILE], ["Reference", "صباح الخير"], ["Base", "(nothing)"],
                        ["Aligned", "مساء الخير\ufffd"]]  # fmt: skip
    assert len([cells for cells in rows if cells[0] == "Prompt" and len(cells) == 2]) == 3
    assert HOSTILE not in text
    cells = [attributes for tag, attributes in read.tags if tag == "td" and "dir" in attributes]
    assert {"lang": "ar-Arab", "dir": "auto"} in cells
    assert {"lang": "en-Latn", "dir": "auto"} in cells
    assert "Translation: English\u00a0→ Arabic" in read.text
    assert "Json extraction: Swahili" in read.text
    assert next(attributes for tag, attributes in read.tags if tag == "a" and attributes.get("href") == "#generated")
    captions = [tag for tag, _ in read.tags if tag == "caption"]
    assert len(captions) == len([tag for tag, _ in read.tags if tag == "table"])


def test_rows_are_followed_from_source_to_mix(read: Reader):
    place = next(i for i, cells in enumerate(read.cells) if "Collected" in cells)
    assert read.cells[place] == [
        "Pair", "Collected", "Clean", "Deduplicated", "Decontaminated", "Instructions", "In the mix: bitext",
        "In the mix: instructions", "In the mix: dev",
    ]  # fmt: skip
    assert read.cells[place + 1 : place + 4] == [
        ["German\u00a0– English", "800", "560", "520", "500", "80", "80", "40", "5"],
        ["English\u00a0– Swahili", "1,600", "1,360", "1,320", "1,300", "80", "80", "40", "5"],
        ["All", "2,400", "1,920", "1,840", "1,800", "160", "160", "80", "10"],
    ]


def test_the_ledger_closes_by_step_and_by_corpus(read: Reader):
    assert read.row("char_length") == ["char_length", "clean_bitext", "2,400", "160", "6.67", "2,240", "0"]
    assert read.row("evaluation_overlap")[2:] == ["1,840", "40", "2.17", "1,800", "0"]
    assert read.long_row("planted/v1") == ["planted/v1", "1,800", "120", "120", "120", "60", "30", "1,350", "0"]


def test_sources_name_licence_use_and_origin(read: Reader):
    assert read.row("heldout/v1") == [
        "heldout/v1", "evaluation", "CC0-1.0", "A. Author & B. Author (2026) https://example.org/?a=1&b=2",
    ]  # fmt: skip
    assert [cells[1:3] for cells in read.cells if cells[0] == "evil/v2"][-1] == ["training", "not stated"]


def test_time_and_memory_are_shown_for_each_stage_and_for_evaluation(read: Reader):
    assert read.row("raw_bitext")[:3] == ["raw_bitext", "25 s", "300.0 MiB"]
    assert read.row("evaluation") == ["evaluation", "1:01", "1.0 GiB", "–"]


def test_recipe_versions_and_fingerprints_are_there(read: Reader):
    assert "name: planted" in read.text
    assert "language_alpha: 0.3" in read.text
    assert re.search(r"torch \d+\.", read.text)
    assert ["clean_bitext", DE, f"clean_bitext {DE}"] in [cells[:3] for cells in read.cells]


def test_tables_can_be_read_by_a_screen_reader(read: Reader):
    heads = [attributes for tag, attributes in read.tags if tag == "th"]
    assert {attributes.get("scope") for attributes in heads} == {"row", "col"}
    assert len([tag for tag, _ in read.tags if tag == "table"]) == len(
        [tag for tag, _ in read.tags if tag == "caption"]
    )
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.tags:
        target = attributes.get("aria-labelledby") or (attributes.get("href") or "").partition("#")[2]
        assert not target or "/" in target or target in ids
    pictures = [attributes for _, attributes in read.tags if attributes.get("role") == "img"]
    assert len(pictures) == 2
    assert all("chart" in (attributes["aria-label"] or "") for attributes in pictures)
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_without_control_base_is_the_reference(tmp_path: Path):
    read = Reader(
        evaluation.render(RECIPE, fabricate(tmp_path / "store", RECIPE, control=False), result(metrics(control=False)))
    )
    assert "ontrol" not in read.text.partition("Recipe and versions")[0]
    assert read.row("German – English")[-2:] == ["+30.0 +25.8 to +34.2", "better"]


def test_a_hub_model_is_named():
    manifest = Manifest(asset="base_model", fingerprint="", numbers={"base": "hub: org/model at 1234"})
    assert evaluation_data.base_sentence(manifest) == "The base is org/model at 1234 (hub)."
    assert evaluation_data.base_sentence(None) == "The base is not recorded."


def test_without_evals_the_page_still_shows_the_data(store: Store):
    read = Reader(evaluation.render(RECIPE, store, result({"base": {}, "control": {}, "aligned": {}, "chance": {}})))
    assert "Nothing to compare" in read.text
    assert "Dropped rows" in read.text
