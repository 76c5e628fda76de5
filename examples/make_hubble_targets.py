"""Make `examples/targets/hubble.fits` from the Hubble eXtreme Deep Field that scikit-image ships.

    python examples/make_hubble_targets.py [--bands] [--out examples/targets/hubble.fits]

Sources are local maxima of the smoothed mean of the three colour channels. Cut-outs of 32 x 32
pixels are centred on them, and no two share a pixel: first on the few brightest, then on the others
from left to right, so that they pack closely. Those from a stripe at the left side of the image
come first in the file (to be fitted to); the others, after a gap, follow (to be held out). Nothing
is rescaled: the file holds the sum of the three 8-bit channels as integers, and BSCALE = 1/3 makes
their mean of it. With `--bands` red, green and blue of fewer cut-outs are kept as they are, in
`hubble-bands.fits`.
"""

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import target_files
from astropy.io import fits
from PIL import Image
from scipy import ndimage
from target_files import FIT, SIZE, Places, cut, place_columns, write

HELD_OUT = 320  # maps
BANDS_HELD_OUT = 128  # of these, in the file of three bands
GAP = 16  # pixels between the two parts of the sky
SMOOTHING = 1.5  # pixels, standard deviation
THRESHOLD = 4.0  # robust standard deviations of the smoothed image above its median
BRIGHT = 80.0  # the same; brighter sources get their cut-out first
MIN_RANGE = 45  # of the summed channels (0 to 765): 15 display levels within a cut-out
MAX_SATURATED = 0.02  # fraction of pixels with a channel sum of 750 or more
LARGEST_SUM = 750

SOURCE = "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
COMMENTS = (  # at most 72 characters each, so that no card is broken
    "Real data: cut-outs of the Hubble eXtreme Deep Field (XDF, 2012), from",
    "skimage/data/hubble_deep_field.jpg (1000 x 872 px) of scikit-image.",
    f"Source: {SOURCE}",
    "Credit: NASA; ESA; G. Illingworth, D. Magee, and P. Oesch (University",
    "of California, Santa Cruz); R. Bouwens (Leiden University); HUDF09 Team.",
    "Licence: public domain (NASA media guidelines), as scikit-image states.",
    "Values: display levels 0 to 255, mean of R, G, B of an 8-bit JPEG. The",
    "stretch is non-linear and unknown: this is not calibrated flux. No WCS.",
    "Row 0 is the top of the image (most FITS viewers show it at the bottom).",
    "The first NFIT maps come from the left part of the image, the others",
    "from the right part. No two cut-outs share a pixel. Table: CUTOUTS.",
)

Summed = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Cutouts:
    """Summed channels (n, y, x), and centres (n, 2) as row and column, 0-based."""

    values: Summed
    centres: Places


