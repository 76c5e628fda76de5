"""Bytes that outlive a power cut: flushed to disk before anything vouches for them.

A killed process loses nothing that it has written; a machine without power loses what the system
still held back, be it the bytes of a file whose name is on disk already. Zarr does not flush.
"""

import os
from pathlib import Path

from ood_core.store.arrays import Table
from ood_core.store.place import Place
from ood_core.store.plan import Shard


def persist(folder: Path, top: Path) -> None:
    """Flush a file, or a folder with all that is in it, and the folders above it up to `top`."""
    above = [path for path in folder.parents if path.is_relative_to(top)]
    for path in (*folder.rglob("*"), folder, *above):
        _flush(path)


def persist_tables(root: Place) -> None:
    """Flush all tables of a run; an object store needs no flush."""
    if isinstance(root, Path):
        for table in root.glob("*.zarr"):
            persist(table, root)


def persist_shard(table: Table, shard: Shard) -> None:
    """Flush one shard of every array of a table; an object store needs no flush."""
    top = table.path
    if isinstance(top, Path):
        for stored in top.glob(f"*/c/{shard.index}"):
            persist(stored, top)


def _flush(path: Path) -> None:
    """Flush a file or a folder; what another writer has just renamed is its own to flush."""
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)
