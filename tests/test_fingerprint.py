"""Fingerprints hold all code that decides a dataset, and nothing else."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipelines.filters.length_ratio import LengthRatio
from pipelines.registry import build
from pipelines.storage import fingerprint as fp
from tests.support.models import ROOT

PACKAGE = {
    "__init__": "",
    "root": """
        import json
        from typing import TYPE_CHECKING
        import isogloss_fake.plain
        from isogloss_fake import sibling
        from isogloss_fake.inner import thing
        from . import relative
        from .deep.module import function
        if TYPE_CHECKING:
            from isogloss_fake import types_only
        def f():
            from isogloss_fake import lazy
    """,
    "plain": "from isogloss_fake.through import x",
    "through": "import isogloss_fake.plain",  # a cycle ends
    "sibling": "",
    "inner/__init__": "from isogloss_fake.inner.hidden import thing",
    "inner/hidden": "thing = 1",
    "relative": "",
    "deep/__init__": "",
    "deep/module": "from ..up import y",
    "up": "y = 1",
    "types_only": "",
    "lazy": "",
    "unused": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in PACKAGE.items():
        file = tmp_path / "isogloss_fake" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    fp._parse_module.cache_clear()
    fp._source_file.cache_clear()
    return tmp_path / "isogloss_fake"


def test_a_closure_follows_every_import_but_those_for_types(package: Path) -> None:
    found = {name.removeprefix("isogloss_fake").removeprefix(".") for name in fp.closure(["isogloss_fake.root"])}
    everything = {name.replace("/", ".").removesuffix(".__init__").removesuffix("__init__") for name in PACKAGE}
    assert found == everything - {"types_only", "unused"}
    assert "isogloss_fake.root" not in sys.modules, "no module of it is run"


CODE = '''"""Doc."""
import os


class A:
    """Doc."""

    x = 1

    def f(self, a: int = 2) -> str:
        return "b"
'''


@pytest.mark.parametrize(
    ("edited", "same"),
    [
        (CODE.replace("Doc.", "Another text."), True),
        (CODE.replace('"""Doc."""\n', ""), True),
        (CODE.replace("import os", "# why\nimport os  # because"), True),
        (CODE.replace("def f(self, a: int = 2)", "def f(\n        self,\n        a: int = 2,\n    )"), True),
        (CODE.replace('"b"', "'b'"), True),
        (CODE.replace("x = 1", "x = 2"), False),
        (CODE.replace("x = 1", "x = True"), False),
        (CODE.replace("x = 1", "x = 1.0"), False),
        (CODE.replace("= 2)", "= 3)"), False),
        (CODE.replace('"b"', '"c"'), False),
        (CODE.replace("import os", "import sys"), False),
        (CODE.replace('"b"', 'b"b"'), False),
        (CODE.replace("def f(", "async def f("), False),
        (CODE + '\nTEXT = """Doc."""\n', False),
        (CODE.replace('return "b"', '"""no docstring, but the last of two"""\n        "b"'), False),
    ],
)
def test_formatting_comments_and_docstrings_do_not_count_and_all_else_does(
    package: Path, edited: str, same: bool
) -> None:
    def digest(code: str) -> str:
        (package / "root.py").write_text(code)
        fp._parse_module.cache_clear()
        return fp.source_hashes(["isogloss_fake.root"])["isogloss_fake.root"]

    assert (digest(CODE) == digest(edited)) is same


@pytest.mark.parametrize(
    ("made_by", "module"),
    [
        ("alignment_train.training.loop", "alignment_train.objectives"),  # Objective.count weighs micro-batches
        ("alignment_train.evaluation.evaluate", "pipelines.results.measures"),  # title() heads the report's tables
        ("pipelines.filters.lid", "pipelines.filters"),  # the base class drops the rows
        ("pipelines.sources.opus", "pipelines.sources._moses"),
        ("pipelines.stages.task_data", "pipelines.text.segments"),
    ],
)
def test_code_that_once_was_missed_counts(made_by: str, module: str) -> None:
    assert module in fp.closure([made_by])


def test_a_fingerprint_changes_with_a_module_that_is_imported_from_afar(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fp.compute_fingerprint("isogloss_fake.root", {}, {})
    assert before == fp.compute_fingerprint("isogloss_fake.root", {}, {})
    (package / "up.py").write_text("y = 2")
    fp._parse_module.cache_clear()
    assert before != fp.compute_fingerprint("isogloss_fake.root", {}, {})


def test_a_fingerprint_changes_with_all_that_decides_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(settings: object = 1, upstream: str = "a", plugin: LengthRatio | None = None) -> str:
        return fp.compute_fingerprint(
            "pipelines.stages.mix", settings, {"raw_bitext": upstream}, plugins=[plugin or LengthRatio()]
        )

    base = fingerprint()
    assert fingerprint() == base
    changed = {fingerprint(settings=2), fingerprint(upstream="b"), fingerprint(plugin=LengthRatio(max=2.0))}
    monkeypatch.setattr(fp, "installed", lambda name: "99")
    changed.add(fingerprint())
    monkeypatch.setattr(fp, "source_hashes", lambda modules: dict.fromkeys(modules, "edited"))
    changed.add(fingerprint())
    assert len(changed | {base}) == 6


def test_a_fingerprint_covers_the_source_within_an_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(split: dict) -> str:
        return fp.compute_fingerprint(
            "pipelines.stages.mix", 0, {}, plugins=[build("pipelines.evals", {"loss": {"source": split}})]
        )

    heldout = {"sample": {"split": "heldout"}}
    assert fingerprint(heldout) != fingerprint({"sample": {}})
    hashed: list[str] = []
    monkeypatch.setattr(fp, "source_hashes", lambda modules: hashed.extend(modules) or {})
    fingerprint(heldout)
    assert {"pipelines.evals.loss", "pipelines.sources.sample", "pipelines.sample_grammar.deu_Latn"} <= set(hashed)


def commit_of(installed: Path) -> str:
    code = "from pipelines.storage.provenance import commit; print(commit())"
    run = subprocess.run([sys.executable, "-c", code], cwd=installed, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_the_commit_is_this_project_s_and_not_that_of_a_repository_around_it(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        run = subprocess.run(["git", *identity, *args], cwd=tmp_path, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    site = tmp_path / "env" / "site-packages"
    shutil.copytree(ROOT / "pipelines", site / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    assert commit_of(site) == "", "outside any repository"
    git("init", "-q")
    (tmp_path / "other.txt").write_text("a project of somebody else")
    git("add", "other.txt")
    git("commit", "-qm", "theirs")
    assert commit_of(site) == "", "within another repository"
    git("add", "-f", "env")
    git("commit", "-qm", "vendored")
    assert commit_of(site) == "", "even where that has taken the files in"
    shutil.copytree(site / "pipelines", tmp_path / "pipelines")
    git("add", "pipelines")
    git("commit", "-qm", "ours")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "pipelines" / "schema.py").write_text("")
    assert commit_of(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_modules_that_decide_nothing_are_there() -> None:
    assert all(fp._source_file(name) for name in fp.NEUTRAL)


def test_training_depends_on_no_report_and_no_eval() -> None:
    assert not [
        name
        for name in fp.closure(["alignment_train.training.loop", "alignment_train.objectives.contrastive"])
        if name.startswith(
            (
                "pipelines.evals",
                "pipelines.report.evaluation",
                "pipelines.report.plots",
                "alignment_train.evaluation.lm",
            )
        )
    ]


RUN = """
import json, sys, threading
from pathlib import Path

