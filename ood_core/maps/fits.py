"""FITS files of maps.

Sizes that a header declares are compared with the file and with a limit before data are loaded,
and checksums with the data. Integers are scaled by BSCALE and BZERO in float64, and pixels equal
to BLANK become NaN, which `TargetSet` refuses by name.
"""

import math
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ood_core.errors import TargetError
from ood_core.limits import Limits, Metered, TooMuch
from ood_core.maps.fits_sums import require_lengths, require_whole
from ood_core.maps.fits_tiles import plain_head, require_few_axes, require_sound_tiles, unpacked
from ood_core.maps.mapset import (
    HEADER_END,
    MapSet,
    as_stack,
    combine,
    listing,
    numbered_ids,
    require_count,
)

_MAGIC = re.compile(rb"SIMPLE *=")
BESIDE = "planes beside the maps are not used"
"""How the note begins that names them."""
_MARKS = {"mask": ("MASK", "DQ", "MSK", "BADPIX", "BPM"), "weights": ("WHT", "WGT", "WEIGHT")}
"""Names that planes of missing pixels usually have, by what `targets.missing` calls them."""
_SPELLED_OUT = 40
"""HDUs that a message lists."""


def is_fits(path: str, head: bytes) -> bool:
    """Whether a file with these first bytes is FITS, as it is or compressed by gzip."""
    return _MAGIC.match(plain_head(head, 80)) is not None


def read_fits(path: str, array: str | None, limits: Limits, axes: str | None = None) -> MapSet:
    """Read the maps of a FITS file.

    An image is one map (y, x), maps (n, y, x) or maps with channels (n, c, y, x); a binary table
    gives the cut-outs of its one column of two-dimensional (or channel by y by x) arrays, or of the
    one that `array` names, with the names of its column ID. Other tables are passed over.

    Args:
        path: the file, as it is or compressed by gzip.
        array: which HDUs: a name (EXTNAME), a name with its number (`SCI,2`), a pattern of names
            (`FRAME*`) or a place in the file, 0 being the first. All that fit are combined in
            order. None takes all HDUs that hold maps, as long as they have one name or none.
        limits: most that may be loaded.
        axes: what the axes of an image are, in the order of NumPy, as in `as_stack`.

    Raises:
        TargetError: a file that is unreadable, damaged or too large, holds no such maps, or HDUs of
            several names of which `array` chooses none.
    """
    with opened_fits(path, array, limits) as (hdus, chosen):
        parts = [_read_hdu(hdus, number, path, len(chosen) == 1, axes, array) for number in chosen]
        if 0 not in chosen:  # its cards hold for all extensions
            header = f"{header_text(hdus[0])}\n{HEADER_END}\n{parts[0].header}"
            parts[0] = replace(parts[0], header=header)
        parts[0] = replace(parts[0], notes=_beside(hdus, chosen))
    return combine(parts)


def _beside(hdus: Any, chosen: Sequence[int]) -> tuple[str, ...]:
    """Say that there are planes of missing pixels, which nobody should overlook."""
    others = {hdu.name.upper() for n, hdu in enumerate(hdus) if hdu.is_image and n not in chosen}
    found = [f"{use}: {name}" for use, names in _MARKS.items() for name in names if name in others]
    if not found:
        return ()
    return (f"{BESIDE}; where they mark bad pixels: targets.missing: {{{', '.join(found)}}}",)


@contextmanager
def opened_fits(
    path: str, array: str | None, limits: Limits, lazily: bool = False
) -> Iterator[tuple[Any, list[int]]]:
    """Open a FITS file that is whole, and say which HDUs `array` means, as in `read_fits`.

    Args:
        path: the file.
        array: which HDUs.
        limits: most that may be loaded.
        lazily: whether parts of the images are read, so that the limits do not apply to all.

    Raises:
        TargetError: as `read_fits`.
    """
    with _refusing(path, limits):
        from astropy.io import fits

        with (
            open(path, "rb") as file,  # closed by us, whatever the parser does
            unpacked(file, path, limits) as (plain, length),
        ):
            stream = Metered(plain, limits.max_header_bytes, require_few_axes)
            with fits.open(stream, memmap=False, do_not_scale_image_data=True) as hdus:
                require_lengths(hdus, path, length)
                require_whole(hdus, plain, path, length)
                chosen = _choose(hdus, array, path)
                if not lazily:
                    _require_room([hdus[number] for number in chosen], array, path, limits)
                stream.allow(sys.maxsize if lazily else length)
                for number in chosen:
                    require_sound_tiles(hdus[number], plain, f"{path}, HDU {number}")
                yield hdus, chosen


