"""Plug-ins of users: from a folder and from entry points, in other processes, in fingerprints, and their mistakes."""

import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from pipelines import registry
from pipelines.config import Recipe, read_recipe
from pipelines.errors import UserError
from pipelines.stages import clean, collect
from pipelines.storage import fingerprint
from pipelines.storage.store import Store
from tests.support.models import ROOT

EXAMPLE = ROOT / "examples" / "isogloss-example-plugins"
PACKAGE = EXAMPLE / "isogloss_example_plugins"
FILTER = """
import pyarrow as pa
from pipelines.filters import Filter
{imports}

class Loud(Filter):
    max: float | None = {bound}

    def score(self, batch, loaded=None):
        return pa.array([float(text.count("a")) for text in batch["src"].to_pylist()])
"""
RECIPE = """
plugins: ./mine
corpus:
  pairs: [en-de]
  sources: [sample: {{rows: 200}}]
  filters: [{filters}]
  dev_rows: 10
  engine: {engine}
eval: [{evals}]
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def write_recipe(folder: Path, filters: str = "loud", engine: str = "local", evals: str = "") -> Path:
    return write(folder / "recipe.yaml", RECIPE.format(filters=filters, engine=engine, evals=evals))


def write_filter(folder: Path, name: str = "loud", imports: str = "", bound: str = "4.0") -> Path:
    return write(folder / "mine" / "filters" / f"{name}.py", FILTER.format(imports=imports, bound=bound))


def run_python(code: str, *paths: Path) -> str:
    """What `code` prints in a fresh process, with `paths` on the module search path."""
    search = os.pathsep.join(map(str, (ROOT, *paths)))
    env = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stage_fingerprints(recipe: Recipe, store: Path) -> tuple[str, str]:
    """Those of `collect` and `clean`."""
    [pair] = recipe.corpus.pairs
    opened = Store.open(store, "mine")
    return collect.run(recipe, opened, pair).fingerprint, clean.run(recipe, opened, pair).fingerprint


def test_a_folder_is_relative_to_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_filter(tmp_path)
    recipe = write_recipe(tmp_path)
    monkeypatch.chdir("/")
    [item] = read_recipe(recipe).corpus.filters
    assert (item.name, item.max) == ("loud", 4.0)


def test_a_recipe_may_extend_one_with_plug_ins(tmp_path: Path) -> None:
    write_filter(tmp_path)
    write_recipe(tmp_path)
    top = write(tmp_path / "deep" / "top.yaml", "extends: ../recipe.yaml\ncorpus: {filters: [loud: {max: 2}]}\n")
    [item] = read_recipe(top).corpus.filters
    assert item.max == 2


def test_an_unknown_name_lists_the_plug_ins_of_the_folder(tmp_path: Path) -> None:
    write_filter(tmp_path)
    with pytest.raises(UserError, match=r"no filter 'luod'\. Did you mean 'loud'\?"):
        read_recipe(write_recipe(tmp_path, "luod"))


def test_a_built_in_name_cannot_be_shadowed(tmp_path: Path) -> None:
    write_filter(tmp_path, "lid")
    with pytest.raises(UserError) as error:
        read_recipe(write_recipe(tmp_path, "char_length"))
    assert str(tmp_path / "mine" / "filters" / "lid.py") in str(error.value)
    assert str(ROOT / "pipelines" / "filters" / "lid.py") in str(error.value)


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ("import no_such_module", r"loud\.py, line 4: found an import that fails: No module named 'no_such_module'"),
        ("from .._gone import x", r"loud\.py, line 4: found an import that fails: No module named .*_gone"),
        ("def broken(:", r"loud\.py, line 4: found a syntax error"),
    ],
)
def test_an_import_error_is_shown_as_what_it_is(tmp_path: Path, imports: str, message: str) -> None:
    write_filter(tmp_path, imports=imports)
    with pytest.raises(UserError, match=message):
        read_recipe(write_recipe(tmp_path))


@pytest.mark.parametrize(
    ("code", "error", "cause"),
    [
        ("1 / 0", ZeroDivisionError, None),
        ("raise ValueError('mine')", registry.PluginError, "mine"),
    ],
)
def test_a_bug_keeps_its_traceback(tmp_path: Path, code: str, error: type[Exception], cause: str | None) -> None:
    file = write_filter(tmp_path, imports=code)
    with pytest.raises(error) as caught:
        read_recipe(write_recipe(tmp_path))
    bug = caught.value if cause is None else caught.value.__cause__
    assert bug is not None
    assert cause is None or str(bug) == cause
    frame = bug.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    assert frame is not None
    assert (frame.tb_frame.f_code.co_filename, frame.tb_lineno) == (str(file), 4)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ("./missing", r"plugins\[0\]: .*missing does not exist"),
        ("./empty", r"plugins\[0\]: .*empty has none of the subfolders"),
        ("./recipe.yaml", r"plugins\[0\]: .*is not a folder"),
        ("{a: 1}", r"plugins: found .*Expected: the path of a folder"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path: Path, plugins: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    recipe = write_recipe(tmp_path, "char_length")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("./mine", plugins), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_recipe(recipe)


def test_a_changed_file_changes_the_fingerprints_of_the_stages_that_use_it(tmp_path: Path) -> None:
    prints = {}
    for case, helper, unused in (("a", "X = 1", "1"), ("copy", "X = 1", "1"), ("b", "X = 2", "1"), ("c", "X = 1", "2")):
        folder = tmp_path / case  # a file that is imported already is not read again: each case has its folder
        write_filter(folder, imports="from .._helper import X")
        write_filter(folder, "unused", bound=unused)
        write(folder / "mine" / "_helper.py", helper)
        prints[case] = stage_fingerprints(read_recipe(write_recipe(folder)), folder / "store")
    assert prints["copy"] == prints["a"], "the path of the folder decides nothing"
    assert prints["c"] == prints["a"], "a plug-in that the recipe does not name decides nothing"
    assert prints["b"][0] == prints["a"][0], "collect uses no filter"
    assert prints["b"][1] != prints["a"][1], "a helper that the filter imports counts"


def test_ray_and_threads_give_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra isogloss[ray] is not installed")
    monkeypatch.setitem(os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    write_filter(tmp_path)
    shards = []
    for engine in ("local", "ray"):
        recipe, store = read_recipe(write_recipe(tmp_path, engine=engine)), Store.open(tmp_path / engine, "mine")
        collect.run(recipe, store, recipe.corpus.pairs[0])
        shards.append(clean.run(recipe, store, recipe.corpus.pairs[0]).files)
    importlib.import_module("ray").shutdown()
    assert shards[0]
    assert shards[0] == shards[1]


def test_a_pickled_recipe_is_read_in_a_fresh_process(tmp_path: Path) -> None:
    """As `compare --jobs` sends it: the other process has not imported the plug-ins."""
    shutil.copytree(PACKAGE, tmp_path / "mine")
    file = write_recipe(tmp_path, "shouting: {max: 0.25}", evals="endings")
    recipe = read_recipe(file)
    (tmp_path / "recipe.pickle").write_bytes(pickle.dumps(recipe))
    code = f"""