root, recipe_file, store_folder, *opaque = sys.argv[1:]
called, seen = set(), set()

def module(file, root=root):
    return file[len(root):].removesuffix(".py").removesuffix("/__init__").replace("/", ".")

def profile(frame, event, argument, root=root, opaque=frozenset(opaque), module=module, seen=seen):
    code = frame.f_code
    if event != "call" or code in seen or not code.co_flags & 1 or not code.co_filename.startswith(root):
        return  # 1: of a function; not of a class or module, whose code runs when it is imported
    above = frame
    while above:  # what a module that decides nothing calls, it calls for itself: a language's name, to show it
        if above.f_code.co_filename.startswith(root) and module(above.f_code.co_filename) in opaque:
            return
        above = above.f_back
    seen.add(code)
    called.add(module(code.co_filename))

from alignment_train.evaluation.evaluate import run as evaluate
from alignment_train.trainer import Trainer
from pipelines import runner
from pipelines.config import read_recipe
from pipelines.storage import fingerprint
from pipelines.storage.store import Store

recorded, hashes = set(), fingerprint.source_hashes
def record(modules):
    found = hashes(modules)
    recorded.update(found)
    return found
fingerprint.source_hashes = record

recipe = read_recipe(recipe_file)
store = Store.open(store_folder, recipe.name)
trainer = Trainer(recipe, store, "cpu")
pair = recipe.corpus.pairs[0]
steps = {s.asset: (lambda s=s: [s.make(recipe, store, p) for p in (recipe.corpus.pairs if s.per_pair else [None])])
         for s in runner.needed(recipe)}
