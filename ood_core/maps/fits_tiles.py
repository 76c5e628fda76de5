"""Compressed FITS: unpacked no further than the limits, and tiles that are what they claim.

The decoders of tiles are written in C and trust sizes inside the compressed streams. So only
decoders that check their input are used, and tiles compressed by gzip are unpacked separately
first, up to the size of a tile.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from ood_core.errors import TargetError
from ood_core.limits import Limits

_GZIP = b"\x1f\x8b"
_PIECE = 2**20
_COUNTS = re.compile(rb"\b(?:Z?NAXIS|TFIELDS) *= *\+?0*[1-9]\d{3,}", re.IGNORECASE)
_METHODS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2")
_MAX_PIXEL_BYTES = 8  # bytes
_WIDTHS = {"B": 1, "I": 2, "J": 4}
"""Bytes per element of a column of packed tiles."""


def plain_head(head: bytes, size: int) -> bytes:
    """Return the first bytes of a file as they are once gzip is undone."""
    if not head.startswith(_GZIP):
        return head[:size]
    try:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(head, size)
    except zlib.error:
        return b""


@contextmanager
def unpacked(file: BinaryIO, path: str, limits: Limits) -> Iterator[tuple[BinaryIO, int]]:
    """Give the file as a plain stream, and its length in bytes.

    Raises:
        TargetError: it unpacks to more than the limits allow.
    """
    magic = file.read(len(_GZIP))
    if magic != _GZIP:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield file, length
        return
    file.seek(0)
    most = limits.max_bytes + limits.max_header_bytes
    plain = io.BytesIO()
    with gzip.GzipFile(fileobj=file) as packed:
        while piece := packed.read(_PIECE):
            plain.write(piece)
            if plain.tell() > most:
                raise TargetError(
                    f"{path}: got a file that unpacks to more than {most} bytes; expected at most "
                    "as many (targets.max_bytes and targets.max_header_bytes); save fewer maps, or "
                    "raise targets.max_bytes"
                )
    length = plain.tell()
    plain.seek(0)
    yield plain, length


def require_few_axes(block: bytes) -> None:
    """Refuse header cards that make the parser loop without end.

    Raises:
        OverflowError: more axes or columns than the FITS standard allows, 999.
    """
    found = _COUNTS.search(block)
    if found:
        raise OverflowError(f"{found[0][:60].decode(errors='replace')} is more than 999")


def require_sound_tiles(hdu: Any, stream: BinaryIO, source: str) -> None:
    """Refuse a tile-compressed image whose tiles could make their decoder take any memory.

    Args:
        hdu: any HDU; other kinds are fine.
        stream: the plain file, whose position is kept.
        source: file and HDU, for messages.

    Raises:
        TargetError: a method that is not known to check its input, or a tile that unpacks to more
            than a tile.
    """
    table = packed_table(hdu)
    if table is hdu:
        return
    header, method = table.header, str(table.header["ZCMPTYPE"])
    if method not in _METHODS:
        raise TargetError(
            f"{source}: got tiles compressed by {method[:20]}; expected one of "
            f"{', '.join(_METHODS)}; save the image again, uncompressed or by one of these"
        )
    columns = ["GZIP_COMPRESSED_DATA"]
    if method.startswith("GZIP"):
        columns.append("COMPRESSED_DATA")
    count, most = _tiles(header)
    heap = hdu.fileinfo()["datLoc"]
    heap += int(header.get("THEAP", header["NAXIS1"] * header["NAXIS2"]))
    place = stream.tell()
    for name in set(columns) & set(table.columns.names):
        width = _WIDTHS[str(table.columns[name].format).lstrip("01")[1]]
        for size, offset in table.data.view(np.ndarray)[name][:count].tolist():
            stream.seek(heap + offset)
            _require_tile(stream.read(width * size), most, source)
    stream.seek(place)


def packed_table(hdu: Any) -> Any:
    """Return the table that holds the tiles of a compressed image, or the HDU itself."""
    return getattr(hdu, "_bintable", hdu)  # astropy shows it nowhere else


def _tiles(header: Any) -> tuple[int, int]:
    """Number of tiles, and the most bytes that one can have."""
    count = pixels = 1
    for axis in range(1, int(header["ZNAXIS"]) + 1):
        side = int(header[f"ZNAXIS{axis}"])
        tile = min(int(header.get(f"ZTILE{axis}", side if axis == 1 else 1)), side)
        count, pixels = count * -(-side // tile), pixels * tile
    return count, _MAX_PIXEL_BYTES * pixels


def _require_tile(packed: bytes, most: int, source: str) -> None:
    if not packed:
        return
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as tile:
        if len(tile.read(most + 1)) > most:
            raise TargetError(
                f"{source}: got a tile that unpacks to more than {most} bytes; expected no more, "
                "since its pixels have no more; copy or download the file again"
            )
