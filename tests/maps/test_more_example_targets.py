"""The sets beside the Hubble one: honest splits, right places, and the distribution they claim."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits

from flows.settings import load_settings
from ood_core.limits import USUAL
from ood_core.maps.fits import read_fits
from ood_core.maps.target_set import TargetSet

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCES = os.environ.get("FARFIELD_SOURCES")  # folder with the two images, to make the sets again
COUNTS = {"sun": 384, "perseus": 127, "reionisation": 384, "lognormal": 384}
UNITS = {"sun": "display", "perseus": "mag", "reionisation": "mK", "lognormal": ""}
IMAGES = {
    "sun": "2022_04_01__00_00_45__SOLO-EUI-FSI_EUI_FSI_174.jp2",
    "perseus": "PerA_Extn2MASS_F_Gal.fits",
    "dust": "PerA_Extn2MASS_F_Gal.fits",
}
every_set = pytest.mark.parametrize("name", COUNTS)


def path(name: str) -> Path:
    return EXAMPLES / "targets" / f"{name}.fits"


def values(name: str) -> npt.NDArray[np.float32]:
    return read_fits(str(path(name)), None, USUAL).values[:, 0]


def table(name: str) -> Any:
    return fits.getdata(path(name), "CUTOUTS")


def corners(name: str) -> npt.NDArray[np.int64]:
    """First row and column of each map in its image."""
    return np.stack([table(name)["Y"], table(name)["X"]], axis=1).astype(np.int64) - 16


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        names = ("sky", "simulated")
        yield {name: importlib.import_module(f"make_{name}_targets") for name in names}


@every_set
def test_counts_unit_size_and_transform(name: str) -> None:
    maps = read_fits(str(path(name)), None, USUAL)
    assert maps.values.shape == (COUNTS[name], 1, 32, 32)
    assert maps.unit == UNITS[name]
    assert (maps.values.std(axis=(1, 2, 3)) > 0).all()
    assert len(np.unique(maps.values, axis=0)) == COUNTS[name]
    assert path(name).stat().st_size < 1.7e6
    targets = TargetSet.of(load_settings(EXAMPLES / f"{name}.yaml").targets)
    targets.check()
    assert targets.fit_count == 64


@every_set
def test_configuration_holds_out_what_the_file_says(name: str) -> None:
    targets = load_settings(EXAMPLES / f"{name}.yaml").targets
    assert Path(targets.path) == path(name)
    assert COUNTS[name] - targets.held_out == fits.getheader(path(name))["NFIT"] == 64
    np.testing.assert_array_equal(table(name)["FIT"], np.arange(COUNTS[name]) < 64)
    assert len(set(table(name)["ID"])) == COUNTS[name]


@every_set
def test_header_says_where_the_maps_come_from(name: str) -> None:
    header = fits.getheader(path(name))
    words = " ".join(header["COMMENT"])
    assert "Licence" in words
    assert words.startswith(("Real data", "Simulated", "Procedural"))
    assert "examples/make_" in str(header["HISTORY"])


def test_sun_is_cut_from_the_disc_without_shared_pixels(scripts: dict[str, ModuleType]) -> None:
    places = corners("sun")
    apart = np.abs(places[:, None] - places[None]).max(axis=-1)
    np.fill_diagonal(apart, 10**6)
    assert apart.min() >= 32
    assert not (places % 32).any()  # on the grid
    assert apart[:64, 64:].min() >= 32 + 32  # a gap as wide as a map between the parts
    row, column = scripts["sky"].DISC_CENTRE
    ends = places[:, :, None] + [0, 31]  # first and last row, first and last column
    from_centre = np.hypot(ends[:, 0, :, None] - row, ends[:, 1, None, :] - column)
    assert from_centre.max() < scripts["sky"].DISC_RADIUS


def test_sun_parts_have_like_contrast() -> None:
    """The band is no darker or flatter corner: medians differ by less than the spread of maps."""
    for measure in (np.mean, np.std):
        of_maps = measure(values("sun"), axis=(1, 2))
        low, high = np.percentile(of_maps[64:], [25, 75])
        assert low < np.median(of_maps[:64]) < high


def test_perseus_patches_agree_where_they_overlap() -> None:
    """Wrong places would put different values on one pixel."""
    image = np.full((313, 217), np.nan, dtype=np.float32)
    shared = 0
    for patch, (y, x) in zip(values("perseus"), corners("perseus"), strict=True):
        under = image[y : y + 32, x : x + 32]
        seen = np.isfinite(under)
        np.testing.assert_array_equal(under[seen], patch[seen])
        shared += int(seen.sum())
        under[:] = patch
    assert shared > 0


def test_perseus_parts_share_no_pixel_and_the_overlap_is_told() -> None:
    places = corners("perseus")
    header = fits.getheader(path("perseus"))
    assert places[:64, 0].min() - places[64:, 0].max() >= 32 + 16
    for part, card in ((places[:64], "AREAFIT"), (places[64:], "AREAHELD")):
        pixels = {(y + i, x + j) for y, x in part.tolist() for i in range(32) for j in range(32)}
        assert header[card] == pytest.approx(len(pixels) / 32**2, abs=0.05)  # told to one decimal


def test_reionisation_boxes_are_in_one_part_only() -> None:
    seeds = table("reionisation")["SEED"]
    assert set(seeds[:64]).isdisjoint(seeds[64:])
    np.testing.assert_array_equal(np.unique(seeds, return_counts=True)[1], 8)


def test_reionisation_quadrants_fit_together() -> None:
    """Steps across the seam of two neighbours are like steps inside; those to a stranger larger."""
    rows, maps = table("reionisation"), values("reionisation")
    left, right = maps[rows["X"] == 0], maps[rows["X"] == 32]  # in the same order of planes
    inside = np.abs(np.diff(left, axis=2)).mean()
    seam = np.abs(right[:, :, 0] - left[:, :, -1]).mean()
    stranger = np.abs(np.roll(right, 8, axis=0)[:, :, 0] - left[:, :, -1]).mean()
    assert seam == pytest.approx(inside, rel=0.1)
    assert stranger > 1.5 * inside


def test_reionisation_has_two_phases() -> None:
    """Bubbles at exactly zero; elsewhere at most the temperature of neutral gas.

    A cell has 27 mK (1 + d) x_HI sqrt((1 + z) / 10), up to the cosmology; in this model
    (1 + d) x_HI stays below 1, for dense cells ionise themselves.
    """
    maps, header = values("reionisation"), fits.getheader(path("reionisation"))
    assert 0.4 < header["XHI"] < 0.6
    assert maps.min() == 0
    assert 0.25 < (maps == 0).mean() < 0.45
    assert maps.max() < 27 * np.sqrt((1 + header["REDSHIFT"]) / 10)


def test_lognormal_is_what_its_script_draws(scripts: dict[str, ModuleType]) -> None:
    drawn = [scripts["simulated"].draw_lognormal(number) for number in (0, 63, 64, 383)]
    # Another FFT may round otherwise: 1e-5 is a hundred roundings of float32.
    np.testing.assert_allclose(values("lognormal")[[0, 63, 64, 383]], drawn, rtol=1e-5)
    np.testing.assert_array_equal(table("lognormal")["NUMBER"], np.arange(384))


@pytest.mark.parametrize("lag", [(0, 1), (1, 0), (3, 2), (16, 16)])
def test_lognormal_has_the_law_of_its_header(lag: tuple[int, int]) -> None:
    """Structure function of the logarithm, from the header's distribution as a sum over all modes.

    Maps are independent, so the mean over maps is within 5 standard errors of it, but for one
    sample in two million. Another slope by 0.2 is off by more, where the lag is one pixel.
    """
    header = fits.getheader(path("lognormal"))
    logs = np.log(values("lognormal").astype(np.float64))
    steps = logs[:, lag[0] :, lag[1] :] - logs[:, : 32 - lag[0], : 32 - lag[1]]
    of_maps = (steps**2).mean(axis=(1, 2))
    error = of_maps.std(ddof=1) / np.sqrt(len(of_maps))
    law = structure(lag, header["GRID"], header["SLOPE"], header["SIGMA"])
    assert abs(of_maps.mean() - law) < 5 * error
    if sum(lag) == 1:
        for wrong in (header["SLOPE"] - 0.2, header["SLOPE"] + 0.2):
            other = structure(lag, header["GRID"], wrong, header["SIGMA"])
            assert abs(of_maps.mean() - other) > 10 * error


def structure(lag: tuple[int, int], grid: int, slope: float, sigma: float) -> float:
    """Mean squared difference over a lag: 2 sigma^2 sum P(k) (1 - cos k.lag) / sum P(k)."""
    waves = np.fft.fftfreq(grid)
    ky, kx = np.meshgrid(waves, waves, indexing="ij")
    power = np.zeros_like(kx)
    nonzero = (kx != 0) | (ky != 0)
    power[nonzero] = np.hypot(kx, ky)[nonzero] ** -slope
    parts = power * (1 - np.cos(2 * np.pi * (ky * lag[0] + kx * lag[1])))
    return float(2 * sigma**2 * parts.sum() / power.sum())


def test_lognormal_has_mean_one() -> None:
    of_maps = values("lognormal").astype(np.float64).mean(axis=(1, 2))
    error = of_maps.std(ddof=1) / np.sqrt(len(of_maps))
    assert abs(of_maps.mean() - 1) < 5 * error < 0.25


@pytest.mark.skipif(SOURCES is None, reason="FARFIELD_SOURCES names no folder with the images")
@pytest.mark.parametrize("name", IMAGES)
def test_sky_sets_are_what_their_script_makes(
    name: str, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    hdus = getattr(scripts["sky"], f"make_{name}")(Path(str(SOURCES)) / IMAGES[name])
    hdus.writeto(tmp_path / "made.fits")
    assert (tmp_path / "made.fits").read_bytes() == path(name).read_bytes()


@pytest.mark.parametrize("name", IMAGES)
def test_another_image_is_refused(
    name: str, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    source = EXAMPLES / "targets" / "hubble.fits"
    if name == "sun":
        source = tmp_path / "other.png"
        importlib.import_module("PIL.Image").new("L", (64, 64)).save(source)
    with pytest.raises(SystemExit, match="take the file that targets/README.md names"):
        getattr(scripts["sky"], f"make_{name}")(source)
