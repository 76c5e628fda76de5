"""The contact sheet: both halves on one scale, upright, labelled, whatever the names are."""

import io

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from ood_core.errors import InputError
from ood_core.report.pictures import contact_sheet

HOSTILE = "<script> `a` | b\n---\n$\\frac{"


def opened(png: bytes) -> tuple[np.ndarray, dict]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")), dict(image.info)


def count(pixels: np.ndarray, place: float) -> np.ndarray:
    """Where the picture has the colour of a place on the scale."""
    colour = np.array(colormaps["inferno"](place, bytes=True)[:3])
    return (pixels == colour).all(-1)


def ramp(n: int) -> np.ndarray:
    """Maps whose lower half has the lowest value of the scale and the upper half the highest."""
    maps = np.zeros((n, 1, 16, 16), np.float32)
    maps[:, :, 8:] = 1.0
    return maps


def test_equal_maps_have_equal_colours_on_both_sides_and_stand_upright():
    pixels, info = opened(contact_sheet(ramp(6), ramp(6), "mK", "a", rows=1))
    half = pixels.shape[1] // 2
    upper = int(0.75 * pixels.shape[0])  # without the colour bar
    low, high = count(pixels[:upper], 0.0), count(pixels[:upper], 1.0)
    for side in (np.s_[:, :half], np.s_[:, half:]):
        assert low[side].sum() > 10_000 and high[side].sum() > 10_000
        # Row 0 of a map lies at the bottom: the dark half is below the bright one.
        assert np.nonzero(low[side])[0].min() > np.nonzero(high[side])[0].max()
    assert low[:, :half].sum() == pytest.approx(low[:, half:].sum(), rel=0.03)  # a pixel of an edge
    assert "SYNTHETIC" in info["Description"]


def test_the_real_maps_alone_set_the_scale():
    real = ramp(6)
    faint = opened(contact_sheet(real, real * 0.0, "", "a", rows=1))[0]
    bright = opened(contact_sheet(real, real * 100, "", "a", rows=1))[0]
    half = faint.shape[1] // 2
    np.testing.assert_array_equal(faint[:, : half - 20], bright[:, : half - 20])
    assert not np.array_equal(faint[:, half + 20 :], bright[:, half + 20 :])


def test_hostile_names_and_units_are_text():
    assert len(contact_sheet(ramp(3), ramp(2), HOSTILE, HOSTILE, rows=2)) > 1000


@pytest.mark.parametrize(("real", "samples", "rows"), [(3, 3, 0), (3, 3, 41), (0, 3, 1), (3, 0, 1)])
def test_impossible_sheets_are_refused(real, samples, rows):
    with pytest.raises(InputError, match="expected"):
        contact_sheet(ramp(real), ramp(samples), "", "a", rows)
