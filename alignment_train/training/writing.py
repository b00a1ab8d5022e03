"""What libraries raise where a file cannot be written -> OSError, which is shown as path, cause and cure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
TORCH = re.compile(r"PytorchStreamWriter failed|file write failed|iostream error|unexpected pos \d+ vs")
NEARLY_FULL = 1 << 20  # bytes free


@contextmanager
def os_errors(folder: Path) -> Iterator[None]:
    """Raise as OSError of `folder` what safetensors, tokenizers and torch raise of their own where writing fails."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        code = _code(error, folder)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


def _code(error: Exception, folder: Path) -> int | None:
    if found := RUST.search(str(error)):
        return int(found[1])
    if isinstance(error, RuntimeError) and TORCH.search(str(error)):  # torch does not say why
        return errno.ENOSPC if shutil.disk_usage(folder).free < NEARLY_FULL else errno.EIO
    return None
