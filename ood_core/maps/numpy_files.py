"""Readers of `.npy` and `.npz` files of real maps.

Sizes are taken from the array's own header and compared with a limit before a byte of data is
loaded, so that a small archive that unpacks to a huge array is refused. Pickles are never opened.
"""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from ood_core.errors import TargetError
from ood_core.limits import Limits, Metered, TooMuch
from ood_core.maps.mapset import MapSet, as_stack, choose_array, numbered_ids, require_count

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What numpy writes. LZMA members declare the memory that their decoder takes."""


def is_npy(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes holds one NumPy array."""
    return head.startswith(npy_format.MAGIC_PREFIX)


def is_zip(head: bytes) -> bool:
    """Whether a file with these first bytes is a zip archive."""
    return head.startswith((b"PK\1\2", b"PK\3\4", b"PK\5\6"))


def first_member(head: bytes) -> str:
    """Return the name of the first member of a zip archive; '' where the archive is empty."""
    size = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + size].decode(errors="replace") if head.startswith(b"PK\3\4") else ""


def is_npz(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is a zip archive whose first member is an array."""
    return is_zip(head) and (first_member(head) or ".npy").endswith(".npy")


def read_npy(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one array of maps, (y, x), (n, y, x) or (n, c, y, x), from a `.npy` file.

    Args:
        path: the file.
        array: None; the file holds one array, without a name.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: a file that is missing, truncated, too large, or not such an array; a name.
    """
    require_no_name(array, path)
    with _refusing(path, limits), open(path, "rb") as stream:
        length = os.fstat(stream.fileno()).st_size
        values = _read_array(stream, path, length, limits)
        if stream.tell() < length:
            raise TargetError(
                f"{path}: got {length - stream.tell()} bytes after the end of the array; expected "
                "none; the file is damaged or holds several arrays: save each in a file of its own"
            )
        return _as_maps(as_stack(values, path, axes), path, path, limits)


def read_npz(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read one member of an `.npz` file, as `read_npy` does.

    Args:
        path: the file.
        array: name of the member; None takes `maps`, or the only one.
        limits: most that may be loaded.
        axes: what its axes are, as in `as_stack`.

    Raises:
        TargetError: as for `read_npy`; a missing member, or several and none named.
    """
    with _refusing(path, limits), open(path, "rb") as stream:
        metered = Metered(stream, limits.max_header_bytes)
        with zipfile.ZipFile(cast(BinaryIO, metered)) as archive:
            info = _member(archive, array, path)
            source = f"{path}, member {info.filename.removesuffix('.npy')}"
            metered.allow(os.fstat(stream.fileno()).st_size)
            with archive.open(info) as inner:
                values = _read_array(cast(BinaryIO, inner), source, info.file_size, limits)
        return _as_maps(as_stack(values, source, axes), source, path, limits)


def require_no_name(array: str | None, path: str) -> None:
    """Refuse the name of an array, or of a mask or weight plane, in a `.npy` file.

    Raises:
        TargetError: it has a name.
    """
    if array is not None:
        raise TargetError(
            f"{path}: got the name {array!r} of an array (targets.array, targets.missing); "
            "expected none, for a .npy file holds one array without a name; leave it out, or save "
            "several with numpy.savez"
        )


def mapped_npy(path: str, limits: Limits) -> npt.NDArray[Any]:
    """Map the array of a `.npy` file into memory, so that parts of it can be read.

    Raises:
        TargetError: as `read_npy`, but for the size.
    """
    with _refusing(path, limits), open(path, "rb") as stream:
        metered = Metered(stream, limits.max_header_bytes)
        shape, fortran, dtype = _read_header(metered, path)
        _require_numbers(dtype, path)
        start, length = stream.tell(), os.fstat(stream.fileno()).st_size
        declared = math.prod(shape) * dtype.itemsize
        if declared != length - start or not declared:
            raise TargetError(
                f"{path}: got {length - start} bytes of data; expected {declared} for shape "
                f"{shape}; the file is damaged: copy or save it again"
            )
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


@contextmanager
def _refusing(path: str, limits: Limits) -> Iterator[None]:
    """Turn whatever a damaged file makes its parsers raise into a TargetError."""
    try:
        yield
    except TargetError:
        raise
    except TooMuch as error:
        raise TargetError(
            f"{path}: got more than {limits.max_header_bytes} bytes of header or directory; "
            "expected fewer (targets.max_header_bytes); save the maps in one array of their own, "
            "or raise targets.max_header_bytes"
        ) from error
    except Exception as error:  # zlib, tokenizer and parser raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TargetError(
            f"{path}: got a file that cannot be read ({reason}); expected a .npy or .npz file of "
            "plain arrays; check the path, or save it again with numpy.save or numpy.savez"
        ) from error


def _as_maps(stack: npt.NDArray[Any], what: str, path: str, limits: Limits) -> MapSet:
    require_count(len(stack), what, limits.max_maps)
    ids = numbered_ids(Path(path).stem, len(stack))
    return MapSet(stack, ids, unit="", header="", source=path)


def _member(archive: zipfile.ZipFile, array: str | None, path: str) -> zipfile.ZipInfo:
    members = {
        info.filename.removesuffix(".npy"): info
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }
    info = members[choose_array({name: {} for name in members}, array, path)]
    if info.compress_type not in _METHODS:
        raise TargetError(
            f"{path}: got a member compressed by method {info.compress_type}; expected none or "
            "deflate, as numpy writes; save it again with numpy.savez_compressed"
        )
    return info


def _read_array(stream: BinaryIO, source: str, length: int, limits: Limits) -> npt.NDArray[Any]:
    """Read an array from a binary stream of `length` bytes, once its header proves harmless."""
    metered = Metered(stream, limits.max_header_bytes)
    shape, fortran, dtype = _read_header(metered, source)
    _require_numbers(dtype, source)
    pixels = math.prod(shape)
    declared = pixels * dtype.itemsize
    if max(declared, 4 * pixels) > limits.max_bytes:  # maps are kept as float32
        raise TargetError(
            f"{source}: got an array of shape {shape}, {max(declared, 4 * pixels)} bytes; expected "
            f"at most {limits.max_bytes} (targets.max_bytes); save fewer maps or raise "
            "targets.max_bytes"
        )
    if declared > length - stream.tell():
        raise TargetError(
            f"{source}: got {length - stream.tell()} bytes of data; expected {declared} for shape "
            f"{shape}; the file is truncated: copy or save it again"
        )
    metered.allow(declared)
    data = metered.read(declared)
    if len(data) < declared:
        raise TargetError(
            f"{source}: got {len(data)} bytes of data; expected {declared}; the file is truncated: "
            "copy or save it again"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _require_numbers(dtype: np.dtype[Any], source: str) -> None:
    if dtype.hasobject or dtype.kind not in "biuf":
        remedy = "convert it with values.astype('float32')"
        if dtype.kind == "c":
            remedy = "take its real part, its modulus, or both parts as channels (n, c, y, x),"
        elif dtype.names:
            remedy = f"take one of its fields ({', '.join(dtype.names)[:200]})"
        raise TargetError(
            f"{source}: got an array of type {str(dtype)[:200]}; expected real numbers; {remedy} "
            "and save it again"
        )


def _read_header(metered: Metered, source: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(cast(BinaryIO, metered))
    if version not in _HEADER_READERS:
        raise TargetError(
            f"{source}: got .npy format {version}; expected 1.0 or 2.0, which plain arrays have; "
            "save the array of numbers with numpy.save"
        )
    return _HEADER_READERS[version](cast(BinaryIO, metered))
