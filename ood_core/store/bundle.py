"""Named arrays that are written at once by one process: what was fitted, with its diagnostics.

A Zarr group in a zip file: one file and one request, whole or not there.
"""

import io
from collections.abc import Mapping
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from ood_core.store.arrays import consolidate
from ood_core.store.files import read_bytes, write_atomic
from ood_core.store.place import Place

Named = tuple[tuple[str, ...], NDArray[Any]]


def write_bundle(path: Place, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    """Write `(axis names, values)` per array into a new group; equal content gives equal bytes."""
    kept: dict[str, Buffer] = {}
    group = zarr.create_group(store=MemoryStore(kept), attributes=dict(attributes))
    for name, (axes, values) in arrays.items():
        group.create_array(name=name, data=np.ascontiguousarray(values), dimension_names=axes)
    consolidate(group)
    packed = io.BytesIO()
    with ZipFile(packed, "w") as file:
        for key in sorted(kept):
            file.writestr(ZipInfo(key), kept[key].to_bytes())  # without a date
    write_atomic(path, packed.getvalue())


def read_bundle(path: Place, first: str = "") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays whose names begin with `first`, and the attributes of a group.

    Raises:
        FileNotFoundError: there is none.
    """
    group = _group(path)
    arrays = {n: np.asarray(array[:]) for n, array in group.arrays() if n.startswith(first)}
    return arrays, dict(group.attrs)


def read_attributes(path: Place) -> dict[str, Any]:
    """Return the attributes of a group; no array is decoded."""
    return dict(_group(path).attrs)


def _group(path: Place) -> zarr.Group:
    buffer = default_buffer_prototype().buffer
    with ZipFile(io.BytesIO(read_bytes(path))) as file:
        kept = {name: buffer.from_bytes(file.read(name)) for name in file.namelist()}
    return zarr.open_group(MemoryStore(kept), mode="r", zarr_format=3)
