"""The boundary of the commands: what is shown as a sentence, and what keeps its traceback."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.config import read_recipe
from pipelines.errors import UserError, error_context, os_error_sentence, printable, run_command, with_batch_context
from pipelines.filters import Filter
from pipelines.runner import STAGES
from pipelines.stages import clean
from pipelines.storage.store import Store
from tests.support.models import ROOT


def raises(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (UserError("corpus.pairs: found nothing."), 1, "corpus.pairs: found nothing.\n"),
        (UserError("a\x1b[2Jb\u202ec\r"), 1, "a�[2Jb�c�\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x.arrow"), 1, "/x.arrow: No space left on device. Free"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), 1, "/data: Permission denied. Grant this user"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a", None, "b"), 1, "a -> b: No such file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 1, ": File name too long. Use a shorter path."),
        (shutil.Error([("a/x", "b/x", "[Errno 28] No space left: 'b/x'")]), 1, "a/x -> b/x: [Errno 28] No space"),
        (KeyboardInterrupt(), 130, "\nInterrupted. Finished work is kept; run the same command to continue.\n"),
    ],
)  # fmt: skip
def test_what_a_user_can_fix_is_one_message(
    error: BaseException, status: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raises(error)) == status
    assert shown in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Failed to parse string: 'x' as a scalar of type double"),
        pa.ArrowInvalid("Failed to parse string: 'x' as a scalar of type double"),
        json.JSONDecodeError("Expecting value", "x", 0),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("score"),
        OSError("an error of a library, which names no file and no number"),
    ],
)
def test_any_other_exception_is_a_bug_and_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run_command(raises(error))
    assert caught.value is error


def test_an_os_error_without_a_path_has_a_cause_and_a_cure() -> None:
    assert os_error_sentence(OSError(errno.EIO, "Input/output error")) == (
        "a file: Input/output error. The disk reports a fault: check it."
    )
    assert os_error_sentence(OSError(errno.ECHRNG, "Channel number out of range", "x")).endswith(
        "x: Channel number out of range. Check the path and the disk."
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("\x9b31m", "�31m"),
        ("a\u202eb\u2066c\u200f", "a�b�c�"),
        ("\ud800", "�"),
        ("नमस्ते \u200dह", "नमस्ते \u200dह"),  # a joiner is part of the text
    ],
)
def test_printable_replaces_what_a_terminal_obeys(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_context_is_a_note_and_not_another_exception() -> None:
    with pytest.raises(ZeroDivisionError) as caught, error_context("stage x"), error_context("filter 'y'"):
        _ = 1 / 0
    assert caught.value.__notes__ == ["filter 'y'", "stage x"]
    with pytest.raises(UserError) as plain, error_context("filter 'y'"):
        raise UserError("says enough")
    assert not hasattr(plain.value, "__notes__")


def test_a_batch_that_cannot_be_made_is_counted() -> None:
    def batches():
        yield 1
        yield 2
        raise KeyError("x")

    iterator = with_batch_context(batches(), "source 's', deu-eng")
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(KeyError) as caught:
        next(iterator)
    assert caught.value.__notes__ == ["source 's', deu-eng, batch 3"]
    assert list(with_batch_context([1, 2], "x")) == [1, 2]


class Broken(Filter):
    """Fails as a library would, in the batch that begins with a text."""

    at: str

    def score(self, batch: pa.RecordBatch, loaded: object = None) -> pa.Array:
        if batch["src"][0].as_py() == self.at:
            pc.cast(pa.array(["x"]), pa.float64())
        return pa.array([1.0] * batch.num_rows)


def test_a_crash_in_a_filter_names_filter_pair_and_batch_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(ROOT / "tests" / "data" / "tiny.yaml")
    store = Store.open(tmp_path, recipe.name)
    pair = recipe.corpus.pairs[0]
    next(stage for stage in STAGES if stage.asset == "raw_bitext").make(recipe, store, pair)
    broken = Broken(at=store.table("raw_bitext", pair)["src"][200].as_py())
    recipe = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"filters": [broken]})})
    monkeypatch.setattr(clean, "rebatch", lambda batches: (b.slice(i, 200) for b in batches for i in (0, 200, 400)))
    with pytest.raises(pa.ArrowInvalid, match="Failed to parse string: 'x'") as caught:
        clean.run(recipe, store, pair)
    assert caught.value.__notes__ == ["filter 'test_errors'", "clean_bitext of deu_Latn-eng_Latn, batch 2"]


SLEEPER = """
import sys, time
from pipelines.errors import run_command
def work():
    print("ready", flush=True)
    time.sleep(60)
sys.exit(run_command(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "\nInterrupted. Finished work is kept; run the same command to continue.\n"
