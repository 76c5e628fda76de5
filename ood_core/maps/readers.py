"""Files of maps: which files a path means, and which reader takes each of them.

`READERS` is the one table. A reader is two functions in a file of its own: one that says by the
content of a file or folder whether it is of that format, and one that reads it. Names of files
decide nothing, so that `m31.fits.fz`, `m31.fit.gz` and `m31` are all read as what they are.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import final

import numpy as np
from numpy.typing import NDArray

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps import paths
from ood_core.maps.asdf_files import is_asdf, read_asdf
from ood_core.maps.fits import BESIDE, is_fits, read_fits
from ood_core.maps.hdf5 import is_hdf5, read_hdf5
from ood_core.maps.images import is_png, is_tiff, read_png, read_tiff
from ood_core.maps.mapset import MapSet, combine, listing, require_count, require_metadata
from ood_core.maps.missing import marked
from ood_core.maps.netcdf3 import is_netcdf3, read_netcdf3
from ood_core.maps.numpy_files import is_npy, is_npz, read_npy, read_npz
from ood_core.maps.remote import fetched, is_remote
from ood_core.maps.zarr_files import is_zarr, read_zarr

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
HEAD_BYTES = 4096
"""Bytes at the beginning of a file that a reader is shown."""


@final
@dataclass(frozen=True, slots=True)
class Reader:
    """One format.

    Attributes:
        matches: whether a file or folder has this format, from its path and its first bytes (none
            for a folder).
        read: the maps at a path; takes `array`, which of several, the limits on what is read, and
            `axes`, what each axis is.
    """

    matches: Callable[[str, bytes], bool]
    read: Callable[[str, str | None, Limits, str | None], MapSet]


READERS: dict[str, Reader] = {
    "FITS": Reader(is_fits, read_fits),
    "NumPy .npy": Reader(is_npy, read_npy),
    "NumPy .npz": Reader(is_npz, read_npz),
    "Zarr": Reader(is_zarr, read_zarr),
    "HDF5": Reader(is_hdf5, read_hdf5),
    "NetCDF 3": Reader(is_netcdf3, read_netcdf3),
    "ASDF": Reader(is_asdf, read_asdf),
    "TIFF": Reader(is_tiff, read_tiff),
    "PNG": Reader(is_png, read_png),
}
"""Every format that targets may have, by name; the first that matches reads."""


def read_maps(
    path: str,
    array: str | None,
    limits: Limits,
    axes: str | None = None,
    missing: MissingSpec | None = None,
) -> MapSet:
    """Read all maps of the files that a path means, in natural order of the files' names.

    Args:
        path: a file, a Zarr folder, a folder of files, a pattern of them, or an address of such.
        array: which part of each file holds the maps, where a file has several.
        limits: most that may be read, of all files together.
        axes: what each axis of an array is, as in `as_stack`.
        missing: names of the planes that say which pixels are missing; these become NaN.

    Raises:
        TargetError: no such file, a format that no reader knows, unusable content, or more of it
            than the limits allow.
    """
    if is_remote(path):
        with fetched(path, limits) as local:
            return replace(read_maps(local, array, limits, axes, missing), source=path)
    files, passed_over = _files(path, limits)
    parts, left = [], limits
    for file in files:
        reader = _reader_of(file)
        part = reader.read(file, array, left, axes)
        if missing is not None and (missing.mask or missing.weights):
            mask, weights = (
                _plane(reader, file, name, left, axes) if name else None
                for name in (missing.mask, missing.weights)
            )
            notes = tuple(note for note in part.notes if not note.startswith(BESIDE))
            part = replace(part, values=marked(part.values, mask, weights, file), notes=notes)
        require_metadata(part)
        left = replace(left, max_bytes=left.max_bytes - part.values.nbytes)
        parts.append(part)
    require_count(sum(map(len, parts)), path, limits.max_maps)
    found = combine(parts)
    if passed_over:
        note = (
            f"{path}: passed over {listing(passed_over)}, which no reader of maps knows; name the "
            "files by a pattern to be sure of what is read"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


def _plane(
    reader: Reader, file: str, name: str, limits: Limits, axes: str | None
) -> NDArray[np.float32]:
    """Values of a mask or weight plane; what is wrong with it is said to be of that."""
    try:
        return reader.read(file, name, limits, axes).values
    except TargetError as error:
        raise TargetError(f"the plane {name!r} of targets.missing: {error}") from error


def files_of(path: str, limits: Limits) -> list[str]:
    """Return the files that a path means, in natural order of their names.

    Raises:
        TargetError: there are none, or more than the limits allow.
    """
    return _files(path, limits)[0]


def _files(path: str, limits: Limits) -> tuple[list[str], list[str]]:
    """Files to read in natural order, and names of other files in folders that were named."""
    _require_bounded(path, limits)
    found = list(islice(paths.matches(path), limits.max_maps + 1))
    require_count(len(found), path, limits.max_maps)
    if not found:
        raise TargetError(
            f"{path}: got no such file; expected {_known()}, or a pattern of them: {_remedy(path)}"
        )
    plain = {name for name in found if os.path.isdir(name) and _known_reader(name) is None}
    if len(plain) < len(found):  # among files, a folder is refused when it is read
        return sorted(found, key=paths.natural_order), []
    files: list[str] = []
    others: list[str] = []
    for folder in plain:
        inside = [os.path.join(folder, name) for name in _entries(folder, limits)]
        for name in inside:
            (others if _known_reader(name) is None else files).append(name)
    if not files:
        raise TargetError(
            f"{path}: got a folder without files of maps ({listing(others) or 'it is empty'}); "
            f"expected {_known()} in it; check targets.path"
        )
    endings = {os.path.splitext(name)[1] for name in files} - {""}
    for name in others:
        if os.path.splitext(name)[1] in endings and not os.path.isdir(name):
            _reader_of(name)  # called as the maps beside it are, so it is a damaged one: refused
    return sorted(files, key=paths.natural_order), sorted(others, key=paths.natural_order)


def _require_bounded(path: str, limits: Limits) -> None:
    """Refuse no path at all, and count the folders of `**`: links upwards make endless trees."""
    if not path:
        raise TargetError("got an empty path; expected a file, a folder, a pattern or an address")
    folder, pattern = paths.meaning(path)
    head, deep, _ = pattern.partition("**")
    if deep:
        folders = islice(paths.matches(f"{head}**/", folder), limits.max_maps + 1)
        require_count(sum(1 for _ in folders), path, limits.max_maps)


def _entries(folder: str, limits: Limits) -> list[str]:
    """Names in a folder, hidden ones left out."""
    with os.scandir(folder) as entries:
        names = list(islice((e.name for e in entries), limits.max_maps + 1))
    require_count(len(names), folder, limits.max_maps)
    return [name for name in names if not name.startswith(".")]


def _reader_of(path: str) -> Reader:
    if not os.path.exists(path):
        raise TargetError(f"{path}: got a link that leads nowhere; expected a file; mend the link")
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise TargetError(f"{path}: got a special file; expected a plain file or a Zarr folder")
    reader = _known_reader(path)
    if reader is None:
        head = head_of(path, 16)
        begins = "a folder" if os.path.isdir(path) else f"content that begins with {head!r}"
        packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
        if packed:
            raise TargetError(
                f"{path}: got a file packed by {packed}; expected {_known()}, of which FITS alone "
                f"may be packed, by gzip; unpack it ({packed} -d), and give what comes out"
            )
        raise TargetError(
            f"{path}: got {begins}; expected {_known()}: convert the maps, narrow the pattern, or "
            "copy the file again if it should be one of these"
        )
    return reader


def _known_reader(path: str) -> Reader | None:
    head = head_of(path, HEAD_BYTES)
    return next((reader for reader in READERS.values() if reader.matches(path, head)), None)


def head_of(path: str, size: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a plain file; of anything else, none."""
    if not os.path.isfile(path):  # reading from a pipe would wait for ever
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise TargetError(
            f"{path}: got a file that cannot be opened ({error.strerror}); expected one that may "
            "be read; change its permissions or leave it out"
        ) from error


def _known() -> str:
    names: Sequence[str] = list(READERS)
    return f"{', '.join(names[:-1])} or {names[-1]} data"


def _remedy(path: str) -> str:
    unset = [name for name in paths.variables(path) if name not in os.environ]
    if unset:
        return f"set the variable {listing(unset)}, or correct targets.path"
    return "check targets.path (relative paths start at the working folder)"
