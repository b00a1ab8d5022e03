"""Faults of a disk in a process of its own: a kill, a power failure, a full or read-only disk, a size limit.

`run` forks a process in which `os` and `open` count what is done below a folder and fail from a given point on. It
needs no preloaded library; what compiled code writes (safetensors, torch) is made to fail by RLIMIT_FSIZE.
"""

import builtins
import errno
import io
import json
import multiprocessing
import os
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipelines import files
from pipelines.storage.store import Store

RECIPE = Path(__file__).parents[1] / "data" / "faults.yaml"
KILLED = 137
"""Exit status of a process that died at a fault."""

Kind = Literal["count", "kill", "power", "full", "read-only", "limit"]
"""`kill`: the process ends before a flush or a rename; `power`: what was not flushed is lost as well; `full`: from one
write on, all fail; `read-only`: all writes fail; `limit`: a file cannot grow beyond so many bytes."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.faults", "tests.support.preload"])


class Fault(NamedTuple):
    kind: Kind
    at: int = 0
    """The number of the operation, from 0, at which it begins; of `limit` the bytes."""


class Result(NamedTuple):
    """What became of a process."""

    status: int
    output: str
    operations: list[str]
    """Flushes and renames, in order, of a run that counts."""
    writes: list[str]
    unflushed: list[str]
    """Files that were renamed into place before their content was on the disk."""

    def is_refusal(self, *words: str) -> bool:
        """Whether it ended with one sentence that has `words`, rather than with a traceback."""
        lines = self.output.strip().splitlines()
        return (
            self.status == 1
            and "Traceback" not in self.output
            and bool(lines)
            and all(word in lines[-1] for word in words)
        )


def corpus(store: Path, recipe: Path = RECIPE) -> list[str]:
    return ["pipelines", str(recipe), "--store", str(store)]


def training(store: Path, command: str = "all", recipe: Path = RECIPE) -> list[str]:
    return ["alignment_train", command, str(recipe), "--store", str(store), "--device", "cpu"]


def run(store: Path, commands: Sequence[list[str]], fault: Fault | None = None) -> Result:
    """Run commands one after another, as `python -m <first word>` would, in one process that has `fault`."""
    report = store.with_name(f"{store.name}.report")
    report.unlink(missing_ok=True)
    output = store.with_name(f"{store.name}.output")
    process = _CONTEXT.Process(target=_child, args=(str(store), list(commands), fault, str(report), str(output)))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{commands} with {fault} did not end in 120 s:\n{output.read_text()}")
    found = json.loads(report.read_text()) if report.exists() else {}
    empty: list[str] = []
    status, printed = process.exitcode or 0, output.read_text(errors="replace")
    return Result(
        status,
        printed if status >= 0 else f"{printed}\nended by signal {-status}\n",  # a crash prints nothing itself
        found.get("operations", empty),
        found.get("writes", empty),
        found.get("unflushed", empty),
    )


def hashes(store: Path, from_disk: bool = True) -> dict[str, str]:
    """SHA-256 of shards, weights, tokenizers and figures of a store, by path: what two runs must have in common.

    from_disk: compare each with its file; else they are as the manifests have them.
    """
    opened, out = Store(store), {}
    for asset, pair in opened.datasets():
        key = f"{asset}/{pair}" if pair else asset
        for name, digest in opened.require(asset, pair).files.items():
            if name.endswith((".arrow", ".safetensors", "metrics.json", "tokenizer.json")):
                assert not from_disk or files.sha256(store / key / name) == digest, f"{key}/{name}"
                out[f"{key}/{name}"] = digest
    return out


ORDER = (
    "eval_text", "raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions",
    "training_mix", "base_model", "control_model", "align_model", "evaluation",
)  # fmt: skip
"""Assets of RECIPE; each is made of some before it."""


def readers(store: Path, file: str) -> list[list[str]]:
    """Remove from a finished store what is made of the dataset that has `file`; the commands that read it then."""
    asset = file.partition("/")[0]
    if asset not in ORDER:
        return [corpus(store), training(store)]
    if asset == "evaluation":
        return [training(store, "eval"), ["alignment_train", "report", str(store), "--html", f"{store}.html"]]
    after = ORDER[ORDER.index(asset) + 1 :]
    if asset == "control_model":
        after = ("evaluation",)
    models = ORDER[ORDER.index("base_model") :]
    is_corpus = asset not in models and asset != "training_mix"
    for name in after:
        if not (is_corpus and name in models):
            shutil.rmtree(store / name)
    if is_corpus:
        return [corpus(store)]
    return [training(store, "eval" if after == ("evaluation",) else "train")]


Outcome = Literal["refused", "harmless", "resumed", "failed"]
"""`refused`: a sentence names the damaged file; `harmless`: the result is that of an undamaged run; `resumed`: the next
run ends with the result of an unbroken one."""


def outcome_of_flip(store: Path, file: str, expected: dict[str, str]) -> tuple[Outcome, str]:
    """What becomes of a run that reads a store in which one bit of `file` is not what it was; and its output."""
    flip(store / file)
    result = run(store, readers(store, file))
    if result.status:
        named = Path(file).name if file.startswith("evaluation/") else file  # `report` may be given a folder
        return ("refused" if result.is_refusal(named) else "failed"), result.output
    found = hashes(store, from_disk=False)
    return ("harmless" if found.items() <= expected.items() else "failed"), result.output


def outcome_of_fault(
    store: Path, commands: list[list[str]], fault: Fault, expected: dict[str, str]
) -> tuple[Outcome, str]:
    """What becomes of a run that is broken off by `fault`, and of the same one after it; and the output of both.

    A full disk and a limit must end in a sentence, and what was finished before must still be there.
    """
    broken = run(store, commands, fault)
    causes = {"full": ["No space left on device"], "limit": ["File too large", "Input/output error"]}
    refused = any(broken.is_refusal(cause) for cause in causes.get(fault.kind, []))
    if fault.kind in causes and broken.status and not refused:  # torch does not say that a file is too large
        return "failed", broken.output
    if fault.kind in ("kill", "power") and broken.status not in (KILLED, 0):
        return "failed", broken.output
    again = run(store, commands)
    output = broken.output + again.output
    if again.status or leftovers(store):
        return "failed", f"{output}\n{leftovers(store)}"
    return ("resumed" if hashes(store) == expected else "failed"), output


def leftovers(store: Path) -> list[str]:
    """Temporary files and folders that should be gone."""
    found = [*store.rglob(".*.new"), *store.rglob(".*.old"), *store.glob(".store.json.*"), *store.rglob("unfinished")]
    return [str(path.relative_to(store)) for path in found]


def flip(file: Path, place: float = 0.5) -> None:
    """Change one bit of a file, at a share of its length, and leave its size and times as they are."""
    about, data = file.stat(), bytearray(file.read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def _child(store: str, commands: list[list[str]], fault: Fault | None, report: str, output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    from alignment_train.__main__ import main as train
    from pipelines.__main__ import main as collect

    disk = Disk(Path(store), fault or Fault("count"))
    if fault and fault.kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, resource.RLIM_INFINITY))
    disk.install()
    status = 0
    for program, *words in commands:
        status = {"pipelines": collect, "alignment_train": train}[program](words)
        if status:
            break
    disk.uninstall()
    if not fault or fault.kind != "limit":
        Path(report).write_text(
            json.dumps({"operations": disk.operations, "writes": disk.writes, "unflushed": disk.unflushed})
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not the interpreter's shutdown, which takes longer than the run


class Disk:
    """Stands between this process and what lies below `root`."""

    def __init__(self, root: Path, fault: Fault):
        self.root, self.fault = os.path.realpath(root), fault
        self.operations: list[str] = []
        self.writes: list[str] = []
        self.unflushed: list[str] = []
        before = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        self._flushed = {_state(path.stat()) for path in before}
        self._plain: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        for name in ("fsync", "rename", "replace", "link"):
            self._patch(os, name, self._flush_or_rename)
        self._patch(os, "mkdir", self._mkdir)
        for name in ("pwrite", "sendfile"):
            self._patch(os, name, self._write)
        if self.fault.kind == "read-only":
            for name in ("unlink", "rmdir", "remove", "utime"):
                self._patch(os, name, self._write)
        self._patch(os, "open", self._os_open)
        self._patch(io, "open", self._open)
        self._patch(builtins, "open", self._open)

    def uninstall(self) -> None:
        for owner, name, plain in reversed(self._plain):
            setattr(owner, name, plain)

    def _patch(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        plain = getattr(owner, name)
        self._plain.append((owner, name, plain))

        def patched(*args: Any, **kwargs: Any) -> Any:
            return wrapper(plain, name, *args, **kwargs)

        setattr(owner, name, patched)

    def _path(self, what: Any) -> str | None:
        """The path relative to the store of a path or descriptor; None outside it."""
        try:
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
        except (OSError, TypeError):
            return None
        path = os.path.abspath(path if isinstance(path, str) else os.fsdecode(path))
        if path == self.root or path.startswith(self.root + os.sep):
            return os.path.relpath(path, self.root)
        return None

    def _flush_or_rename(self, plain: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        where = self._path(args[-1]) or self._path(args[0])
        if where is None:
            return plain(*args, **kwargs)
        if self.fault.kind in ("kill", "power") and len(self.operations) == self.fault.at:
            self._die()
        self.operations.append(f"{name} {where}")
        if name == "fsync":
            plain(*args, **kwargs)
            self._flushed.add(_state(os.fstat(args[0])))
            return None
        self._refuse(where)
        source = Path(args[0])
        for file in source.rglob("*") if source.is_dir() else [source]:
            if file.is_file() and _state(file.stat()) not in self._flushed:
                self.unflushed.append(self._path(file) or str(file))
        return plain(*args, **kwargs)

    def _die(self) -> None:
        self.uninstall()
        if self.fault.kind == "power":
            for file in Path(self.root).rglob("*"):
                if file.is_file() and not file.is_symlink() and _state(file.stat()) not in self._flushed:
                    os.truncate(file, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(KILLED)

    def _write(self, plain: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if (where := self._path(args[0])) is not None:
            self._count(f"{name} {where}", where)
        return plain(*args, **kwargs)

    def _mkdir(self, plain: Any, name: str, path: Any, *args: Any, **kwargs: Any) -> Any:
        if (where := self._path(path)) is not None and not os.path.exists(path):
            self._count(f"mkdir {where}", where)
        return plain(path, *args, **kwargs)

    def _count(self, what: str, where: str) -> None:
        self.writes.append(what)
        self._refuse(where)

    def _refuse(self, where: str) -> None:
        """Raise what the disk answers to a write."""
        if self.fault.kind == "full" and len(self.writes) > self.fault.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.join(self.root, where))
        if self.fault.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.path.join(self.root, where))

    def _os_open(self, plain: Any, name: str, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        where = self._path(path)
        if where is not None and flags & (os.O_WRONLY | os.O_RDWR):
            if self.fault.kind == "read-only":
                self._refuse(where)
            elif flags & os.O_CREAT and not os.path.exists(path):
                self._count(f"open {where}", where)
        return plain(path, flags, *args, **kwargs)

    def _open(self, plain: Any, name: str, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        where = self._path(file)
        if where is None or not set(mode) & set("wax+") or isinstance(file, int):
            return plain(file, mode, *args, **kwargs)
        self._count(f"open {where}", where)
        return _File(plain(file, mode, *args, **kwargs), lambda what: self._count(f"{what} {where}", where))


class _File:
    """A file whose writes are counted; one that is closed writes what it still has in memory."""

    def __init__(self, file: Any, count: Callable[[str], None]):
        self._file, self._count = file, count

    def write(self, data: Any) -> int:
        self._count("write")
        return self._file.write(data)

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.close()
        self._count("close")

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self._file)


def _state(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size if stat.S_ISREG(about.st_mode) else 0, about.st_mtime_ns


def copy(store: Path, target: Path) -> Path:
    """A copy of a store, with the times of its files."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(store, target, symlinks=True))
