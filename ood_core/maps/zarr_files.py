"""Zarr arrays of other people, read with bounded memory.

Metadata can claim any shape and name any codec, chunks can unpack to any number of bytes, folders
can hold links to elsewhere. So metadata are measured before they are parsed, shapes are compared
with the limits in whole chunks, only codecs that decode numbers are let in, and every chunk is
unpacked into memory of the size that it must have. A zip archive of a Zarr folder is unpacked into
a temporary folder first, no further than the limits. Packed values are decoded as by xarray.
"""

import math
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from ood_core.errors import TargetError
from ood_core.limits import Limits, Metered, TooMuch
from ood_core.maps import cf
from ood_core.maps.mapset import MapSet, as_stack, choose_array, numbered_ids, require_count
from ood_core.maps.numpy_files import first_member, is_zip

if TYPE_CHECKING:  # imported when a folder is read, so that other formats do without Zarr
    import zarr

    Found = zarr.Array[Any]

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_OF_ARRAYS = ("zarr.json", ".zarray")
_INDEX_BYTES = 16  # per chunk of a shard


_OF_FOLDERS = ("zarr.json", ".zgroup", ".zarray")
_ENDINGS = re.compile(r"(\.zarr)?(\.zip)?$", re.IGNORECASE)
_PIECE = 2**20


def is_zarr(path: str, head: bytes) -> bool:
    """Whether a folder has Zarr metadata, or a zip archive begins with no NumPy array."""
    if head:
        return is_zip(head) and not (first_member(head) or ".npy").endswith(".npy")
    return any(os.path.isfile(os.path.join(path, name)) for name in _OF_FOLDERS)


