"""Values that the CF conventions pack: integers with a scale and an offset, and missing pixels.

Zarr and NetCDF files keep numbers in attributes beside an array: `scale_factor`, `add_offset`,
`_FillValue`, `missing_value`, `_Unsigned`, `valid_range`, `valid_min`, `valid_max`. The `units` are
those of the unpacked values. xarray shows the same values that this gives, but for those that are
not valid: these are missing by the conventions (section 2.5.1), and it shows them.
"""

import base64
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import TargetError

MISSING = ("_FillValue", "missing_value")


def unpacked(values: NDArray[Any], attributes: Mapping[str, Any], source: str) -> NDArray[Any]:
    """Return the values that an array means; missing ones become NaN.

    Args:
        values: the array as it is stored.
        attributes: its attributes.
        source: file and array, for messages.

    Raises:
        TargetError: an attribute that is no number.
    """
    stored = values
    if str(attributes.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        stored = values.view(values.dtype.str.replace("i", "u"))
    missing = np.zeros(stored.shape, bool)
    for number in _missing(attributes, stored.dtype, source):
        missing |= stored == number
    scale = _number(attributes, "scale_factor", 1.0, source)
    offset = _number(attributes, "add_offset", 0.0, source)
    packed = (scale, offset) != (1.0, 0.0)
    decoded = stored
    if packed:
        decoded = stored.astype(np.float64)
        decoded *= scale
        decoded += offset
    for edge, beyond in zip(_valid(attributes, source), (np.less, np.greater), strict=True):
        if edge is not None:
            # Of packed integers it is a stored value, unless it is no integer (NUG, appendix A).
            whole = stored.dtype.kind in "iu" and edge.dtype.kind in "iu"
            values, number = (stored, edge) if whole or not packed else (decoded, edge)
            kept = number.item() if whole and number >= 0 else _in_type(number.item(), values.dtype)
            missing |= beyond(values, kept)
    if not missing.any():
        return decoded
    decoded = decoded.astype(np.float64)
    decoded[missing] = np.nan
    return decoded


def text(value: Any) -> str:
    """Return a text attribute as text: some libraries give bytes or arrays of one."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(attributes: Mapping[str, Any], name: str, usual: float, source: str) -> float:
    if name not in attributes:
        return usual
    try:
        number = float(np.asarray(attributes[name], dtype=np.float64).reshape(-1)[0])
    except (IndexError, TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise _wrong(name, attributes[name], source)
    return number


def _valid(attributes: Mapping[str, Any], source: str) -> list[NDArray[Any] | None]:
    """Least and largest valid value, each a number; None where there is none."""
    pair = attributes.get("valid_range")
    found: list[NDArray[Any] | None] = []
    for place, name in enumerate(("valid_min", "valid_max")):
        value = attributes.get(name)
        if value is None and pair is not None:
            name, both = "valid_range", np.asarray(pair).reshape(-1)
            if len(both) != 2:
                raise _wrong(name, pair, source)
            value = both[place]
        if value is None:
            found.append(None)
            continue
        number = np.asarray(value).reshape(-1)
        if len(number) != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number[0]):
            raise _wrong(name, value, source)
        found.append(number[0])
    return found


def _missing(attributes: Mapping[str, Any], dtype: np.dtype[Any], source: str) -> list[Any]:
    """Stored values that stand for missing pixels, in the type of the array."""
    found: list[Any] = []
    for name in MISSING:
        value = attributes.get(name)
        values = value if isinstance(value, list | tuple | np.ndarray) else [value]
        for one in np.asarray(values, dtype=object).reshape(-1).tolist():
            if one is None:
                continue
            try:
                found.append(_in_type(one, dtype))
            except (TypeError, ValueError, struct.error) as error:
                raise _wrong(name, one, source) from error
    return found


def _in_type(value: Any, dtype: np.dtype[Any]) -> Any:
    """The number in the type of the array; xarray writes floats to Zarr 3 in base 64."""
    if isinstance(value, str):
        try:
            return np.float64(value).astype(dtype)
        except ValueError:
            packed = base64.standard_b64decode(value)
            return np.float64(struct.unpack("<d", packed)[0]).astype(dtype)
    if dtype.kind == "u" and value < 0:  # written for the signed type
        return np.asarray(value).astype(dtype.str.replace("u", "i")).view(dtype)[()]
    return np.asarray(value, dtype=np.float64 if dtype.kind == "f" else None).astype(dtype)[()]


def _wrong(name: str, value: Any, source: str) -> TargetError:
    return TargetError(
        f"{source}: got {name} = {str(value)[:50]!r}; expected a finite number, by which the "
        "stored values are unpacked; correct the attribute"
    )
