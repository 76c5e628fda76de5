"""Small files written whole or not at all."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ood_core.errors import StoreUnwritable

PARTIAL = ".partial"
UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)
"""Errors of the place, not of what is written there: trying again right away is of no use."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a neighbour, flush to disk, rename: readers see the old file or the new one.

    Every writer has a neighbour of its own, so that two of them can meet at one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            _flush(file, content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk needs the space
        raise


def write_new(path: Path, content: bytes) -> bool:
    """Write a file that must not exist yet; return whether it did not.

    Of all processes that try at the same time one succeeds; on an object store this is a
    conditional put. A reader that comes in between sees an empty or a torn file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            _flush(file, content)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _flush(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what the operating system says of an unwritable place into one clear error.

    Raises:
        StoreUnwritable: the disk is full or read-only, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise StoreUnwritable(
            f"{root} cannot be written to ({error}); expected a place with room and permission. "
            "What is stored is kept and nothing unfinished is marked done: mend the place, then "
            "run the same command again"
        ) from error


def as_bytes(record: dict[str, Any]) -> bytes:
    """Return a record as indented JSON."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON, atomically."""
    write_atomic(path, as_bytes(record))


def read_json(path: Path) -> dict[str, Any]:
    """Read a record that `write_json` wrote."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def sweep(folder: Path) -> int:
    """Remove what killed writers left behind; return how many files and folders."""
    litter = [path for path in folder.rglob("*") if path.name.endswith(PARTIAL)]
    for path in litter:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(litter)
