"""Addresses such as `s3://bucket/prefix` or a local path -> the file system that holds them, through fsspec.

A path of this machine that is not absolute is relative to the working directory, wherever the recipe lies.
"""

import glob
import hashlib
import os
import time
from functools import cache
from typing import Any, BinaryIO

from pipelines.errors import UserError

SCHEME = "://"
SETTLED = 3.0  # seconds after its last change from which a file's size and time tell a further change apart


def is_address(text: str) -> bool:
    """Whether `text` names its file system: `s3://bucket/x` does, a path of this machine does not."""
    return SCHEME in text


def inside(url: str) -> str:
    """`s3://bucket/key` -> `bucket/key`: the path as the file system of the address takes it."""
    return url.partition(SCHEME)[2] if is_address(url) else url


def filesystem(url: str) -> Any:
    """The fsspec file system of an address; one a process, usable from several threads. Its paths are `inside(url)`.

    For `s3://`, keys and region come from the usual AWS_* variables and files; AWS_ENDPOINT_URL names a server other
    than Amazon's.
    """
    scheme = url.partition(SCHEME)[0] if is_address(url) else "file"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    return _opened(scheme, endpoint if scheme == "s3" else None)


def expand(pattern: str) -> list[str]:
    """The files that a path, an address or a glob of either names (`**` is any depth), in the order of their names.

    ValueError where there is none.
    """
    pattern = os.path.expanduser(pattern)
    if pattern.lower().startswith(("http://", "https://")):
        raise UserError(
            f"'{pattern}': found a web address. Expected: files here, or at an address of a file system such as "
            f"s3://bucket/data/*.tsv. Fix: download the file and name it by its path."
        )
    try:
        found = _listed(pattern) if is_address(pattern) else _local(pattern)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"'{pattern}': {error}. Needed: an address that can be read. Check the address, the AWS_* variables where "
            f"it is s3://, and that fsspec has what this kind of address needs."
        ) from None
    if not found:
        here = "" if is_address(pattern) or os.path.isabs(pattern) else f" below the working directory, {os.getcwd()}"
        raise UserError(
            f"'{pattern}': found no such file{here}. Allowed: a file, or a pattern of files such as 'data/*.tsv', here "
            f"or at an address such as s3://bucket/data/*.tsv. Correct it."
        )
    return found


def open_binary(path: str) -> BinaryIO:
    """The file at a path or address, to be read as bytes; it can be sought in. The caller closes it."""
    return filesystem(path).open(inside(path), "rb")


def content_hash(path: str) -> str:
    """SHA-256 of the file at a path or address, read again only where its size or time has changed."""
    about = filesystem(path).info(inside(path))
    changed = about.get("mtime") or about.get("created")
    state = (path, about["size"], str(changed))
    if state in _hashes:
        return _hashes[state]
    with open_binary(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if time.time() - (changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0)) > SETTLED:
        _hashes[state] = digest
    return digest


_hashes: dict[tuple[str, int, str], str] = {}


def _local(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))


def _listed(pattern: str) -> list[str]:
    files, path = filesystem(pattern), inside(pattern)
    found = [path] if files.isfile(path) else files.glob(path) if glob.has_magic(path) else []
    scheme = pattern.partition(SCHEME)[0] + SCHEME
    # Some file systems answer with a slash before the path, whether it was asked for with one or not.
    plain = [name if path.startswith("/") else name.lstrip("/") for name in found if files.isfile(name)]
    return [scheme + name for name in sorted(plain)]


@cache
def _opened(scheme: str, endpoint: str | None) -> Any:
    import fsspec

    if scheme != "s3":
        return fsspec.filesystem(scheme)
    from fsspec.implementations.arrow import ArrowFSWrapper  # s3fs would hold botocore back
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return ArrowFSWrapper(
        S3FileSystem(
            endpoint_override=endpoint,
            region=region or ("us-east-1" if endpoint else None),  # other servers ignore it, but it must be said
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=6),
            connect_timeout=10,
            request_timeout=60,
            allow_delayed_open=True,  # a small file is one PUT, so that it is there whole or not at all
        )
    )
