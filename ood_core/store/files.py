"""Small files written whole or not at all."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a neighbour, flush to disk, rename: readers see the old file or the new one.

    Every writer has a neighbour of its own, so that two of them can meet at one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON, atomically."""
    write_atomic(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


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