def read_zarr(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one array of maps of a Zarr folder, of format 2 or 3, or of a zip archive of one.

    Args:
        path: folder of a group or of an array, or the archive.
        array: name of the array in the group; None takes `maps`, or the only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: a folder that is damaged or too large, holds links, or holds no such array.
    """
    with _refusing(path):
        if os.path.isdir(path):
            return _read_folder(Path(path), path, array, limits, axes)
        with tempfile.TemporaryDirectory(prefix="farfield-") as folder:
            return _read_folder(_unzipped(path, Path(folder), limits), path, array, limits, axes)


def _read_folder(
    root: Path, path: str, array: str | None, limits: Limits, axes: str | None
) -> MapSet:
    import zarr

    from ood_core.maps.zarr_codecs import bounded

    _require_metadata(root, path, limits)
    found = zarr.open(str(root), mode="r", use_consolidated=False)
    left_out = _left_out(found)
    if isinstance(found, zarr.Group):
        found = _choose(found, root, path, array, limits)
    _require_room(found, path, limits)
    _require_files(root / found.path, path, limits)
    stored = np.asarray(bounded(found, path)[...])
    attributes = _attributes(found)
    source = f"{path}, array {found.path or '/'}"
    values = as_stack(cf.unpacked(stored, attributes, source), path, axes)
    ids = numbered_ids(_ENDINGS.sub("", Path(path).name), len(values))
    unit = cf.text(attributes.get("units", ""))
    notes = _absent_chunks(found, source)
    if left_out:
        kept = [row for row in range(len(values)) if row not in left_out]
        values, ids = values[kept], tuple(ids[row] for row in kept)
        notes += (f"{source}: left out {len(left_out)} maps that the set itself leaves out",)
    return MapSet(values, ids, unit, "", path, notes)


def _left_out(found: Any) -> frozenset[int]:
    """Numbers of the samples that are copies of targets, in a set that Farfield made."""
    numbers = found.attrs.get("left_out")
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        return frozenset()
    return frozenset(numbers)


def _attributes(found: "Found") -> dict[str, Any]:
    """The attributes, with what xarray keeps elsewhere in format 2: the value of missing pixels."""
    attributes = dict(found.attrs)
    by_xarray = found.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes
    if by_xarray and found.fill_value is not None:
        attributes.setdefault("_FillValue", found.fill_value)
    return attributes


def _absent_chunks(found: "Found", source: str) -> tuple[str, ...]:
    """Say that chunks are not there: Zarr leaves out those of one value, but so does a bad copy."""
    absent = found.nchunks - found.nchunks_initialized
    if absent <= 0:
        return ()
    return (
        f"{source}: {absent} of {found.nchunks} chunks are not there and were read as "
        f"{found.fill_value}; if the values there should differ, copy the folder again",
    )


def _unzipped(path: str, folder: Path, limits: Limits) -> Path:
    """Unpack an archive, at most as many bytes as the limits allow; return the Zarr folder."""
    most = limits.max_bytes + limits.max_header_bytes
    with open(path, "rb") as stream:
        metered = Metered(stream, limits.max_header_bytes)
        try:
            archive = zipfile.ZipFile(cast(BinaryIO, metered))
        except TooMuch as error:
            raise TargetError(
                f"{path}: got a directory of more than {limits.max_header_bytes} bytes; expected "
                "fewer (targets.max_header_bytes); save the maps in larger chunks, or raise "
                "targets.max_header_bytes"
            ) from error
        require_count(len(archive.infolist()), path, limits.max_maps)
        metered.allow(most + limits.max_header_bytes)
        for info in archive.infolist():
            most -= _unpack_member(archive, info, folder, most, path)
    inner = [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]
    for root in inner:
        if is_zarr(str(root), b""):
            return root
    raise TargetError(
        f"{path}: got a zip archive without Zarr metadata or NumPy arrays at its top; expected "
        "zarr.json, .zgroup, .zarray or .npy files; zip the contents of one Zarr folder, or unpack "
        "an archive of other files"
    )


def _unpack_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, most: int, path: str
) -> int:
    """Write one member below the folder, wherever its name points; return its size."""
    if info.is_dir():
        return 0
    target = folder / info.filename
    if not target.resolve().is_relative_to(folder.resolve()):
        raise TargetError(
            f"{path}: got a member called {info.filename[:50]!r}; expected names inside the "
            "archive; zip the contents of one Zarr folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as inner, target.open("wb") as outer:
        while piece := inner.read(_PIECE):
            written += len(piece)
            if written > most:
                raise TargetError(
                    f"{path}: got an archive that unpacks to more than the limits allow; expected "
                    "fewer bytes (targets.max_bytes); choose fewer maps, or raise targets.max_bytes"
                )
            outer.write(piece)
    return written


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn whatever damaged metadata or chunks make the library raise into a TargetError."""
    try:
        yield
    except TargetError:
        raise
    except Exception as error:  # codecs and metadata raise anything
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        kind = "folder" if os.path.isdir(path) else "zip archive"
        raise TargetError(
            f"{path}: got a {kind} that cannot be read as Zarr ({reason}); expected a complete "
            f"array of format 2 or 3; check that the {kind} is complete, or copy it again"
        ) from error


def _require_metadata(root: Path, path: str, limits: Limits) -> None:
    """Measure the metadata of a folder and of those in it, before any is parsed."""
    folders = list(_folders(root, path, limits))
    files = [folder / name for folder in folders for name in _METADATA]
    total = sum(_size(file, path) for file in files if os.path.lexists(file))
    if total > limits.max_header_bytes:
        raise TargetError(
            f"{path}: got {total} bytes of metadata; expected at most {limits.max_header_bytes} "
            "(targets.max_header_bytes); save the maps in one array of their own, or raise "
            "targets.max_header_bytes"
        )


def _folders(root: Path, path: str, limits: Limits) -> Iterator[Path]:
    """The folder, and those below it that have metadata: groups in groups, as of a DataTree."""
    left = [root]
    count = 0
    while left:
        folder = left.pop()
        yield folder
        with os.scandir(folder) as entries:
            for entry in entries:
                count += 1
                require_count(count, path, limits.max_maps)
                inner = Path(entry.path)
                if entry.is_dir(follow_symlinks=False) and any(
                    os.path.lexists(inner / name) for name in _OF_FOLDERS
                ):
                    left.append(inner)


def _size(file: Path, path: str) -> int:
    """Size of a plain file; links could lead anywhere, and pipes have no end."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise TargetError(
            f"{path}: got {file.name!r}, which is a link or no plain file; expected plain files "
            "and folders alone; copy the folder with what its links lead to (cp -rL)"
        )
    return status.st_size


def _choose(
    group: "zarr.Group", root: Path, path: str, array: str | None, limits: Limits
) -> "Found":
    """The array called `array`; names are those of folders, so that none leads elsewhere."""
    import zarr

    folders = [folder for folder in _folders(root, path, limits) if folder != root]
    known = [f for f in folders if any((f / name).is_file() for name in _OF_ARRAYS)]
    names = sorted(folder.relative_to(root).as_posix() for folder in known)
    members = {name: group[name] for name in names}
    maps = [name for name, m in members.items() if isinstance(m, zarr.Array) and m.ndim >= 2]
    wanted = choose_array({name: dict(members[name].attrs) for name in maps}, array, path)
    chosen = members[wanted]
    assert isinstance(chosen, zarr.Array), "filtered above"
    return chosen


def _require_room(found: "Found", path: str, limits: Limits) -> None:
    """Compare the array with the limits, its chunks in full: the last ones are stored so."""
    if found.dtype.kind not in "biuf" or not 2 <= found.ndim <= 8:
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
