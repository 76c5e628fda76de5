"""Zarr arrays of other people, read with bounded memory.

Metadata can claim any shape and name any codec, chunks can unpack to any number of bytes, folders
can hold links to elsewhere. So metadata are measured before they are parsed, shapes are compared
with the limits in whole chunks, only codecs that decode numbers are let in, and every chunk is
unpacked into memory of the size that it must have.
"""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.mapset import MapSet, as_stack, listing, numbered_ids, require_count
from ood_core.store.bounded import bounded

Found = zarr.Array[Any]

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_OF_ARRAYS = ("zarr.json", ".zarray")
_INDEX_BYTES = 16  # per chunk of a shard


def read_zarr(path: str, array: str | None, limits: Limits) -> MapSet:
    """Read one array of maps of a Zarr folder, of format 2 or 3.

    Args:
        path: folder of a group or of an array.
        array: name of the array in the group; None takes `maps`, or the only one.
        limits: most that may be loaded.

    Raises:
        TargetError: a folder that is damaged or too large, holds links, or holds no such array.
    """
    with _refusing(path):
        root = Path(path)
        _require_metadata(root, path, limits)
        found = zarr.open(path, mode="r", use_consolidated=False)
        if isinstance(found, zarr.Group):
            found = _choose(found, path, array)
        _require_room(found, path, limits)
        _require_files(root / found.path, path, limits)
        values = as_stack(np.asarray(bounded(found, path)[...]), path)
        unit = str(found.attrs.get("units", ""))
        return MapSet(values, numbered_ids(root.stem, len(values)), unit, "", path)


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn whatever damaged metadata or chunks make the library raise into a TargetError."""
    try:
        yield
    except TargetError:
        raise
    except Exception as error:  # codecs and metadata raise anything
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise TargetError(
            f"{path}: got a folder that cannot be read as Zarr ({reason}); expected a complete "
            "array of format 2 or 3; check that the folder is complete, or copy it again"
        ) from error


def _require_metadata(root: Path, path: str, limits: Limits) -> None:
    """Measure the metadata of a folder and of those in it, before any is parsed."""
    folders = [root]
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            require_count(len(folders), path, limits.max_maps)
    files = [folder / name for folder in folders for name in _METADATA]
    total = sum(_size(file, path) for file in files if os.path.lexists(file))
    if total > limits.max_header_bytes:
        raise TargetError(
            f"{path}: got {total} bytes of metadata; expected at most {limits.max_header_bytes} "
            "(targets.max_header_bytes); save the maps in one array of their own, or raise "
            "targets.max_header_bytes"
        )


def _size(file: Path, path: str) -> int:
    """Size of a plain file; links could lead anywhere, and pipes have no end."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise TargetError(
            f"{path}: got {file.name!r}, which is a link or no plain file; expected plain files "
            "and folders alone; copy the folder with what its links lead to (cp -rL)"
        )
    return status.st_size


def _choose(group: zarr.Group, path: str, array: str | None) -> Found:
    """The array called `array`; names are those of folders, so that none leads elsewhere."""
    folders = sorted(
        entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)
    )
    known = [name for name in folders if any((Path(path) / name / f).is_file() for f in _OF_ARRAYS)]
    members = {name: group[name] for name in known}
    maps = [name for name, m in members.items() if isinstance(m, zarr.Array) and m.ndim >= 2]
    wanted = array or ("maps" if "maps" in maps else maps[0] if len(maps) == 1 else None)
    if wanted not in maps:
        raise TargetError(
            f"{path}: got the arrays [{listing(maps) or 'none'}] and targets.array = {array}; "
            "expected one array of maps: name it with targets.array"
        )
    chosen = members[wanted]
    assert isinstance(chosen, zarr.Array), "filtered above"
    return chosen


def _require_room(found: Found, path: str, limits: Limits) -> None:
    """Compare the array with the limits, its chunks in full: the last ones are stored so."""
    if found.dtype.kind not in "biuf" or found.ndim not in (2, 3, 4):
        raise TargetError(
            f"{path}: got an array of shape {found.shape[:9]} and type {str(found.dtype)[:50]}; "
            "expected real numbers of shape (y, x), (n, y, x) or (n, c, y, x); save the maps so"
        )
    outer = found.shards or found.chunks
    stored = [-(-side // chunk) * chunk for side, chunk in zip(found.shape, outer, strict=True)]
    chunks = math.prod(side // chunk for side, chunk in zip(stored, found.chunks, strict=True))
    needed = math.prod(stored) * max(found.dtype.itemsize, 4) + _INDEX_BYTES * chunks
    if needed > limits.max_bytes:  # maps are kept as float32
        raise TargetError(
            f"{path}: got {needed} bytes of maps, in whole chunks; expected at most "
            f"{limits.max_bytes} (targets.max_bytes); choose fewer maps, smaller chunks, or raise "
            "targets.max_bytes"
        )
    require_count(found.shape[0] if found.ndim > 2 else 1, path, limits.max_maps)
    if chunks > limits.max_maps:
        raise TargetError(
            f"{path}: got {chunks} chunks; expected at most {limits.max_maps} (targets.max_maps); "
            "save the array in larger chunks, or raise targets.max_maps"
        )


def _require_files(folder: Path, path: str, limits: Limits) -> None:
    """Refuse links and special files, and more stored bytes than maps may have."""
    total = 0
    for place, folders, files in os.walk(folder):
        total += sum(_size(Path(place) / name, path) for name in files)
        if any((Path(place) / name).is_symlink() for name in folders):
            raise TargetError(
                f"{path}: got a link to a folder in it; expected plain files and folders alone; "
                "copy the folder with what its links lead to (cp -rL)"
            )
        if total > limits.max_bytes + limits.max_header_bytes:
            raise TargetError(
                f"{path}: got more than {total} stored bytes; expected at most "
                f"{limits.max_bytes + limits.max_header_bytes}; choose fewer maps or raise "
                "targets.max_bytes"
            )
