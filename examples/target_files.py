"""How the makers of the example targets write their files: a cube of maps and a table beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

SIZE = 32  # pixels of a cut-out
FIT = 64  # maps to fit to, the first of each file

Places = npt.NDArray[np.int64]


def cut(field: npt.NDArray[Any], centre: Places) -> npt.NDArray[Any]:
    """Return the square whose pixel (SIZE / 2, SIZE / 2) is the centre (row, column)."""
    top, left = centre - SIZE // 2
    return field[top : top + SIZE, left : left + SIZE]


def make_hdus(
    values: npt.NDArray[Any],
    cards: Sequence[tuple[str, Any, str]],
    comments: Sequence[str],
    history: Sequence[str],
    columns: Sequence[fits.Column],
    notes: Sequence[str],
) -> fits.HDUList:
    """Return the FITS file: the cube of maps and the table CUTOUTS with one row per map.

    Args:
        values: the maps (n, y, x); the first FIT are to be fitted to.
        cards: keyword, value and comment, in order.
        comments: COMMENT lines of at most 72 characters, so that no card is broken.
        history: HISTORY lines, likewise.
        columns: columns of the table; the column FIT is added.
        notes: COMMENT lines of the table.
    """
    cube = fits.PrimaryHDU(values)
    header = cube.header
    for keyword, value, comment in cards:
        header[keyword] = (value, comment)
    header["NFIT"] = (FIT, "maps to fit to; the others are held out")
    for line in comments:
        header["COMMENT"] = line
    for line in history:
        header["HISTORY"] = line
    fitted = fits.Column("FIT", "L", array=np.arange(len(values)) < FIT)
    table = fits.BinTableHDU.from_columns([*columns, fitted], name="CUTOUTS")
    for line in notes:
        table.header["COMMENT"] = line
    return fits.HDUList([cube, table])


def place_columns(ids: Sequence[str], centres: Places) -> list[fits.Column]:
    """Return the columns ID, X and Y of cut-outs of one image; `centres` is (n, 2), row first."""
    return [
        fits.Column("ID", f"{max(map(len, ids))}A", array=np.array(ids)),
        fits.Column("X", "J", unit="pixel", array=centres[:, 1]),
        fits.Column("Y", "J", unit="pixel", array=centres[:, 0]),
    ]


def write(hdus: fits.HDUList, name: str, out: Path | None) -> None:
    """Write the file, by default into targets/, and print one line about it."""
    path = out or Path(__file__).parent / "targets" / f"{name}.fits"
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus.writeto(path, overwrite=True)
    print(f"{path}: {' x '.join(map(str, hdus[0].data.shape))}")
