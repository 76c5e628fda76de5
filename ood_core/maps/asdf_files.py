"""ASDF files, as the Roman telescope and others write them: one array of the tree.

The package that reads them, asdf, is optional. Arrays that lie in other files are refused.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.mapset import (
    MapSet,
    as_stack,
    choose_array,
    numbered_ids,
    reading,
    require_count,
)

_MAX_DEPTH = 20


def is_asdf(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is ASDF."""
    return head.startswith(b"#ASDF")


def read_asdf(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one array of maps, (y, x), (n, y, x) or (n, c, y, x).

    Args:
        path: the file.
        array: its path in the tree, such as `roman/data`; None takes `maps`, or the only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: asdf is not installed, or the file is damaged or too large, or holds no such
            array.
    """
    with reading(path, "ASDF", "asdf"):
        import asdf

        with (
            warnings.catch_warnings(),
            asdf.config_context() as config,
        ):
            warnings.simplefilter("ignore")  # of tags without a package; their content is read
            config.validate_on_read = False
            with asdf.open(path, lazy_load=True, memmap=False) as file:
                found = dict(_arrays(file.tree, "", 0))
                name = choose_array({name: {} for name in found}, array, path)
                stored, unit = found[name]
                source = f"{path}, array {name}"
                if isinstance(getattr(stored, "_source", None), str):
                    raise TargetError(
                        f"{source}: got values that lie in another file; expected values in the "
                        "file itself; write them with all_array_storage='internal'"
                    )
                needed = math.prod(stored.shape) * max(stored.dtype.itemsize, 4)
                if needed > limits.max_bytes:
                    raise TargetError(
                        f"{source}: got {needed} bytes of maps; expected at most "
                        f"{limits.max_bytes} (targets.max_bytes); choose fewer maps, or raise "
                        "targets.max_bytes"
                    )
                values = stored[...]
                if np.ma.isMaskedArray(values):
                    number = np.result_type(values.dtype, np.float32)
                    values = np.ma.filled(values.astype(number), np.nan)
                stack = as_stack(np.array(values), source, axes)
    require_count(len(stack), source, limits.max_maps)
    return MapSet(stack, numbered_ids(Path(path).stem, len(stack)), unit, "", path)


def _arrays(node: Any, place: str, depth: int) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Arrays of numbers with two axes or more in a tree, by path, with the unit beside them."""
    if depth > _MAX_DEPTH:
        return
    if hasattr(node, "dtype") and hasattr(node, "shape"):
        if len(node.shape) >= 2 and node.dtype.kind in "biuf":
            yield place, (node, str(getattr(node, "unit", "") or ""))
    elif isinstance(node, dict):
        inner = node.get("value")
        if hasattr(inner, "shape") and "unit" in node:  # a quantity whose package is not installed
            for _, (values, _) in _arrays(inner, place, depth + 1):
                yield place, (values, str(node["unit"]))
            return
        for key, value in node.items():
            if key not in ("asdf_library", "history"):
                yield from _arrays(value, f"{place}/{key}".strip("/"), depth + 1)