@contextmanager
def _refusing(path: str, limits: Limits) -> Iterator[None]:
    """Turn whatever a damaged file makes the parser raise into a TargetError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage is found by `fits_sums`
            yield
    except TargetError:
        raise
    except TooMuch as error:
        raise TargetError(
            f"{path}: got more than {limits.max_header_bytes} bytes of FITS headers; expected "
            "fewer (targets.max_header_bytes); save the maps as one image of shape (n, y, x), or "
            "raise targets.max_header_bytes"
        ) from error
    except Exception as error:  # the parser's own failures have no common type
        raise TargetError(_unreadable(path, str(error))) from error


def _unreadable(path: str, reason: str) -> str:
    return (
        f"{path}: got a file that cannot be read as FITS ({' '.join(reason.split())[:500]}); "
        "expected a complete FITS file; check the path, or copy or download the file again"
    )


def _require_room(hdus: Sequence[Any], array: str | None, path: str, limits: Limits) -> None:
    """Compare what the chosen headers declare with the limits."""
    needed = count = 0
    for hdu in hdus:
        shape = hdu.shape if hdu.is_image else _table_shape(hdu, array)
        needed += max(int(hdu.size), 4 * math.prod(shape))  # maps are kept as float32
        count += shape[0] if len(shape) > 2 else 1
    if needed > limits.max_bytes:
        raise TargetError(
            f"{path}: got {needed} bytes of maps; expected at most {limits.max_bytes} "
            "(targets.max_bytes); name one HDU with `array`, save fewer maps, or raise "
            "targets.max_bytes"
        )
    require_count(count, path, limits.max_maps)


def _table_shape(hdu: Any, array: str | None) -> tuple[int, ...]:
    columns = (array and _cutout_columns(hdu, array)) or _cutout_columns(hdu)
    sides = re.findall(r"\d+", str(columns[0].dim))
    return (int(hdu.header["NAXIS2"]), *(int(side) for side in sides))


def _choose(hdus: Any, array: str | None, path: str) -> list[int]:
    """Numbers of the HDUs to read: those that `array` names, or all that hold maps."""
    found = [number for number, hdu in enumerate(hdus) if _holds_maps(hdu)]
    if array is not None:
        wanted = array.strip().upper()
        by_name = [n for n in found if _is_named(hdus[n], wanted)]
        by_place = [n for n in found if wanted == str(n)]
        found = by_name or by_place or [n for n in found if _cutout_columns(hdus[n], array)]
    if not found:
        got = "no maps in the file" if array is None else f"no maps in an HDU {array!r}"
        raise TargetError(
            f"{path}: got {got}, whose HDUs are {_described(hdus)}; expected an image or a table "
            "with a column of two-dimensional arrays; correct `array` or choose another file"
        )
    if array is None and len({_kind(hdus[number], number) for number in found}) > 1:
        raise TargetError(
            f"{path}: got the HDUs {_described(hdus)}, several of which hold images that differ in "
            "name, unit or type, such as maps beside their errors or masks; expected maps of one "
            "kind; choose with `array`: a name, a name with its number (SCI,2), a pattern of names "
            "or a place in the file; planes of masks or weights go to targets.missing"
        )
    return found


def _is_named(hdu: Any, wanted: str) -> bool:
    """Whether EXTNAME, or EXTNAME,EXTVER, is the name that is wanted, or fits the pattern."""
    name = hdu.name.upper()
    return fnmatchcase(name, wanted) or re.sub(r"\s*,\s*", ",", wanted) == f"{name},{hdu.ver}"


def _kind(hdu: Any, number: int) -> tuple[str, str, bool]:
    """What maps of one kind share: EXTNAME, BUNIT, and whether pixels are integers.

    An image in the first HDU is not one of those in the extensions.
    """
    name = str(hdu.header.get("EXTNAME", "" if number else "PRIMARY")).strip().upper()
    whole = bool(hdu.is_image) and int(hdu.header.get("BITPIX", 0)) > 0
    return name, str(hdu.header.get("BUNIT", "")).strip(), whole


def _described(hdus: Any) -> str:
    """Place, name and shape of each HDU."""
    described = []
    for number, hdu in enumerate(hdus[:_SPELLED_OUT]):
        name = f"{number} {hdu.name}" + (f",{hdu.ver}" if hdu.ver != 1 else "")
        shape = " x ".join(map(str, hdu.shape)) if hdu.is_image else "table"
        described.append(f"{name.strip()} ({shape})" if shape else name.strip())
    more = len(hdus) - len(described)
    return ", ".join(described) + (f" and {more} more" if more else "")


def _holds_maps(hdu: Any) -> bool:
    if hdu.is_image:
        return bool(hdu.shape) and 0 not in hdu.shape
    return bool(_cutout_columns(hdu))


def _cutout_columns(hdu: Any, name: str | None = None) -> list[Any]:
    """Columns whose cells are numeric arrays (y, x) or (c, y, x), by TDIM; that of a name alone.

    One of logical values is a mask, and has to be named.
    """
    kinds = "BIJKED" if name is None else "BIJKEDL"
    return [
        column
        for column in getattr(hdu, "columns", [])
        if len(re.findall(r"\d+", str(column.dim))) in (2, 3)
        and re.fullmatch(rf"\d*[{kinds}]", str(column.format))
        and (name is None or column.name.upper() == name.strip().upper())
    ]


def _read_hdu(
    hdus: Any, number: int, path: str, alone: bool, axes: str | None, array: str | None
) -> MapSet:
    hdu = hdus[number]
    stem = re.sub(r"\.(fits?|fts)(\.\w+)*$", "", Path(path).name, flags=re.IGNORECASE)
    stem += "" if alone else f":{hdu.name or number}"
    if hdu.is_image:
        cards = hdu.header
        raw, null, names = hdu.data, cards.get("BLANK"), None
        scale, zero = cards.get("BSCALE"), cards.get("BZERO")
        unit = cards.get("BUNIT", hdus[0].header.get("BUNIT"))
    else:
        column = _cutout_column(hdu, f"{path}, HDU {number}", array)
        raw, names = hdu.data.view(np.ndarray)[column.name], _ids(hdu)
        if str(column.format).endswith("L"):
            raw = raw == ord("T")
        null, scale, zero, unit = column.null, column.bscale, column.bzero, column.unit
    stack = as_stack(
        physical(raw, scale, zero, null), f"{path}, HDU {number}", axes if hdu.is_image else None
    )
    ids = names or numbered_ids(stem, len(stack))
    return MapSet(stack, ids, str(unit or "").strip(), header_text(hdu), source=path)


def _cutout_column(hdu: Any, source: str, array: str | None) -> Any:
    columns = _cutout_columns(hdu, array) if array else []
    columns = columns or _cutout_columns(hdu)
    if len(columns) > 1:
        raise TargetError(
            f"{source}: got the columns {listing([column.name for column in columns])}; expected "
            "one column of two-dimensional arrays; choose with `array`: the name of a column"
        )
    return columns[0]


def _ids(hdu: Any) -> tuple[str, ...] | None:
    for column in hdu.columns:
        # A column of variable lengths could point to the same long text from every row.
        if column.name.upper() == "ID" and re.fullmatch(r"\d*[ABIJKED]", str(column.format)):
            return tuple(str(name).strip() for name in hdu.data.field(column.name))
    return None


def physical(
    raw: npt.NDArray[Any], scale: float | int | None, zero: float | int | None, null: int | None
) -> npt.NDArray[np.float64]:
    """Stored numbers to physical values in float64; missing pixels become NaN.

    `null` is BLANK or TNULL. Of floating-point numbers it counts as well: the standard has no such
    card for them, yet whoever wrote it means it.
    """
    values = np.array(raw, dtype=np.float64)
    values *= 1.0 if scale is None else scale  # in place: maps can be large
    values += 0.0 if zero is None else zero
    if null is not None:
        values[raw == null] = np.nan
    return values


def header_text(hdu: Any) -> str:
    """Return the cards of an HDU as text, one per line."""
    text: str = hdu.header.tostring(sep="\n", endcard=False, padding=False)
    return text