def load_bands() -> Summed:
    """Return red, green and blue of the image, shape (3, 872, 1000), 0 to 255."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("scikit-image is not installed; run: pip install 'farfield[examples]'")
    path = Path(found.origin).parent / "data" / "hubble_deep_field.jpg"
    with Image.open(path) as image:
        return np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int16), -1, 0)


def load_field() -> Summed:
    """Return the sum of the three channels of the image, shape (872, 1000), 0 to 765."""
    summed: Summed = load_bands().sum(axis=0, dtype=np.int16)
    return summed


def detect(field: Summed) -> Places:
    """Return the sources whose cut-out lies within the image, in the order they are to be cut.

    The brightest come first, by brightness, then the others from left to right.
    """
    smooth = ndimage.gaussian_filter(field / 3.0, SMOOTHING)
    level = np.median(smooth)
    height = (smooth - level) / (1.4826 * np.median(np.abs(smooth - level)))
    peaks = (smooth == ndimage.maximum_filter(smooth, size=5)) & (height > THRESHOLD)
    half = SIZE // 2
    places = np.argwhere(peaks)
    within = (places >= half).all(axis=1) & (places <= np.array(field.shape) - half).all(axis=1)
    places = places[within]
    heights = height[places[:, 0], places[:, 1]]
    rank = np.where(heights > BRIGHT, -heights, 0.0)
    return places[np.lexsort((places[:, 0], places[:, 1], rank))]


def is_usable(values: Summed) -> bool:
    """Tell whether a cut-out is neither nearly empty nor saturated."""
    return bool(np.ptp(values) >= MIN_RANGE and (values >= LARGEST_SUM).mean() < MAX_SATURATED)


def select(field: Summed, places: Places) -> Places:
    """Keep sources whose cut-outs do not overlap: FIT from the left, a gap, then HELD_OUT."""
    taken = np.zeros(field.shape, dtype=np.int16)
    kept: list[Places] = []
    for centre in places:
        if not cut(taken, centre).any() and is_usable(cut(field, centre)):
            cut(taken, centre)[:] = 1
            kept.append(centre)
    chosen = np.array(kept)
    chosen = chosen[np.lexsort((chosen[:, 0], chosen[:, 1]))]
    beyond = chosen[:, 1] >= chosen[FIT - 1, 1] + SIZE + GAP
    return np.concatenate([chosen[:FIT], chosen[beyond][:HELD_OUT]])


def make_cutouts(field: Summed) -> Cutouts:
    """Return all cut-outs of the image, those to be fitted to first."""
    centres = select(field, detect(field))
    return Cutouts(np.stack([cut(field, centre) for centre in centres]), centres)


def make_hdus(cutouts: Cutouts) -> fits.HDUList:
    """Return the FITS file: the cube of cut-outs and the table of their positions."""
    return target_files.make_hdus(
        cutouts.values,
        [
            ("BSCALE", 1.0 / 3.0, "summed channels to their mean"),
            ("BZERO", 0.0, ""),
            ("BUNIT", "display", "8-bit display levels, stretch unknown"),
            ("OBJECT", "Hubble XDF", "Hubble eXtreme Deep Field, in Fornax"),
            ("TELESCOP", "HST", ""),
        ],
        COMMENTS,
        [
            "Made by examples/make_hubble_targets.py of Farfield",
            f"Sources: smoothing {SMOOTHING} px, {THRESHOLD} robust sigma, 5 x 5 maxima",
            f"Cut-outs: {SIZE} px, disjoint, gap of {GAP} px between the two parts",
        ],
        place_columns([f"xdf-x{x:04d}-y{y:04d}" for y, x in cutouts.centres], cutouts.centres),
        [
            "X and Y: column and row (from 0, from the top of the image) of the",
            "source, which is pixel (16, 16) of its cut-out, counted from 0.",
        ],
    )


def make_bands(cutouts: Cutouts) -> fits.HDUList:
    """Return the FITS file of red, green and blue about the first of these places."""
    centres, field = cutouts.centres[: FIT + BANDS_HELD_OUT], load_bands()
    values = np.stack([[cut(band, centre) for band in field] for centre in centres])
    return target_files.make_hdus(
        values.astype(np.uint8),
        [
            ("BUNIT", "display", "8-bit display levels, stretch unknown"),
            ("OBJECT", "Hubble XDF", "Hubble eXtreme Deep Field, in Fornax"),
            ("TELESCOP", "HST", ""),
            ("CTYPE3", "BAND", "red, green, blue of the picture"),
        ],
        [
            line.replace("mean of R, G, B of an 8-bit JPEG", "R, G, B of an 8-bit JPEG")
            for line in COMMENTS
        ],
        ["Made by examples/make_hubble_targets.py --bands of Farfield"],
        place_columns([f"xdf-x{x:04d}-y{y:04d}" for y, x in centres], centres),
        ["X and Y: as in hubble.fits, of whose cut-outs these are the first."],
    )


def main() -> None:
    """Write the file and print one line about it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bands", action="store_true", help="three bands of fewer cut-outs")
    parser.add_argument("--out", type=Path, help="default: targets/ beside this script")
    known, cutouts = parser.parse_args(), make_cutouts(load_field())
    if known.bands:
        write(make_bands(cutouts), "hubble-bands", known.out)
    else:
        write(make_hdus(cutouts), "hubble", known.out)


if __name__ == "__main__":
    main()
