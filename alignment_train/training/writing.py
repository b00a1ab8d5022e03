"""Errors that libraries raise when a file cannot be written, as OSError, which is shown with path, cause and fix."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUST = re.compile(r"\(os error (\d+)\)")
"""As safetensors and tokenizers report the error number."""
TORCH = re.compile(r"PytorchStreamWriter failed|file write failed|iostream error|unexpected pos \d+ vs")
NEARLY_FULL = 1 << 20
"""Free bytes below which a failed write of torch, which gives no reason, is taken for a full disk."""


@contextmanager
def os_errors(folder: Path) -> Iterator[None]:
    """Turn write errors of safetensors, tokenizers and torch into an OSError about `folder`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        code = _error_number(error, folder)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


def _error_number(error: Exception, folder: Path) -> int | None:
    if match := RUST.search(str(error)):
        return int(match[1])
    if isinstance(error, RuntimeError) and TORCH.search(str(error)):
        return errno.ENOSPC if shutil.disk_usage(folder).free < NEARLY_FULL else errno.EIO
    return None
