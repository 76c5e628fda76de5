"""Named arrays that are written at once by one process: what was fitted, with its diagnostics."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ood_core.store.durable import persist
from ood_core.store.files import PARTIAL

Named = tuple[tuple[str, ...], NDArray[Any]]


def write_bundle(path: Path, arrays: Mapping[str, Named], attributes: Mapping[str, Any]) -> None:
    """Write `(axis names, values)` per array into a new Zarr group, whole or not at all."""
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.create_group(store=str(partial), attributes=dict(attributes))
    for name, (axes, values) in arrays.items():
        group.create_array(name=name, data=np.ascontiguousarray(values), dimension_names=axes)
    shutil.rmtree(path, ignore_errors=True)
    persist(partial, partial)
    os.replace(partial, path)


def read_bundle(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return all arrays and attributes of a group."""
    group = zarr.open_group(str(path), mode="r")
    return {name: np.asarray(array[:]) for name, array in group.arrays()}, dict(group.attrs)
