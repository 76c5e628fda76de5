"""NetCDF 3 files, classic and with 64-bit offsets, decoded by the CF conventions like NetCDF 4.

SciPy maps the file into memory, so that what a header declares takes none before it is compared.
"""

import math
import re
import warnings
from pathlib import Path

import numpy as np

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps import cf
from ood_core.maps.mapset import (
    MapSet,
    as_stack,
    choose_array,
    numbered_ids,
    reading,
    require_count,
)


def is_netcdf3(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is NetCDF 3."""
    return head.startswith((b"CDF\1", b"CDF\2"))


def read_netcdf3(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one variable of maps, (y, x), (n, y, x) or (n, c, y, x).

    Args:
        path: the file.
        array: name of the variable; None takes `maps`, or the only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: the file is damaged or too large, or holds no such variable.
    """
    from scipy.io import netcdf_file

    with reading(path, "NetCDF 3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a map of the file that closes when it is dropped
        with netcdf_file(path, mmap=True, maskandscale=False) as file:
            found = {
                name: {key: _plain(value) for key, value in item._attributes.items()}
                for name, item in file.variables.items()
                if len(item.shape) >= 2 and item.data.dtype.kind in "iuf"
            }
            name = choose_array(found, array, path)
            variable = file.variables[name]
            source = f"{path}, variable {name}"
            _require_room(variable.shape, variable.data.dtype.itemsize, source, limits)
            stored = np.array(variable.data, dtype=variable.data.dtype.newbyteorder("="))
            del variable
    attributes = found[name]
    values = as_stack(cf.unpacked(stored, attributes, source), source, axes)
    unit = cf.text(attributes.get("units", ""))
    stem = re.sub(r"\.(nc3?|cdf)$", "", Path(path).name, flags=re.IGNORECASE)
    return MapSet(values, numbered_ids(stem, len(values)), unit, "", path)


def _plain(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _require_room(shape: tuple[int, ...], width: int, source: str, limits: Limits) -> None:
    needed = math.prod(shape) * max(width, 4)  # maps are kept as float32
    if needed > limits.max_bytes:
        raise TargetError(
            f"{source}: got {needed} bytes of maps; expected at most {limits.max_bytes} "
            "(targets.max_bytes); choose fewer maps, or raise targets.max_bytes"
        )
    require_count(shape[0] if len(shape) > 2 else 1, source, limits.max_maps)