import json, pickle
recipe = pickle.load(open({str(tmp_path / "recipe.pickle")!r}, "rb"))
print(json.dumps([recipe.corpus.filters[0].settings(), recipe.eval[0].name]))
"""
    assert json.loads(run_python(code)) == [recipe.corpus.filters[0].settings(), "endings"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder like one of installed packages, with the example package and the metadata that an install writes."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    info = site / f"{PACKAGE.name}-{project['version']}.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    write(info / "entry_points.txt", "\n".join(points))
    return site


def test_the_example_package_aligns_as_an_installed_package(tmp_path: Path, installed: Path) -> None:
    """Corpus, training and evaluation, each in its process, with the filter, source, objective and eval."""
    store, recipe = tmp_path / "store", EXAMPLE / "recipe.yaml"
    for program, *step in (("pipelines",), ("alignment_train", "all")):
        run_python(
            f"import sys, runpy\nsys.argv = {[program, *step, str(recipe), '--store', str(store)]!r}\n"
            f"runpy.run_module({program!r}, run_name='__main__')",
            installed,
        )
    [metrics] = store.rglob("metrics.json")
    assert "endings/deu_Latn/accuracy" in metrics.read_text(encoding="utf-8")
    logs = [file.read_text(encoding="utf-8").splitlines()[0] for file in store.rglob("log.jsonl")]
    assert any("parallel_line" in json.loads(line).get("loss", {}) for line in logs)


def test_dagster_shows_the_graph_of_a_recipe_with_plug_ins(installed: Path) -> None:
    code = f"""
from assets.corpus import corpus_assets
from assets.training import training_assets
from pipelines.config import read_recipe
recipe = read_recipe({str(EXAMPLE / "recipe.yaml")!r})
print(len([*corpus_assets(recipe), *training_assets(recipe)]))
"""
    assert int(run_python(code, installed)) > 5


def test_two_origins_of_one_name_are_refused(tmp_path: Path, installed: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "mine")
    code = f"""
from pipelines.config import read_recipe
from pipelines.errors import UserError
try:
    read_recipe({str(write_recipe(tmp_path, "shouting"))!r})
except UserError as error:
    print(error)
"""
    message = run_python(code, installed)
    assert "found the filter 'shouting' more than once" in message
    assert "package isogloss-example-plugins" in message
    assert str(tmp_path / "mine") in message


def test_the_tests_of_the_example_package_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-c", str(EXAMPLE / "pyproject.toml"), str(EXAMPLE / "tests")],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_s_modules_are_fingerprinted_without_its_path(tmp_path: Path) -> None:
    write_filter(tmp_path)
    [item] = read_recipe(write_recipe(tmp_path)).corpus.filters
    names = fingerprint.source_hashes(fingerprint.plugin_modules(item))
    assert "plugins.filters.loud" in names
    assert not any(name.startswith(registry.FOLDER_PACKAGE) for name in names)
