"""What a user can fix is a `UserError` and is shown as a sentence; any other exception is a bug with a traceback."""

import errno
import os
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from pipelines.fetching.redaction import redact

T = TypeVar("T")
_OBEYED = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control characters, lone surrogates, line and paragraph separators
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class UserError(ValueError):
    """A mistake that a user can fix. The message says where, what was found, what is expected and how to fix it.

    It is a ValueError so that pydantic validators may raise it. Libraries raise ValueError for their own reasons
    (`pa.ArrowInvalid`, `UnicodeDecodeError` and `JSONDecodeError` are ones): those are bugs unless the code that knows
    what they mean turns them into a UserError. Secrets in addresses are removed from the message.
    """

    def __init__(self, message: object):
        super().__init__(redact(str(message)))


EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def printable(text: object, keep_direction: bool = False) -> str:
    """Make foreign text safe to show: the one sanitiser of everything that reaches a terminal, a log or a card.

    File names, HTTP headers, dictionary keys, citations and corpus text may hold characters that a terminal obeys or
    that change the text direction: each becomes U+FFFD. Newlines and tabs stay. Secrets in addresses become `***`.

    keep_direction: for HTML, where corpus text needs such marks and an element ends what they do.
    """
    direction = frozenset() if keep_direction else _BIDI
    return "".join(
        char if char in "\n\t" or (unicodedata.category(char) not in _OBEYED and char not in direction) else "\ufffd"
        for char in redact(str(text))
    )


def quoted(text: object, most: int = 100) -> str:
    """A foreign name (a zip member, an HTTP header, a key) within a message: one line of at most `most` characters."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def is_file_error(error: OSError) -> bool:
    """Whether an OSError says what went wrong with which file, rather than being a library's own exception."""
    return error.errno is not None or isinstance(error, shutil.Error)


def os_error_sentence(error: OSError) -> str:
    """An OSError as path, cause and cure."""
    if isinstance(error, shutil.Error):  # of a copied folder: what went wrong with each file
        source, target, cause = error.args[0][0]
        return f"{source} -> {target}: {cause}. Check the paths and the disk."
    path = str(error.filename) if error.filename is not None else "a file"
    if error.filename2 is not None:
        path += f" -> {error.filename2}"
    cause = error.strerror or str(error) or type(error).__name__
    cures = {
        errno.ENOSPC: "Free space on that disk or name a store on another one; what is finished is kept.",
        errno.EDQUOT: "Free space within your quota or name a store elsewhere; what is finished is kept.",
        errno.EROFS: "The file system is read-only: mount it for writing, or name a folder on another one.",
        errno.EACCES: "Grant this user access to it, or name another path.",
        errno.EPERM: "Grant this user access to it, or name another path.",
        errno.ENAMETOOLONG: "Use a shorter path.",
        errno.ENOENT: "Check the path; a symbolic link may point to nothing.",
        errno.ENOTDIR: "Part of the path is a file: name a folder.",
        errno.EISDIR: "The path is a folder: name a file.",
        errno.ELOOP: "Symbolic links form a loop: remove one.",
        errno.EMFILE: "Raise the limit of open files (ulimit -n).",
        errno.EIO: "The disk reports a fault: check it.",
    }
    cure = cures.get(error.errno or 0, "Check the path and the disk.")
    return f"{path}: {cause}. {cure}"


@contextmanager
def error_context(description: str) -> Iterator[None]:
    """Name the plug-in, language pair and batch in which an unexpected exception was raised.

    The exception keeps its type and traceback; `description` is added as a note. A UserError says enough itself.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if description not in getattr(error, "__notes__", ()):
            error.add_note(description)
        raise


def with_batch_context(batches: Iterable[T], description: str) -> Iterator[T]:
    """The batches; an unexpected exception in making one is noted with `description` and its number, from 1."""
    iterator = iter(batches)
    for number in count(1):
        with error_context(f"{description}, batch {number}"):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def run_command(command: Callable[[], int], prefix: str = "") -> int:
    """Run `command` and return its exit status: the one place where a command line reports errors.

    A UserError or OSError is printed on standard error as one message, status 1. SIGINT, SIGTERM and SIGHUP end the
    command in one line, status 130. Any other exception is a bug and keeps its traceback.
    """
    replaced = []
    if threading.current_thread() is threading.main_thread():
        replaced = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_DFL]
        for signum in replaced:
            signal.signal(signum, _interrupt)
    try:
        return command()
    except UserError as error:
        print(printable(f"{prefix}{error}"), file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished work is kept; run the same command to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output is gone (`... | head`): nothing to report, nowhere to report it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not is_file_error(error):
            raise
        print(printable(f"{prefix}{os_error_sentence(error)}"), file=sys.stderr)
    finally:
        for signum in replaced:
            signal.signal(signum, signal.SIG_DFL)
    return EXIT_FAILED
