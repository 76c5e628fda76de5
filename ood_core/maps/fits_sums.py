"""Whether a FITS file is whole: by its length and by the checksums that it carries.

Warnings of the parser depend on what was imported and read before, so they are not used.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ood_core.errors import TargetError
from ood_core.maps.fits_tiles import packed_table

_BLOCK = 2880
_PIECE = 2**20
_ALL_ONES = 0xFFFFFFFF
_PADDING = b"\0 "


def require_lengths(hdus: Any, path: str, length: int) -> None:
    """Compare what each header declares with the bytes that the file has.

    Raises:
        TargetError: a header or data that are damaged or not all there.
    """
    for number, hdu in enumerate(map(packed_table, hdus)):
        declared = hdu.fileinfo()["datLoc"] + hdu.size
        declared += -declared % _BLOCK
        if hdu.size < 0 or declared > length:
            raise TargetError(
                f"{path}, HDU {number}: got a file of {length} bytes; expected {declared} from the "
                "dimensions in its headers; the file is truncated or its header is wrong: copy or "
                "download it again"
            )


def require_whole(hdus: Any, plain: BinaryIO, path: str, length: int) -> None:
    """Refuse a file with unread bytes at its end, or with bytes that fail their checksums.

    Args:
        hdus: all HDUs that were understood.
        plain: the file, uncompressed; its position is kept.
        path: the file, for messages.
        length: its length in bytes.

    Raises:
        TargetError: an extension that could not be read, or a checksum that does not fit.
    """
    place = plain.tell()
    last = packed_table(hdus[-1]).fileinfo()
    end = last["datLoc"] + last["datSpan"]
    if any(piece.strip(_PADDING) for piece in _pieces(plain, end, length)):
        raise TargetError(
            f"{path}: got {length - end} bytes after HDU {len(hdus) - 1} that cannot be read; "
            "expected another HDU or the end of the file; the file is truncated or damaged: copy "
            "or download it again"
        )
    for number, hdu in enumerate(map(packed_table, hdus)):
        where = hdu.fileinfo()
        start, data, end = where["hdrLoc"], where["datLoc"], where["datLoc"] + where["datSpan"]
        source = f"{path}, HDU {number}"
        if number and next(_pieces(plain, start, start + 8)) != b"XTENSION":
            raise TargetError(
                f"{source}: got a header that does not begin with XTENSION; expected one of the "
                "FITS standard; the file is damaged: copy or download it again"
            )
        expected = str(hdu.header.get("DATASUM", "")).strip()
        if expected.isdecimal() and _sum(plain, data, end) != int(expected):
            raise _wrong(source, "data", "DATASUM")
        if str(hdu.header.get("CHECKSUM", "")).strip() and _sum(plain, start, end) != _ALL_ONES:
            raise _wrong(source, "header or data", "CHECKSUM")
    plain.seek(place)


def _wrong(source: str, part: str, keyword: str) -> TargetError:
    return TargetError(
        f"{source}: got {part} that do not fit {keyword}; expected the sum that was written with "
        "them; the file is damaged: copy or download it again, or renew the sums with "
        "`fitscheck --write` if you changed it yourself"
    )


def _sum(plain: BinaryIO, start: int, end: int) -> int:
    """The sum of the FITS standard: 32-bit words, ones' complement."""
    total = sum(
        int(np.frombuffer(piece, ">u4").sum(dtype=np.uint64))
        for piece in _pieces(plain, start, end)
    )
    while total >> 32:
        total = (total & _ALL_ONES) + (total >> 32)
    return total


def _pieces(plain: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    plain.seek(start)
    for place in range(start, end, _PIECE):
        yield plain.read(min(_PIECE, end - place))
