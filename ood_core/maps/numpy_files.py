"""Readers of `.npy` and `.npz` files of real maps.

Sizes are taken from the array's own header and compared with a limit before a byte of data is
loaded, so that a small archive that unpacks to a huge array is refused. Pickles are never opened.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from ood_core.errors import TargetError
from ood_core.maps.mapset import MapSet, as_stack, numbered_ids

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy(path: str, max_bytes: int) -> MapSet:
    """Read one array of maps, (y, x), (n, y, x) or (n, c, y, x), from a `.npy` file.

    Args:
        path: the file.
        max_bytes: most bytes that may be loaded.

    Raises:
        TargetError: a file that is missing, truncated, too large, or not such an array.
    """
    try:
        length = Path(path).stat().st_size
        with open(path, "rb") as stream:
            values = _read_array(stream, path, length, max_bytes)
    except (OSError, ValueError, EOFError) as error:
        raise _mended(error, path) from error
    return _as_maps(values, path, Path(path).stem, path)


def read_npz(path: str, array: str | None, max_bytes: int) -> MapSet:
    """Read one member of an `.npz` file, as `read_npy` does.

    Args:
        path: the file.
        array: name of the member; may be None when there is only one.
        max_bytes: most bytes that may be loaded.

    Raises:
        TargetError: as for `read_npy`; a missing member, or several and none named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            info = members[_choose(list(members), array, path)]
            source = f"{path}, member {info.filename.removesuffix('.npy')}"
            with archive.open(info) as stream:
                values = _read_array(stream, source, info.file_size, max_bytes)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise _mended(error, path) from error
    return _as_maps(values, source, Path(path).stem, path)


def _as_maps(values: npt.NDArray[Any], what: str, stem: str, path: str) -> MapSet:
    stack = as_stack(values, what)
    return MapSet(stack, numbered_ids(stem, len(stack)), unit="", header="", source=path)


def _choose(members: list[str], array: str | None, path: str) -> str:
    if array in members:
        return str(array)
    if array is None and len(members) == 1:
        return members[0]
    got = f"no array {array!r}" if array is not None else f"{len(members)} arrays and no choice"
    raise TargetError(
        f"{path}: got {got}; expected one of: {', '.join(members) or '(the file has none)'}; "
        "name it with `array`"
    )


def _read_array(stream: Any, source: str, length: int, max_bytes: int) -> npt.NDArray[Any]:
    """Read an array from a binary stream of `length` bytes, once its header proves harmless."""
    version = npy_format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise TargetError(
            f"{source}: got .npy format {version}; expected 1.0 or 2.0, which plain arrays have; "
            "save the array of numbers with numpy.save"
        )
    shape, fortran, dtype = _HEADER_READERS[version](stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise TargetError(
            f"{source}: got an array of type {dtype}; expected real numbers; convert it with "
            "values.astype('float32') and save it again"
        )
    declared = math.prod(shape) * dtype.itemsize
    if declared > max_bytes:
        raise TargetError(
            f"{source}: got an array of shape {shape}, {declared} bytes; expected at most "
            f"{max_bytes} (max_bytes); save fewer maps or raise max_bytes"
        )
    if declared > length - stream.tell():
        raise TargetError(
            f"{source}: got {length - stream.tell()} bytes of data; expected {declared} for shape "
            f"{shape}; the file is truncated: copy or save it again"
        )
    data = stream.read(declared)
    if len(data) < declared:
        raise TargetError(
            f"{source}: got {len(data)} bytes of data; expected {declared}; the file is truncated: "
            "copy or save it again"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _mended(error: Exception, path: str) -> TargetError:
    if isinstance(error, TargetError):
        return error
    return TargetError(
        f"{path}: got a file that cannot be read ({error}); expected a .npy or .npz file of plain "
        "arrays; check the path, or save it again with numpy.save or numpy.savez"
    )
