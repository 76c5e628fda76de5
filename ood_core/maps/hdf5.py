"""HDF5 and NetCDF 4 files: one data set of maps, packed values decoded by the CF conventions.

The package that reads them, h5py, is optional. Data that lie in other files are refused. A chunk is
unpacked by the HDF5 library itself, which takes as much memory as the chunk declares.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps import cf
from ood_core.maps.mapset import (
    CF_NAMES,
    MapSet,
    as_stack,
    choose_array,
    listing,
    numbered_ids,
    reading,
    require_count,
)

_MAGIC = b"\x89HDF\r\n\x1a\n"
_PLACES = (0, 512, 1024, 2048)
_ENDINGS = re.compile(r"\.(h5|hdf5?|he5|nc4?)$", re.IGNORECASE)


def is_hdf5(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is HDF5; NetCDF 4 files are."""
    return any(head[place:].startswith(_MAGIC) for place in _PLACES)


def read_hdf5(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one data set of maps, (y, x), (n, y, x) or (n, c, y, x).

    Args:
        path: the file.
        array: its path in the file, such as `sim/density`; None takes `maps`, or the only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: h5py is not installed, or the file is damaged or too large, or holds no such
            data set.
    """
    with reading(path, "HDF5", "hdf5"):
        import h5py

        with h5py.File(path, "r") as file:
            found = _choose(h5py, file, array, path, limits)
            source = f"{path}, data set {found.name}"
            _require_room(found, source, limits)
            attributes = dict(found.attrs)
            values = as_stack(cf.unpacked(np.asarray(found[...]), attributes, source), source, axes)
            notes = _absent_chunks(found, source)
        unit = cf.text(attributes.get("units", attributes.get("unit", "")))
        ids = numbered_ids(_ENDINGS.sub("", Path(path).name), len(values))
        return MapSet(values, ids, unit, "", path, notes)


def _absent_chunks(found: Any, source: str) -> tuple[str, ...]:
    """Say that chunks were never written, as of a program that was stopped: they are one value."""
    if not found.chunks:
        return ()
    sides = zip(found.shape, found.chunks, strict=True)
    chunks = math.prod(-(-side // chunk) for side, chunk in sides)
    absent = chunks - found.id.get_num_chunks()
    if absent <= 0:
        return ()
    return (
        f"{source}: {absent} of {chunks} chunks were never written and are read as "
        f"{found.fillvalue}; if the values there should differ, the program that wrote the file "
        "was stopped: write it again",
    )


def _choose(h5py: Any, file: Any, array: str | None, path: str, limits: Limits) -> Any:
    """The data set called `array`; links to other files are not followed."""
    found: dict[str, Any] = {}
    others: list[str] = []

    def look(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or len(item.shape or ()) < 2:
            return
        if item.dtype.kind in "biuf":
            found[name] = item
        else:
            others.append(f"{name} of type {str(item.dtype)[:100]}")
        require_count(len(found) + len(others), path, limits.max_maps)

    file.visititems(look)
    wanted = array is not None and any(o.startswith(f"{array.strip('/')} of ") for o in others)
    if others and (wanted or not found):
        raise TargetError(
            f"{path}: got {listing(others)}; expected real numbers; save the real part, the "
            "modulus or one field of it as a data set of its own"
        )
    words = {name: {k: cf.text(v) for k, v in _named(item)} for name, item in found.items()}
    return found[choose_array(words, array, path)]


def _named(item: Any) -> Iterator[tuple[str, Any]]:
    """Attributes that name other data sets."""
    return ((key, value) for key, value in item.attrs.items() if key in CF_NAMES)


def _require_room(found: Any, source: str, limits: Limits) -> None:
    """Compare what the file declares with the limits, and refuse data that lie elsewhere."""
    if found.is_virtual or found.external:
        raise TargetError(
            f"{source}: got values that lie in other files; expected values in the file itself; "
            "copy them with h5repack, or give the other files"
        )
    needed = math.prod(found.shape) * max(found.dtype.itemsize, 4)  # maps are kept as float32
    if needed > limits.max_bytes:
        raise TargetError(
            f"{source}: got {needed} bytes of maps; expected at most {limits.max_bytes} "
            "(targets.max_bytes); choose fewer maps, or raise targets.max_bytes"
        )
    require_count(found.shape[0] if found.ndim > 2 else 1, source, limits.max_maps)