steps |= {"base_model": trainer.base, "layer_probe": trainer.probe, "control_model": trainer.control,
          "align_model": trainer.align, "evaluation": lambda: evaluate(recipe, store, trainer.models())}
out = {}
for name, make in steps.items():
    called.clear(); seen.clear(); recorded.clear()
    threading.setprofile(profile); sys.setprofile(profile)
    make()
    sys.setprofile(None); threading.setprofile(None)
    out[name] = [sorted(called), sorted(recorded)]
print(json.dumps(out))
"""

RECIPE = """
extends: {tiny}
corpus:
  filters: [char_length, script, identical, markup, number_mismatch, translation_score]
  tasks: [{{sample_slots: {{rows: 200, train: [en]}}}}]
train:
  objectives:
    - contrastive: {{rows: 16, layer: auto}}
    - language_model: {{rows: 16}}
    - instruction: {{rows: 8}}
    - task: {{rows: 4}}
  steps: 6
eval:
  - retrieval: {{rows: 40, source: {{sample: {{split: heldout}}}}}}
  - loss: {{rows: 40, source: {{sample: {{split: heldout}}}}}}
  - transfer: {{task: sample_slots, test: {{split: heldout}}, max_new_tokens: 16}}
"""


CALL_OTHERS = {"alignment_train.comparison.cells", "alignment_train.trainer", "pipelines.engine", "pipelines.runner"}
"""Modules that decide nothing themselves and call what does."""


BY_VALUE = [
    ("training_mix", "pipelines.tasks.sample_slots"),  # `Task.cells`, which are in the settings
    ("base_model", "pipelines.languages"),  # names of pairs, as inputs are called
    ("layer_probe", "alignment_train.training.distributed"),  # whose turn it is
]
"""(asset, module) of calls whose results the fingerprint holds, or that have none."""


@pytest.mark.slow
def test_all_code_that_runs_while_a_dataset_is_made_is_in_its_fingerprint(tmp_path: Path) -> None:
    recipe = tmp_path / "coverage.yaml"
    recipe.write_text(RECIPE.format(tiny=ROOT / "tests" / "data" / "tiny.yaml"))
    opaque = fp.NEUTRAL - CALL_OTHERS
    run = subprocess.run(
        [sys.executable, "-c", RUN, f"{ROOT}/", str(recipe), str(tmp_path / "store"), *opaque],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    missing = {
        asset: sorted({name for name in ran if name.partition(".")[0] in fp.PROJECT} - set(hashed) - fp.NEUTRAL)
        for asset, (ran, hashed) in json.loads(run.stdout).items()
    }
    for asset, name in BY_VALUE:
        missing[asset].remove(name)
    assert missing == {asset: [] for asset in missing}
