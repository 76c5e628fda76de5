"""FITS files of maps, in and out.

Sizes that a header declares are compared with the file and with a limit before data are loaded.
Integers are scaled by BSCALE and BZERO in float64, and pixels equal to BLANK become NaN, which
`mapset.check` refuses by name.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ood_core.errors import TargetError
from ood_core.maps.mapset import HEADER_END, MapSet, as_stack, combine, numbered_ids

_COMPANIONS = {"DQ", "ERR", "ERROR", "IVAR", "MASK", "RMS", "VAR", "VARIANCE", "WEIGHT", "WHT"}
_COMPRESSED = {".gz", ".bz2", ".z", ".xz", ".zip"}
_NOT_COPIED = {
    "BITPIX", "BLANK", "BUNIT", "CHECKSUM", "DATAMAX", "DATAMIN", "DATASUM", "EXTLEVEL", "EXTNAME",
    "EXTVER", "NFIT", "ORIGIN", "SIMPLE", "SYNTH", "XTENSION",
}  # fmt: skip
_COPIED_NOTE = "The cards below, down to HISTORY, come from the header of the targets."


def read_fits(path: str, array: str | None, max_bytes: int) -> MapSet:
    """Read the maps of a FITS file.

    An image is one map (y, x), maps (n, y, x) or maps with channels (n, c, y, x); a binary table
    gives the cut-outs of its one column of two-dimensional (or channel by y by x) arrays, with the
    names of its column ID. Other tables are passed over.

    Args:
        path: the file, compressed or not.
        array: name or number of the HDU; None combines all HDUs that hold maps, in order.
        max_bytes: most bytes that may be loaded.

    Raises:
        TargetError: a file that is unreadable, truncated or too large, or holds no such maps.
    """
    with _refusing(path):
        from astropy.io import fits

        length = Path(path).stat().st_size
        with fits.open(path, memmap=False, do_not_scale_image_data=True) as hdus:
            _require_lengths(hdus, path, length)
            chosen = _choose(hdus, array, path)
            _require_memory([hdus[number] for number in chosen], path, max_bytes)
            parts = [_read_hdu(hdus, number, path, len(chosen) == 1) for number in chosen]
    return combine(_with_primary_header(parts))


def write_fits(
    path: str,
    values: npt.NDArray[np.float32],
    unit: str,
    header_text: str,
    cards: Mapping[str, tuple[Any, str]],
    history: Sequence[str],
) -> None:
    """Write maps as one float32 image: (n, y, x) for one channel, else (n, c, y, x).

    Cards of the targets' header are carried over where they describe the whole set: those on which
    all header blocks agree, without the ones that describe the layout of the old file.

    Args:
        path: the file; an existing one is replaced.
        values: shape (n, c, y, x), in `unit`.
        unit: BUNIT; '' writes none.
        header_text: header of the targets, as in `MapSet.header`.
        cards: keyword to value and comment, written last and therefore binding, such as SYNTH.
        history: lines added after the targets' own HISTORY.
    """
    from astropy.io import fits

    hdu = fits.PrimaryHDU(np.asarray(values[:, 0] if values.shape[1] == 1 else values, "f4"))
    header = hdu.header
    if unit:
        header["BUNIT"] = _ascii(unit)
    header["ORIGIN"] = ("Farfield", "program that wrote this file")
    for keyword, (value, comment) in cards.items():
        header[keyword] = (_ascii(value) if isinstance(value, str) else value, _ascii(comment))
    copied = _common_cards(header_text)
    if copied:
        header.add_comment(_COPIED_NOTE)
    for card in copied:
        if card.keyword in ("COMMENT", "HISTORY", "") or card.keyword not in header:
            header.append(card, end=True)
    for line in history:
        header.add_history(_ascii(line))
    hdu.writeto(path, overwrite=True, output_verify="silentfix+ignore")


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the parser raise or warn about into a TargetError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except TargetError:
            raise
        except Exception as error:  # the parser's own failures have no common type
            raise TargetError(_unreadable(path, str(error))) from error
    for warning in caught:
        # Otherwise the parser stops at a damaged extension and its maps would be lost unnoticed.
        if re.search("truncated|corrupt", str(warning.message)):
            raise TargetError(_unreadable(path, str(warning.message)))


def _unreadable(path: str, reason: str) -> str:
    return (
        f"{path}: got a file that cannot be read as FITS ({' '.join(reason.split())}); expected a "
        "complete FITS file; check the path, or copy or download the file again"
    )


def _require_lengths(hdus: Any, path: str, length: int) -> None:
    """Compare what each header declares with the bytes that the file has."""
    if Path(path).suffix.lower() in _COMPRESSED:
        return
    number = 0
    while True:
        try:
            hdu = hdus[number]
        except IndexError:
            return
        declared = hdu.fileinfo()["datLoc"] + _stored_bytes(hdu)
        if declared > length:
            raise TargetError(
                f"{path}, HDU {number}: got a file of {length} bytes; expected {declared} from the "
                "dimensions in its headers; the file is truncated or its header is wrong: copy or "
                "download it again"
            )
        number += 1


def _stored_bytes(hdu: Any) -> int:
    header = getattr(hdu, "_header", hdu.header) if "XTENSION" in hdu.header else hdu.header
    axes = [int(header[f"NAXIS{axis + 1}"]) for axis in range(header["NAXIS"])]
    if min(axes, default=0) < 0:
        raise ValueError(f"negative dimensions {axes}")
    if not axes or type(hdu).__name__ == "CompImageHDU":
        return 0  # the table behind a compressed image is checked by the parser when it is read
    items = math.prod(axes) + int(header.get("PCOUNT", 0))
    return abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * items


def _require_memory(hdus: Sequence[Any], path: str, max_bytes: int) -> None:
    needed = 0
    for hdu in hdus:
        pixels = math.prod(hdu.shape) if hdu.is_image else 0
        needed += max(int(hdu.size), 4 * pixels)
    if needed > max_bytes:
        raise TargetError(
            f"{path}: got {needed} bytes of maps; expected at most {max_bytes} (max_bytes); name "
            "one HDU with `array`, save fewer maps, or raise max_bytes"
        )


def _choose(hdus: Any, array: str | None, path: str) -> list[int]:
    names = [f"{number} {hdu.name}".strip() for number, hdu in enumerate(hdus)]
    if array is not None:
        found = [
            number
            for number, hdu in enumerate(hdus)
            if array.strip().upper() in (str(number), hdu.name.upper())
        ]
        if not found or not _holds_maps(hdus[found[0]]):
            got = "no such HDU" if not found else "an HDU without maps"
            raise TargetError(
                f"{path}: got {got} as {array!r}; expected an image or a table of cut-outs, among "
                f"the HDUs {', '.join(names)}; correct `array`"
            )
        return found
    found = [number for number, hdu in enumerate(hdus) if _holds_maps(hdu)]
    if not found:
        raise TargetError(
            f"{path}: got no image data in the HDUs {', '.join(names)}; expected an image or a "
            "table with a column of two-dimensional arrays; choose another file"
        )
    companions = [names[number] for number in found if hdus[number].name in _COMPANIONS]
    if companions and len(found) > 1:
        raise TargetError(
            f"{path}: got the HDUs {', '.join(names)}, of which {', '.join(companions)} look like "
            "errors or masks; expected maps of one kind; name the HDU of the maps with `array`"
        )
    return found


def _holds_maps(hdu: Any) -> bool:
    if hdu.is_image:
        return bool(hdu.shape) and 0 not in hdu.shape
    return bool(_cutout_columns(hdu))


def _cutout_columns(hdu: Any) -> list[Any]:
    """Columns whose cells are numeric arrays (y, x) or (c, y, x), by TDIM."""
    columns = getattr(hdu, "columns", [])
    return [
        column
        for column in columns
        if column.dim is not None
        and len(re.findall(r"\d+", str(column.dim))) in (2, 3)
        and re.fullmatch(r"\d*[BIJKED]", str(column.format))
    ]


def _read_hdu(hdus: Any, number: int, path: str, alone: bool) -> MapSet:
    hdu = hdus[number]
    source = f"{path}, HDU {number}"
    stem = Path(path).name.split(".fit")[0] + ("" if alone else f":{hdu.name or number}")
    if not alone and [other.name for other in hdus].count(hdu.name) > 1 and hdu.name:
        stem += f",{hdu.ver}" if hdu.ver != 1 else ""
    header = hdu.header.tostring(sep="\n", endcard=False, padding=False)
    header = "\n".join(line.rstrip() for line in header.split("\n"))
    if hdu.is_image:
        unit = hdu.header.get("BUNIT", hdus[0].header.get("BUNIT", ""))
        stack = as_stack(_image(hdu), source)
        ids = numbered_ids(stem, len(stack))
    else:
        stack, unit, names = _table(hdu, source)
        ids = names or numbered_ids(stem, len(stack))
    return MapSet(stack, ids, str(unit or "").strip(), header, source=path)


def _image(hdu: Any) -> npt.NDArray[np.float64]:
    """Physical values of an image, BLANK pixels NaN."""
    raw = hdu.data
    return _physical(
        raw, hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0), hdu.header.get("BLANK")
    )
