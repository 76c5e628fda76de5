"""Make the example targets reionisation and lognormal, whose law is known.

    python examples/make_simulated_targets.py reionisation  # needs 21cmFAST; some minutes
    python examples/make_simulated_targets.py lognormal

targets/README.md says how to get 21cmFAST. Each file holds the maps to fit to first and then those
to hold out, from other random numbers.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from target_files import FIT, SIZE, make_hdus, write

HELD_OUT = 320  # maps
MADE_BY = "Made by examples/make_simulated_targets.py of Farfield"

# Reionisation.
REDSHIFT = 8.0
CELLS = 64  # of a side of the box of brightness temperature
CELL_SIZE = 2.0  # comoving Mpc
PLANES = (0, 32)  # cells; half the box apart, the farthest there is in a periodic box
BOXES = (FIT + HELD_OUT) // (len(PLANES) * (CELLS // SIZE) ** 2)

# Log-normal.
GRID = 128  # pixels of the periodic field that a map is cut from
SLOPE = 2.5  # P(k) of the logarithm falls as k^-SLOPE
SIGMA = 1.0  # standard deviation of the logarithm
LOGNORMAL_SEED = 7


def make_reionisation() -> fits.HDUList:
    """Simulate boxes of 21 cm brightness temperature and cut planes of them into quadrants."""
    maps, neutral, rows = [], [], []
    for seed in range(1, BOXES + 1):
        box, fraction = simulate(seed)
        neutral.append(fraction)
        for plane in PLANES:
            for y in range(0, CELLS, SIZE):
                for x in range(0, CELLS, SIZE):
                    maps.append(box[y : y + SIZE, x : x + SIZE, plane])
                    rows.append((seed, plane, y, x))
    seeds, planes, ys, xs = np.array(rows).T
    import py21cmfast

    return make_hdus(
        np.stack(maps).astype(np.float32),
        [
            ("BUNIT", "mK", "brightness temperature against the CMB"),
            ("OBJECT", "21 cm", "simulated epoch of reionisation"),
            ("REDSHIFT", REDSHIFT, ""),
            ("CELLSIZE", CELL_SIZE, "[Mpc] comoving, also the thickness of a plane"),
            ("XHI", round(float(np.mean(neutral)), 3), "mean neutral fraction of the boxes"),
        ],
        [
            "Simulated: planes of 21 cm brightness temperature at a fixed redshift,",
            "where ionised bubbles (exactly 0 mK) have merged in part.",
            f"Simulator: 21cmFAST {py21cmfast.__version__} (MIT), template 'simple'.",
            "Mesinger et al. 2011, MNRAS 411, 955; Murray et al. 2020, JOSS 5, 2582.",
            f"Periodic boxes of {CELLS} cells a side (initial conditions {2 * CELLS}), one random",
            f"seed each; {len(PLANES)} planes of a box, each cut into quadrants.",
            "The first NFIT maps come from the first seeds, the others from others.",
            "Maps of one box are correlated: quadrants of a plane touch.",
            "Licence: these maps are released under the licence of Farfield.",
        ],
        [MADE_BY, f"Seeds 1 to {BOXES}, planes {PLANES}"],
        [
            fits.Column(
                "ID",
                "24A",
                array=np.array([f"box{s:02d}-z{z:02d}-y{y:02d}-x{x:02d}" for s, z, y, x in rows]),
            ),
            fits.Column("SEED", "J", array=seeds),
            fits.Column("PLANE", "J", array=planes),
            fits.Column("X", "J", unit="pixel", array=xs),
            fits.Column("Y", "J", unit="pixel", array=ys),
        ],
        ["X and Y: first column and row of the map in its plane, from 0."],
    )


def simulate(seed: int) -> tuple[npt.NDArray[np.float32], float]:
    """Return brightness temperature (mK) of one box and its mean neutral fraction."""
    import py21cmfast

    inputs = py21cmfast.InputParameters.from_template("simple", random_seed=seed)
    inputs = inputs.evolve_input_structs(
        HII_DIM=CELLS, DIM=2 * CELLS, BOX_LEN=CELLS * CELL_SIZE, N_THREADS=1
    )
    (coeval,) = py21cmfast.run_coeval(out_redshifts=[REDSHIFT], inputs=inputs, write=False)
    return np.asarray(coeval.brightness_temp), float(np.mean(coeval.neutral_fraction))


def make_lognormal() -> fits.HDUList:
    """Draw log-normal fields of mean one, one seed each, and cut a corner of each."""
    maps = np.stack([draw_lognormal(number) for number in range(FIT + HELD_OUT)])
    return make_hdus(
        maps,
        [
            ("BUNIT", "", "mean of the law is 1"),
            ("OBJECT", "log-normal", "procedural"),
            ("GRID", GRID, "[pixel] side of the field a map is cut from"),
            ("SLOPE", SLOPE, "power spectrum of the logarithm: k^-SLOPE"),
            ("SIGMA", SIGMA, "standard deviation of the logarithm"),
        ],
        [
            "Procedural, of known law: exp(g - SIGMA^2 / 2) with g a Gaussian field",
            "of mean 0, variance SIGMA^2 and isotropic power spectrum k^-SLOPE, on a",
            "periodic grid, of which a corner is kept: maps are not periodic.",
            "Every map is drawn independently of the others.",
            "Licence: that of Farfield.",
        ],
        [MADE_BY, f"Seed of a map: ({LOGNORMAL_SEED}, NUMBER), of the PCG64 of NumPy"],
        [
            fits.Column(
                "ID", "13A", array=np.array([f"lognormal-{n:03d}" for n in range(len(maps))])
            ),
            fits.Column("NUMBER", "J", array=np.arange(len(maps))),
        ],
        ["NUMBER: second word of the seed of the map."],
    )


def log_spectrum() -> npt.NDArray[np.float64]:
    """Return the power of the logarithm (GRID, GRID), which sums to SIGMA^2 over all modes."""
    frequency = np.fft.fftfreq(GRID)
    square = frequency[:, None] ** 2 + frequency**2
    square[0, 0] = np.inf  # the mean of the field is fixed
    power = square ** (-SLOPE / 2)
    normalised: npt.NDArray[np.float64] = power * SIGMA**2 / power.sum()
    return normalised


def draw_lognormal(number: int) -> npt.NDArray[np.float32]:
    """Return the corner (SIZE, SIZE) of one field."""
    white = np.random.default_rng([LOGNORMAL_SEED, number]).standard_normal((GRID, GRID))
    field = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(log_spectrum())).real * GRID
    return np.exp(field[:SIZE, :SIZE] - SIGMA**2 / 2).astype(np.float32)


def main() -> None:
    """Write the file of one set and print one line about it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = {"reionisation": make_reionisation, "lognormal": make_lognormal}
    parser.add_argument("name", choices=makers)
    parser.add_argument("--out", type=Path, help="default: targets/NAME.fits beside this script")
    arguments = parser.parse_args()
    write(makers[arguments.name](), arguments.name, arguments.out)


if __name__ == "__main__":
    main()
