"""Maps from memory: arrays with a mask or a unit keep both.

What they are is known by their attributes, so that no package is loaded for it: NumPy's masked
arrays, astropy's `Quantity`, `NDData` and `CCDData`, `DataArray` of xarray, and lists of such.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import TargetError


def from_memory(values: Any, unit: str, source: str) -> tuple[NDArray[Any], str]:
    """Return plain numbers, NaN where a mask says that there is none, and their unit.

    Args:
        values: an array, or a list of arrays of one shape.
        unit: what the caller says; '' takes that of the values.
        source: for messages.

    Raises:
        TargetError: arrays of different shapes or units, or what is no array.
    """
    items = values if isinstance(values, list | tuple) else [values]
    try:
        parts = [_numbers(item) for item in items]
        stack = np.stack(parts) if items is values else parts[0]
    except (TypeError, ValueError) as error:
        raise TargetError(
            f"{source}: got what is no array of numbers ({' '.join(str(error).split())[:200]}); "
            "expected maps of one shape, (n, y, x) or (n, c, y, x); crop them to one size"
        ) from error
    found = {_unit(item) for item in items}
    if len(found) > 1 or (unit and found - {"", unit}):
        raise TargetError(
            f"{source}: got values in {' and '.join(map(repr, sorted(found)))}"
            f"{f' and the unit {unit!r}' if unit else ''}; expected one unit; convert the maps"
        )
    return stack, unit or found.pop()


def _numbers(item: Any) -> NDArray[Any]:
    plain = item.data if hasattr(item, "uncertainty") or np.ma.isMaskedArray(item) else item
    array, mask = np.asarray(plain), getattr(item, "mask", None)
    if mask is None or not np.any(mask):
        return array
    return np.where(mask, np.nan, array.astype(np.result_type(array.dtype, np.float32)))


def _unit(item: Any) -> str:
    unit = getattr(item, "unit", None)
    if unit is None:
        unit = getattr(item, "attrs", {}).get("units", "")
    return str(unit).strip()
