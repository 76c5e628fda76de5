"""The committed example targets are what their script makes, and what their README says."""

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits

from ood_core.limits import USUAL
from ood_core.maps.fits import read_fits
from ood_core.maps.target_set import TargetSet

EXAMPLES = Path(__file__).parents[2] / "examples"
PATH = EXAMPLES / "targets" / "hubble.fits"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("make_hubble_targets")


def centres() -> npt.NDArray[np.int64]:
    table = fits.getdata(PATH, "CUTOUTS")
    return np.stack([table["Y"], table["X"]], axis=1).astype(np.int64)


def test_file_is_what_the_script_makes(script: ModuleType) -> None:
    pytest.importorskip("skimage", reason="needs the image that scikit-image ships")
    made = io.BytesIO()
    script.make_hdus(script.make_cutouts(script.load_field())).writeto(made)
    assert made.getvalue() == PATH.read_bytes()


def test_maps_are_the_mean_of_the_channels_at_their_places(script: ModuleType) -> None:
    pytest.importorskip("skimage", reason="needs the image that scikit-image ships")
    field = script.load_field() / 3
    maps = read_fits(str(PATH), None, USUAL)
    expected = [field[y - 16 : y + 16, x - 16 : x + 16] for y, x in centres()]
    np.testing.assert_array_equal(maps.values[:, 0], np.array(expected, dtype=np.float32))


def test_bands_are_those_whose_mean_the_first_maps_are(script: ModuleType) -> None:
    bands = read_fits(str(PATH.with_stem("hubble-bands")), None, USUAL)
    assert bands.values.shape == (script.FIT + script.BANDS_HELD_OUT, 3, 32, 32)
    maps = read_fits(str(PATH), None, USUAL).values[: len(bands), 0]
    np.testing.assert_array_equal(np.float32(bands.values.sum(axis=1) / 3), maps)


def test_counts_unit_and_size() -> None:
    maps = read_fits(str(PATH), None, USUAL)
    TargetSet.read(str(PATH), held_out=320).check()
    assert maps.values.shape == (384, 1, 32, 32)
    assert maps.unit == "display"
    assert PATH.stat().st_size < 1.5e6
    assert maps.values.min() >= 0 and maps.values.max() <= 255


def test_no_two_cutouts_share_a_pixel() -> None:
    places = centres()
    apart = np.abs(places[:, None] - places[None]).max(axis=-1)
    np.fill_diagonal(apart, 10**6)
    assert apart.min() >= 32


def test_splits_are_different_parts_of_the_sky() -> None:
    columns = centres()[:, 1]
    fitted = fits.getheader(PATH)["NFIT"]
    assert fitted == 64
    assert columns[fitted:].min() - columns[:fitted].max() >= 32 + 16
    np.testing.assert_array_equal(fits.getdata(PATH, "CUTOUTS")["FIT"], np.arange(384) < fitted)


def test_header_says_where_the_data_come_from() -> None:
    header = fits.getheader(PATH)
    words = " ".join(header["COMMENT"])
    for word in ("hubblesite.org", "NASA", "ESA", "Licence", "JPEG", "not calibrated flux"):
        assert word in words
    assert "make_hubble_targets.py" in str(header["HISTORY"])
    assert (header["TELESCOP"], header["OBJECT"]) == ("HST", "Hubble XDF")
