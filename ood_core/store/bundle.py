"""Named arrays that are written at once by one process: what was fitted, with its diagnostics."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from ood_core.store.arrays import consolidate, persist, zarr_store
from ood_core.store.files import PARTIAL, exists, remove, remove_tree, write_atomic
from ood_core.store.objects import ObjectPlace, answering
from ood_core.store.place import Place, each

Named = tuple[tuple[str, ...], NDArray[Any]]
ROOT = "zarr.json"
"""Metadata of the group: the bundle is there when this is."""


def write_bundle(path: Place, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    """Write `(axis names, values)` per array into a new Zarr group, whole or not at all."""
    if isinstance(path, ObjectPlace):
        _put(path, arrays, attributes)
    else:
        _rename(path, arrays, attributes)


def read_bundle(path: Place, first: str = "") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays whose names begin with `first`, and the attributes of a group."""
    with answering(path):
        group = zarr.open_group(zarr_store(path), mode="r", zarr_format=3)
        wanted = [(name, array) for name, array in group.arrays() if name.startswith(first)]
        values = each(path, lambda found: np.asarray(found[1][:]), wanted)
        names = (name for name, _ in wanted)
        return dict(zip(names, values, strict=True)), dict(group.attrs)


def read_attributes(path: Place) -> dict[str, Any]:
    """Return the attributes of a group; no array is read."""
    with answering(path):
        return dict(zarr.open_group(zarr_store(path), mode="r", zarr_format=3).attrs)


def bundle_exists(path: Place) -> bool:
    """Whether a bundle was written, whole."""
    return exists(path / ROOT)


def _rename(path: Path, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    """Write a temporary folder and rename it."""
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    _fill(str(partial), arrays, attributes)
    shutil.rmtree(path, ignore_errors=True)
    persist(partial, partial)
    os.replace(partial, path)


def _put(path: ObjectPlace, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    """Write the group in memory, then its objects, the one that makes it a group last."""
    kept: dict[str, Buffer] = {}
    _fill(MemoryStore(kept), arrays, attributes)
    remove(path / ROOT)
    remove_tree(path)
    for key in sorted(kept, key=lambda key: (key == ROOT, key)):
        write_atomic(path / key, kept[key].to_bytes())


def _fill(store: str | Store, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    group = zarr.create_group(store=store, attributes=dict(attributes))
    for name, (axes, values) in arrays.items():
        group.create_array(name=name, data=np.ascontiguousarray(values), dimension_names=axes)
    consolidate(group)
