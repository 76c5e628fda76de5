"""Small files written whole or not at all, in a folder or in an object store.

A put is atomic by itself, so only folders know partial files, flushes and renames.
"""

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
from ood_core.store.objects import ObjectPlace
from ood_core.store.place import Place

PARTIAL = ".partial"
UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)
"""Errors of the disk, not of what is written: trying again at once is of no use."""


def read_bytes(path: Place) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    return path.read_bytes()


def exists(path: Place) -> bool:
    """Whether there is such a file."""
    return path.exists() if isinstance(path, ObjectPlace) else path.is_file()


def names(folder: Place) -> list[str]:
    """Names of the files in a folder; none where there is no folder."""
    if isinstance(folder, ObjectPlace):
        return sorted(folder.objects())
    return sorted(path.name for path in folder.glob("*"))


def written(folder: Place) -> dict[str, float]:
    """Seconds since 1970 at which each file of a folder was written, by the place's clock."""
    if isinstance(folder, ObjectPlace):
        return folder.objects()
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_mtime for entry in entries}
    except FileNotFoundError:
        return {}


def remove(path: Place) -> None:
    """Remove a file, if there is one."""
    if isinstance(path, ObjectPlace):
        path.remove()
    else:
        path.unlink(missing_ok=True)


def remove_tree(folder: Place) -> None:
    """Remove a folder with everything in it, if there is one."""
    if isinstance(folder, ObjectPlace):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def copy_tree(source: Place, target: Place) -> None:
    """Copy a folder with everything in it to another place of the same store, if there is one."""
    if isinstance(source, ObjectPlace):
        for place in source.tree():
            name = place.key.removeprefix(f"{source.key}/")
            write_atomic(target / name, read_bytes(place))
    elif isinstance(target, Path) and source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def move(source: Place, target: Place) -> None:
    """Give a file another name in its folder.

    A folder does so at once and needs no room for it. In an object store the new one comes first;
    a crash in between leaves both.
    """
    if isinstance(source, ObjectPlace) or isinstance(target, ObjectPlace):
        write_atomic(target, read_bytes(source))
        remove(source)
    else:
        source.rename(target)


def write_atomic(path: Place, content: bytes, flush: bool = True) -> None:
    """Write to a temporary file, flush to disk, rename: readers see the old file or the new one.

    Every writer has a temporary file of its own, so two may write the same file at once.
    """
    if isinstance(path, ObjectPlace):
        path.put(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            if flush:
                _flush(file)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk needs the space
        raise


def write_new(path: Place, content: bytes) -> bool:
    """Write a file that must not exist yet; return whether it did not.

    Of all processes that try at the same time one succeeds; `content` is to differ between them. On
    an object store this is a conditional put. In a folder a reader that comes in between sees an
    empty or a torn file.
    """
    if isinstance(path, ObjectPlace):
        return path.put_new(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(content)
            _flush(file)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def writing(root: Place) -> Iterator[None]:
    """Turn the operating system's errors at an unwritable place into one clear error.

    Raises:
        StoreUnwritable: the disk is full or read-only, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise StoreUnwritable(
            f"{root} cannot be written to ({error}); expected room on the disk and permission. "
            "What is stored is kept and nothing unfinished is marked done: make room or set "
            "permissions, then run the same command again"
        ) from error


def as_bytes(record: dict[str, Any]) -> bytes:
    """Return a record as indented JSON."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Place, record: dict[str, Any]) -> None:
    """Write a record as indented JSON, atomically."""
    write_atomic(path, as_bytes(record))


def read_json(path: Place) -> dict[str, Any]:
    """Read a record that `write_json` wrote."""
    record: dict[str, Any] = json.loads(read_bytes(path))
    return record


def sweep(folder: Place) -> int:
    """Remove what killed writers left behind; return how many files and folders.

    In an object store they leave nothing.
    """
    if isinstance(folder, ObjectPlace):
        return 0
    litter = [path for path in folder.rglob("*") if path.name.endswith(PARTIAL)]
    for path in litter:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(litter)
