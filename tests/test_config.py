import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import CHECKS, RECIPES, Recipe, find, lineage, read_recipe
from pipelines.errors import UserError, printable
from pipelines.storage.fingerprint import compute_fingerprint

CORPUS = "corpus:\n  pairs: [en-de, en-fr]\n  sources: [{sample: {}}]\n"


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ValueError, match=".") as error:
        read_recipe(written(folder, text))
    return str(error.value)


def test_a_recipe_lists_only_its_choices_and_is_named_by_its_file(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, CORPUS))
    assert recipe.name == "mine"
    assert [str(pair) for pair in recipe.corpus.pairs] == ["deu_Latn-eng_Latn", "eng_Latn-fra_Latn"]
    assert (recipe.corpus.budget.rows, recipe.corpus.budget.language_alpha) == (900_000, 0.3)
    assert (recipe.corpus.dev_rows, recipe.corpus.allow_empty, recipe.seed) == (500, False, 0)
    assert recipe.corpus.pivot == "eng_Latn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CORPUS + "corpsu: {}\n", r"unknown section 'corpsu'. Expected: extends, plugins, seed, corpus, train, eval"),
        (CORPUS + "  dev_rosw: 1\n", r"corpus.dev_rosw: unknown key. Did you mean 'dev_rows'?"),
        (CORPUS + "  budget: {rows: 1_000_000}\n", r"corpus.budget.rows: found 1,000,000. Expected: fewer than"),
        (CORPUS + "  budget: {shares: {bitext: 0.7, translate: 0.7}}\n", "sum 1.4. Expected: shares of at least 0"),
        (CORPUS + "  budget: {shares: {nonsense: 0.7}}\n", "corpus.budget.shares: found nonsense. Expected: bitext."),
        (CORPUS + "  budget: {language_alpha: 2}\n", "corpus.budget.language_alpha: found 2. Expected: at most 1"),
        (
            CORPUS + "  filters: [script, script]\n",
            "corpus.filters: found script twice. Expected: each once. Fix: remove one.",
        ),
        (CORPUS + "  filters: [lenght_ratio]\n", "corpus.filters[0]: no filter 'lenght_ratio'. Did you mean 'length_r"),
        (CORPUS + "  instructions: [translate, translate]\n", "corpus.instructions: found translate twice"),
        (CORPUS + "  pairs: [en-de]\n", "key 'pairs' is given twice or is no plain text. Keep one."),
        (CORPUS.replace("en-fr", "en-en"), "corpus.pairs[1]: pair 'en-en': both sides are eng_Latn."),
        (CORPUS.replace("en-fr", "de-en"), "corpus.pairs: found deu_Latn-eng_Latn twice. Expected: each pair once."),
        (CORPUS.replace("en-fr", "en-qqq"), "corpus.pairs[1]: language 'qqq': not a known language."),
        (CORPUS.replace("en-fr", "en-ja"), "corpus.sources[0].sample: pair eng_Latn-jpn_Jpan: no language 'jpn_Jpan'."),
        (
            CORPUS + "eval: [{retrieval: {}}]\n",
            "eval[0].retrieval.source: missing. Expected: a value. Fix: add this key.",
        ),
        ("corpus: {pairs: []}\n", "corpus.sources: missing. Expected: a value. Fix: add this key."),
        ("train: {}\n", "corpus: missing. Expected: a value. Fix: add this key."),
        ("- 1\n", "found list. Expected: extends, plugins, seed, corpus"),
        ("corpus: [\n", "not readable as YAML"),
        (CORPUS + "seed: -1\n", "seed: found -1. Expected: at least 0. Fix: change the value."),
        ("extends: nowhere.yaml\n", "recipe nowhere.yaml: no such file. Expected: a path, or one of"),
        ("extends: mine.yaml\n", "extends itself. Expected: a chain that ends."),
        ("extends: [sample.yaml]\n", "mine.yaml, extends: found ['sample.yaml']. Expected: the path of one recipe"),
        ("extends: {a: 1}\n", "extends: found {'a': 1}. Expected: the path of one recipe"),
        ("extends: 5\n", "extends: found 5. Expected"),
        ("extends: true\n", "extends: found True. Expected"),
        ("extends:\n" + CORPUS, "extends: found None. Expected"),
        ("extends: ''\n" + CORPUS, "extends: found ''. Expected"),
        ("extends: []\n" + CORPUS, "extends: found []. Expected"),
        ("extends: no/such/sample.yaml\n", "recipe no/such/sample.yaml: no such file. Expected: a path, or one of"),
        ('extends: "a\\0b"\n', "no such file"),
        ("", "found nothing. Expected: extends, plugins"),
        ("corpus: []\n", "corpus: found []. Expected: a mapping"),
        ("corpus: 2021-08-07\n", "corpus: found '2021-08-07'. Expected: a mapping"),
        (CORPUS + "train: [1]\n", "train: found [1]. Expected: a mapping"),
        (CORPUS + "seed: 1e999\n", "line 4, column 7: not readable as YAML: found 1e999"),
        (
            CORPUS + "  budget: {language_alpha: 'nan'}\n",
            "corpus.budget.language_alpha: found 'nan'. Expected: a finite number",
        ),
        (
            CORPUS + "  budget: {language_alpha: 'inf'}\n",
            "corpus.budget.language_alpha: found 'inf'. Expected: a finite number",
        ),
        (CORPUS + f"  engine: {'x' * 5000}\n", "corpus.engine: found 'xxx"),
        (CORPUS + f"{'x' * 900}: 1\n", "unknown section 'xxx"),
        (CORPUS + "train: {steps: -1}\n", "train.steps: found -1. Expected: more than 0. Fix: change the value."),
        (CORPUS + "train: {objectives: [contrastive], stepz: 5}\n", "train.stepz: unknown key. Did you mean 'steps'?"),
        (CORPUS + "train: {objectives: [task]}\n", "train.objectives.task: found no tasks in the corpus."),
        (
            CORPUS + "train: {objectives: [contrastive], optimiser: {learning_rate: 'inf'}}\n",
            "learning_rate: found 'inf'",
        ),
        (CORPUS + "eval: [{lss: {}}]\n", "eval[0]: no eval 'lss'. Did you mean 'loss'?"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    found = refusal(tmp_path, text)
    assert message in found
    assert found == printable(found)
    assert max(map(len, found.splitlines())) < 700


def test_all_mistakes_are_shown_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, CORPUS.replace("en-fr", "en-qqq") + "  filters: [nope]\n  dev_rows: x\n").splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "corpus.pairs[1]",
        "corpus.filters[0]",
        "corpus.dev_rows",
    ]


