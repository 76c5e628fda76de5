"""Write `targets/terrain.fits`: heights of the Cumberland Mountains, one mosaic to cut tiles from.

Data: Shuttle Radar Topography Mission, public domain (NASA / USGS), as the sample file
`jacksboro_fault_dem.npz` of Matplotlib.
"""

from pathlib import Path

import matplotlib
import numpy as np
from astropy.io import fits

COMMENTS = (
    "Real data: heights about the Jacksboro fault, Tennessee, of the Shuttle",
    "Radar Topography Mission (SRTM), 3 arc seconds. Public domain (NASA, USGS),",
    "from mpl-data/sample_data/jacksboro_fault_dem.npz of Matplotlib.",
    "Row 0 is the southernmost. Pixels are 93 m high and 74 m wide.",
)


def main() -> None:
    """Write the mosaic beside this script, packed without loss."""
    source = Path(matplotlib.get_data_path()) / "sample_data" / "jacksboro_fault_dem.npz"
    with np.load(source) as found:
        heights = found["elevation"][::-1].astype(np.int16)  # the file begins in the north
        west, south = float(found["xmin"]), float(found["ymax"])  # its y runs downwards
        step = float(found["dx"])
    hdu = fits.CompImageHDU(heights, name="TERRAIN", compression_type="RICE_1")
    hdu.header["BUNIT"] = "m"
    for axis, name, first in ((1, "longitude", west), (2, "latitude", south)):
        hdu.header[f"CRPIX{axis}"] = 1.0
        hdu.header[f"CRVAL{axis}"] = (first, f"[deg] {name} of the first pixel")
        hdu.header[f"CDELT{axis}"] = (step, "[deg]")
    for line in COMMENTS:
        hdu.header["COMMENT"] = line
    place = Path(__file__).parent / "targets" / "terrain.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(place, overwrite=True, checksum=False)


if __name__ == "__main__":
    main()
