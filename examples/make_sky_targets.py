"""Make the example targets sun, perseus and dust from images that two packages ship.

    python examples/make_sky_targets.py sun SUNPY/data/test/2022_04_01__*_EUI_FSI_174.jp2
    python examples/make_sky_targets.py perseus ASTRODENDRO/docs/PerA_Extn2MASS_F_Gal.fits
    python examples/make_sky_targets.py dust ASTRODENDRO/docs/PerA_Extn2MASS_F_Gal.fits

targets/README.md says how to get them. Nothing is rescaled. Files of sun and perseus hold the maps
to fit to first and then, from another region of the same image, those to hold out; dust is the
whole image, which a run cuts into tiles.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from PIL import Image
from target_files import FIT, SIZE, Places, cut, make_hdus, place_columns, write

MADE_BY = "Made by examples/make_sky_targets.py of Farfield"

# Sun: the solar disc in the image, from EUXCEN, EUYCEN, RSUN_ARC and CDELT1 of its header.
DISC_CENTRE = (3072 - 1308.0, 2047.0)  # row (from the top) and column, pixels
DISC_RADIUS = 2790.41 / 4.44012  # pixels
MIN_CONTRAST = 5.0  # display levels, standard deviation within a cut-out
FIT_COLUMNS = (1952, 2080)  # pixels: a band from pole to pole, so that it has all latitudes
SUN_HELD_OUT = 320  # maps
SUN_GAP = 32  # pixels on both sides of the band
SUN_SEED = 20220401

# Perseus.
FIRST_FIT_ROW = 189  # the rows above hold IC 348 and B5, those below NGC 1333 and L1448
PERSEUS_GAP = 16  # pixels
STRIDE = 12  # pixels
PERSEUS_CREDIT = (
    "Credit: COMPLETE Survey of Star Forming Regions (Ridge et al. 2006, AJ",
    "131, 2921), from 2MASS stars; http://hdl.handle.net/10904/10080",
    "Licence: MIT, that of astrodendro, which ships the file.",
)
MIN_SPREAD = 0.3302  # mag, standard deviation within a patch: FIT of them reach it


def make_sun(source: Path) -> fits.HDUList:
    """Cut the solar disc into disjoint squares; a band from pole to pole is to be fitted to."""
    with Image.open(source) as image:
        field = np.asarray(image)
    require_shape(field, (3072, 3040), source)
    corner = np.arange(0, min(field.shape) - SIZE, SIZE)
    centres = np.stack(np.meshgrid(corner, corner, indexing="ij"), axis=-1).reshape(-1, 2) + 16
    reach = np.abs(centres - 0.5 - DISC_CENTRE) + SIZE / 2  # farthest corner of the cut-out
    centres = centres[np.hypot(reach[:, 0], reach[:, 1]) < DISC_RADIUS]
    centres = np.array([c for c in centres if cut(field, c).std() >= MIN_CONTRAST])
    left, right = centres[:, 1] - SIZE // 2, centres[:, 1] + SIZE // 2
    inside = (left >= FIT_COLUMNS[0]) & (right <= FIT_COLUMNS[1])
    outside = (right <= FIT_COLUMNS[0] - SUN_GAP) | (left >= FIT_COLUMNS[1] + SUN_GAP)
    random = np.random.default_rng(SUN_SEED)
    parts = [
        part[np.sort(random.choice(len(part), count, replace=False))]
        for part, count in ((centres[inside], FIT), (centres[outside], SUN_HELD_OUT))
    ]
    chosen = np.concatenate(parts)
    return make_hdus(
        np.stack([cut(field, centre) for centre in chosen]),
        [
            ("BUNIT", "display", "8-bit display levels, stretch unknown"),
            ("OBJECT", "Sun", ""),
            ("TELESCOP", "SOLO/EUI/FSI", "Solar Orbiter, Full Sun Imager"),
            ("WAVELNTH", 174, "[Angstrom]"),
            ("DATE-OBS", "2022-04-01T00:00:45.248", ""),
            ("PIXSCALE", 4.44012445, "[arcsec] pixel scale of both axes"),
        ],
        [
            "Real data: cut-outs of one EUV image of the Sun, by the Full Sun Imager",
            "of EUI on Solar Orbiter, 174 A, from sunpy/data/test/2022_04_01__00_00_",
            "45__SOLO-EUI-FSI_EUI_FSI_174.jp2 (3040 x 3072 px) of sunpy 7.0.5.",
            "Made from solo_L2_eui-fsi174-image_20220401T000045248_V01.fits.",
            "Credit: Solar Orbiter/EUI team (ESA & NASA; CSL, IAS, MPS, MSSL/UCL,",
            "PMOD/WRC, ROB, LCF/IO); JPEG 2000 by the Royal Observatory of Belgium.",
            "Licence: its header states Copyright: Public Domain.",
            "Values: display levels 0 to 255 of an 8-bit JPEG 2000 of 93 kB. The",
            "stretch is unknown: this is not calibrated flux, and compression has",
            "smoothed the faint parts.",
            "Row 0 is the top of the image (most FITS viewers show it at the bottom).",
            "The first NFIT maps come from a band of columns from pole to pole, the",
            "others from both sides of it. No two maps share a pixel.",
            "One image of one day: all maps share the Sun of that day.",
        ],
        [
            MADE_BY,
            f"Squares of a {SIZE} px grid wholly on the disc, deviation >= {MIN_CONTRAST} levels",
            f"Fit: columns {FIT_COLUMNS[0]} to {FIT_COLUMNS[1] - 1}; gap {SUN_GAP} px; drawn with "
            f"seed {SUN_SEED}",
        ],
        place_columns([f"sun-x{x:04d}-y{y:04d}" for y, x in chosen], chosen),
        [
            "X and Y: column and row in the image (from 0, from its top) of pixel",
            "(16, 16) of the cut-out, counted from 0.",
        ],
    )


def require_shape(field: npt.NDArray[Any], shape: tuple[int, int], source: Path) -> None:
    """Refuse another image than the one whose regions are written above."""
    if field.shape != shape:
        raise SystemExit(
            f"{source}: got {field.shape} pixels (rows, columns); expected {shape}; take the file "
            "that targets/README.md names"
        )


def make_perseus(source: Path) -> fits.HDUList:
    """Cut overlapping patches that hold cloud from the two parts of the extinction map."""
    field = fits.getdata(source).astype(np.float64)
    require_shape(field, (313, 217), source)
    rows, columns = field.shape
    parts = []
    for first, last in ((FIRST_FIT_ROW, rows), (0, FIRST_FIT_ROW - PERSEUS_GAP)):
        grid = np.mgrid[first : last - SIZE + 1 : STRIDE, 0 : columns - SIZE + 1 : STRIDE]
        centres = grid.reshape(2, -1).T + SIZE // 2
        parts.append(np.array([c for c in centres if cut(field, c).std() >= MIN_SPREAD]))
    chosen: Places = np.concatenate(parts)
    assert len(parts[0]) == FIT, "MIN_SPREAD is chosen so"
    areas = [covered(part, field.shape) / SIZE**2 for part in parts]
    return make_hdus(
        np.stack([cut(field, centre) for centre in chosen]).astype(np.float32),
        [
            ("BUNIT", "mag", "visual extinction A_V"),
            ("OBJECT", "Perseus A", "Perseus molecular cloud"),
            ("PIXSCALE", 2.5, "[arcmin] pixel scale of both axes, galactic"),
            ("AREAFIT", round(areas[0], 1), "area under the maps to fit to, in maps"),
            ("AREAHELD", round(areas[1], 1), "area under the held-out maps, in maps"),
        ],
        [
            "Real data: patches of the dust extinction map of the Perseus cloud,",
            "docs/PerA_Extn2MASS_F_Gal.fits (217 x 313 px) of astrodendro 0.2.0.",
            *PERSEUS_CREDIT,
            "Values: magnitudes of extinction, as in the source, unchanged. Noise",
            "makes a few negative.",
            f"Patches overlap: stride {STRIDE} px, size {SIZE} px. They cover no more area",
            "than AREAFIT and AREAHELD disjoint maps would: so few are independent.",
            "The first NFIT maps come from the upper rows (IC 348, B5), the others",
            "from the lower (NGC 1333, L1448). A gap of 16 px lies between them.",
        ],
        [
            MADE_BY,
            f"Patches with a standard deviation of {MIN_SPREAD} mag or more",
            f"Fit: rows from {FIRST_FIT_ROW}; gap of {PERSEUS_GAP} px between the two parts",
        ],
        place_columns([f"perseus-x{x:03d}-y{y:03d}" for y, x in chosen], chosen),
        [
            "X and Y: column and row in the source array (from 0) of pixel (16, 16)",
            "of the patch, counted from 0.",
        ],
    )


def make_dust(source: Path) -> fits.HDUList:
    """Keep the extinction map as it is, and say its unit and whose it is."""
    hdus = fits.open(source, mode="denywrite", memmap=False)
    require_shape(hdus[0].data, (313, 217), source)
    header = hdus[0].header
    for old in ("CHECKSUM", "DATASUM"):  # of the header before the lines below
        header.remove(old)
    header["BUNIT"] = ("mag", "visual extinction A_V")
    header["OBJECT"] = ("Perseus A", "Perseus molecular cloud")
    for line in (
        "Real data: docs/PerA_Extn2MASS_F_Gal.fits of astrodendro 0.2.0, unchanged.",
        *PERSEUS_CREDIT,
    ):
        header["COMMENT"] = line
    header["HISTORY"] = MADE_BY
    return hdus


def covered(centres: Places, shape: tuple[int, ...]) -> int:
    """Return the number of pixels that lie under one cut-out or more."""
    under = np.zeros(shape, dtype=bool)
    for centre in centres:
        cut(under, centre)[:] = True
    return int(under.sum())


def main() -> None:
    """Write the file of one set and print one line about it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = {"sun": make_sun, "perseus": make_perseus, "dust": make_dust}
    parser.add_argument("name", choices=makers)
    parser.add_argument("source", type=Path, help="the image")
    parser.add_argument("--out", type=Path, help="default: targets/NAME.fits beside this script")
    arguments = parser.parse_args()
    write(makers[arguments.name](arguments.source), arguments.name, arguments.out)


if __name__ == "__main__":
    main()