def test_a_variation_says_only_what_differs(tmp_path: Path) -> None:
    written(
        tmp_path, CORPUS + "  budget: {rows: 500, language_alpha: 0.7}\n  filters: [script]\nseed: 3\n", "base.yaml"
    )
    text = "extends: base.yaml\ncorpus:\n  pairs: [en-sw]\n  budget: {rows: 400}\n"
    recipe = read_recipe(written(tmp_path, text))
    assert recipe.name == "mine"
    assert [str(pair) for pair in recipe.corpus.pairs] == ["eng_Latn-swh_Latn"]
    assert (recipe.corpus.budget.rows, recipe.corpus.budget.language_alpha, recipe.seed) == (400, 0.7, 3)
    assert [item.name for item in recipe.corpus.filters] == ["script"]


def test_a_variation_of_a_built_in_recipe_needs_no_path(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "extends: sample.yaml\nseed: 7\n"))
    assert recipe.seed == 7
    assert recipe.corpus == read_recipe("sample").corpus


def test_yaml_reads_no_as_a_text_and_exponents_as_numbers(tmp_path: Path) -> None:
    source = "{opus: {corpora: [Tatoeba/v2023-04-12]}}"
    text = f"corpus:\n  pairs: [[no, en]]\n  sources: [{source}]\n  budget: {{language_alpha: 5e-1}}\n"
    recipe = read_recipe(written(tmp_path, text))
    assert [str(pair) for pair in recipe.corpus.pairs] == ["eng_Latn-nob_Latn"]
    assert recipe.corpus.budget.language_alpha == 0.5


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_recipe_is_sound_and_its_resolved_form_reads_back(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in ("eng_Latn", "deu_Latn"):  # gemma.yaml asks of these files
        file = tmp_path / "eval" / "flores200" / f"{code}.devtest.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("One.\n")
    recipe = read_recipe(path.name)
    assert find(path.stem) == path
    resolved: dict[str, Any] = recipe.resolved()
    again = Recipe.model_validate(resolved)
    assert again == recipe
    assert again.resolved() == resolved


def test_a_built_in_recipe_is_found_by_its_bare_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("opus") == find("opus.yaml") == find(Path("opus.yaml")) == RECIPES / "opus.yaml"
    for path in ("no/such/dir/opus.yaml", "./opus.yaml", "../opus", "/opus.yaml", "opus/", str(tmp_path / "opus.yaml")):
        with pytest.raises(UserError, match="no such file. Expected: a path, or one of"):
            read_recipe(path)
    (tmp_path / "opus").mkdir()
    assert find("opus") == RECIPES / "opus.yaml"
    with pytest.raises(UserError, match=r"^recipe ./opus: a folder\. Expected: a path"):
        find("./opus")
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(UserError, match=r"^recipe gone.yaml: a symbolic link that points to nothing\."):
        find("gone.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"^recipe pipe.yaml: no regular file\."):
        find("pipe.yaml")


def test_a_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    written(tmp_path, CORPUS, "0.yaml")
    for i in range(1, 40):
        written(tmp_path, f"extends: {i - 1}.yaml\nseed: {i}\n", f"{i}.yaml")
    assert read_recipe(tmp_path / "16.yaml").seed == 16
    assert len(lineage(tmp_path / "16.yaml")) == 17
    for path in ("17.yaml", "39.yaml"):
        with pytest.raises(UserError, match="extended through more than 16 recipes. Expected: a shorter chain."):
            read_recipe(tmp_path / path)


def test_a_thousand_mistakes_are_not_all_shown(tmp_path: Path) -> None:
    lines = refusal(tmp_path, CORPUS + "".join(f"  key{i}: 1\n" for i in range(1000))).splitlines()
    assert len(lines) == 32
    assert lines[-1] == "  and 970 more mistakes"


def test_secrets_in_addresses_are_in_nothing_that_is_written(tmp_path: Path) -> None:
    recipes = []
    for path in ("s3://key:one@bucket/x.tsv?token=a", "s3://key:two@bucket/x.tsv?token=b"):
        source = f"{{table: {{corpus: C, paths: ['{path}'], columns: {{en: a, de: b}}}}}}"
        recipes.append(read_recipe(written(tmp_path, f"corpus: {{pairs: [en-de], sources: [{source}]}}\n")))
    resolved = [json.dumps(recipe.resolved()) for recipe in recipes]
    assert resolved[0] == resolved[1]
    assert "s3://***@bucket/x.tsv?token=***" in resolved[0]
    prints = {
        compute_fingerprint("pipelines.stages.collect", {}, {}, plugins=recipe.corpus.sources) for recipe in recipes
    }
    assert len(prints) == 1
    assert [recipe.corpus.sources[0].paths for recipe in recipes] != [recipes[0].corpus.sources[0].paths] * 2


def test_the_train_section_is_checked_by_the_package_that_reads_it() -> None:
    """Where this fails, the package was installed before the entry point existed: install it again."""
    assert [(point.name, point.value) for point in entry_points(group=CHECKS)] == [
        ("train", "alignment_train.config:check")
    ]
