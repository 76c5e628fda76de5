"""A field with injected objects as FITS, with the table of what was laid: in it and as ECSV."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import InputError
from ood_core.exporting.cards import own_cards, plain
from ood_core.exporting.exports import answering_of, renamed
from ood_core.exporting.source import About
from ood_core.maps.mapset import HEADER_END
from ood_core.synthesis.injection import Injected

OURS = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "EXTEND",
    "PCOUNT", "GCOUNT", "BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM",
)  # fmt: skip
"""Cards of the field's file that are about its layout."""
WORDS = {
    "sample": ("", "number of the sample"),
    "x": ("pix", "middle of the light, 0 being the centre of the first pixel"),
    "y": ("pix", "middle of the light"),
    "ra": ("deg", "right ascension of (x, y)"),
    "dec": ("deg", "declination of (x, y)"),
    "flux": (None, "sum of what was added to the pixels, per channel"),
    "half_light_radius": ("pix", "holds half of the light laid"),
    "e1": ("", "ellipticity, (Qxx - Qyy) / (Qxx + Qyy)"),
    "e2": ("", "ellipticity, 2 Qxy / (Qxx + Qyy)"),
    "lost": ("", "part of the light beyond the border or on missing pixels"),
}
"""Columns of the catalogue: unit (None: that of the field) and what they are."""


def catalogue_path(path: Path) -> Path:
    """Where the catalogue goes: beside the field, with the ending `.ecsv`."""
    return path.with_suffix(".ecsv")


def require_free(path: Path) -> None:
    """Refuse a place before the work begins.

    Raises:
        InputError: another ending than `.fits`, or files that are there already.
    """
    if path.suffix != ".fits":
        raise InputError(f"{path}: got another ending; expected a new file NAME.fits")
    for file in (path, catalogue_path(path)):
        if file.exists() or file.is_symlink():
            raise InputError(f"{file}: got a file that exists; choose another name, or remove it")


def write_injected(
    path: Path, found: Injected, samples: NDArray[np.int64], header: str, about: About
) -> None:
    """Write the image with the cards of the field's file, the table TRUTH, and the table as ECSV.

    Args:
        path: the `.fits` file.
        found: field and catalogue; an axis of one channel is left out.
        samples: number of every cut-out in its run.
        header: cards of the field's file.
        about: the run.

    Raises:
        InputError: a place that cannot be.
        StoreUnwritable: the disk is full or read-only.
    """
    from astropy.io import fits
    from astropy.table import Column, Table
    from astropy.wcs import WCS

    first = header.split(f"\n{HEADER_END}\n")[-1]  # that of the image, after a primary one
    cards = fits.Header.fromstring("\n".join(x.ljust(80) for x in first.split("\n")), sep="\n")
    for name in OURS:
        cards.remove(name, ignore_missing=True)
    for keyword, value, comment in own_cards(about):
        cards[keyword] = (value, "field with synthetic objects" if keyword == "SYNTH" else comment)
    columns: dict[str, Any] = dict(found.truth)
    columns = {"sample": samples[columns.pop("cutout")], **columns}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(cards).celestial if first.strip() else None
    if wcs is not None and wcs.has_celestial:
        columns["ra"], columns["dec"] = wcs.all_pix2world(columns["x"], columns["y"], 0)
    if columns["flux"].shape[1] == 1:
        columns["flux"] = columns["flux"][:, 0]
    unit = plain(about.unit)
    table = Table(meta={"RUN": about.run, "RUNSTATE": about.state, "FIELD": path.name})
    for name, (of, words) in WORDS.items():
        if name in columns:
            table[name] = Column(columns[name], description=words)
            table[name].unit = of if of is not None else _unit(unit)
    image = found.field[0] if len(found.field) == 1 else found.field
    with answering_of(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about units that FITS does not know
        path.parent.mkdir(parents=True, exist_ok=True)
        with renamed(catalogue_path(path)) as partial:
            table.write(partial, format="ascii.ecsv")
        rows = fits.BinTableHDU(table, name="TRUTH")
        hdus = fits.HDUList([fits.PrimaryHDU(image.astype(">f4"), cards), rows])
        with renamed(path) as partial, open(partial, "wb") as file:
            hdus.writeto(file, checksum=True)


def _unit(text: str) -> Any:
    """A unit that the table knows; what it does not know is kept as it is written."""
    from astropy.units import Unit

    return Unit(text, parse_strict="silent") if text else None
