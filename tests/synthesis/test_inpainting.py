"""Maps that are known in part: what is known stays, what is drawn is a function of its number."""

import numpy as np
import pytest

import ood_core as ff
from ood_core.errors import InputError


@pytest.fixture(scope="module")
def maps(synth, tiny):
    held_out = ff.TargetSet.of(tiny().targets).held_out[:2].copy()
    held_out[0, :, 4:9, 3:8] = np.nan
    held_out[1, :, :, 8:] = np.nan
    return held_out


@pytest.fixture(scope="module")
def made(synth, maps):
    return synth.inpaint(maps, draws=4, progress=False)


def test_known_pixels_stay_and_missing_ones_differ_from_draw_to_draw(maps, made):
    assert made.shape == (2, 4, *maps.shape[1:]) and made.dtype == np.float32
    known = ~np.isnan(maps)
    for row in range(2):
        assert (made[row][:, known[row]] == maps[row][known[row]]).all()
    assert np.isfinite(made).all()
    spread = made.std(axis=1)
    assert (spread[~known] > 0).all() and (spread[known] == 0).all()


def test_a_draw_is_a_function_of_its_numbers_and_the_seed(synth, maps, made):
    """Whatever the batch; up to rounding of another batch's shape."""
    synth.batch, before = 64, synth.batch
    try:
        again = synth.inpaint(maps, draws=4, progress=False)
    finally:
        synth.batch = before
    assert np.allclose(again, made, atol=1e-4 * made.std())
    other = synth.inpaint(maps[:1], draws=4, seed=1, progress=False)
    assert not np.allclose(other[0], made[0], atol=1e-2 * made.std())


def test_a_pixel_beside_known_ones_spreads_less_than_one_that_is_far_from_them(synth, maps):
    """Targets are smooth: what is next to a known pixel is nearly known.

    Standard deviations of 32 draws err by 1 / (2 * 31)^1/2 = 13 %, their mean over 16 rows, of
    which at least 4 go apart, by 6 %.
    """
    made = synth.inpaint(maps[1:], draws=32, progress=False)
    spread = made[0, :, 0].std(axis=0).mean(axis=0)[8:]
    assert spread[0] < spread[1:-1].mean()  # columns wrap around: both ends have neighbours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: np.nan_to_num(maps), "some pixels that are NaN"),
        (lambda maps: np.full_like(maps, np.nan), "some that are not"),
        (lambda maps: np.where(np.isnan(maps), np.inf, maps), "infinite pixels"),
        (lambda maps: maps[..., :8], r"got maps of shape \(2, 1, 16, 8\)"),
        (lambda maps: maps[:0], "0 maps"),
    ],
)
def test_maps_that_cannot_be_filled_are_refused(synth, maps, change, message):
    with pytest.raises(InputError, match=message):
        synth.inpaint(change(maps), draws=2, progress=False)


def test_a_method_without_calibration_is_refused(base, tiny, maps):
    settings = tiny()
    plain = ff.Method(calibration=None, steering=None, steps=4)
    synth = ff.Synthesizer(ff.load_model(str(base)), plain)
    synth.fit(ff.TargetSet.of(settings.targets), progress=False)
    with pytest.raises(InputError, match="method without calibration"):
        synth.inpaint(maps, draws=1, progress=False)
