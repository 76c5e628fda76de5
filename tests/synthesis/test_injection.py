"""Objects laid into fields: what was added is what the catalogue says, and noise is there once."""

import numpy as np
import pytest

import ood_core as ff
from ood_core.errors import InputError
from ood_core.synthesis.injection import light_of

SIGMA = 2.0  # pixels, of a Gaussian object


def objects(n: int, flux: float, noise: float, sky: float = 50.0, side: int = 33) -> np.ndarray:
    """Round Gaussians at the middle of their maps, on a sky with white noise, (n, 1, y, x)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    light = flux / (2 * np.pi * SIGMA**2) * np.exp(-(y**2 + x**2) / (2 * SIGMA**2))
    rng = np.random.default_rng(5)
    return sky + light + noise * rng.standard_normal((n, 1, side, side))


def test_what_is_added_is_what_the_catalogue_says():
    """Flux is the sum of differences, to float32 of a field of 1,000 px of some 100 (1e-3)."""
    field = np.random.default_rng(1).normal(100, 1, (1, 90, 80)).astype(np.float32)
    found = ff.inject(field, objects(4, 3000.0, 1.0), seed=3)
    added = (found.field.astype(np.float64) - field).sum()
    assert added == pytest.approx(found.truth["flux"].sum(), rel=1e-3)
    assert found.faint == () and np.array_equal(found.truth["cutout"], range(4))
    assert np.allclose(found.truth["lost"], 0)


def test_position_flux_and_size_of_a_clean_object_are_known():
    """Without noise nothing is smoothed or cut, so a Gaussian is found as it was made.

    Half of its light is within `SIGMA (2 ln 2)^(1/2)` = 2.35 px. Even light in the ring from 2 to 3
    makes that 2.43, and pixels widen it by 1 %.
    """
    field = np.zeros((1, 64, 64), dtype=np.float32)
    truth = ff.inject(field, objects(1, 500.0, 0.0), np.array([[20.0, 41.0]])).truth
    assert truth["y"][0] == pytest.approx(20, abs=1e-6) and truth["x"][0] == pytest.approx(41)
    assert truth["flux"][0, 0] == pytest.approx(500, rel=1e-3)
    assert truth["half_light_radius"][0] == pytest.approx(SIGMA * np.sqrt(2 * np.log(2)), rel=0.05)
    assert abs(truth["e1"][0]) < 1e-3 and abs(truth["e2"][0]) < 1e-3


def test_sky_and_noise_are_there_once():
    """Off the object the field is as it was; at its rim noise rises by a third, not by 1.41.

    Control: adding cut-outs as they are. Of 200 cut-outs, 4 px wide rims have 10^4 pixels and
    more: variances are known to 2 %.
    """
    n, side = 200, 33
    cutouts = objects(n, 400.0, 1.0)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    light = objects(1, 400.0, 0.0, sky=0.0)[0, 0]
    far, rim = np.hypot(y, x) > 13, (np.hypot(y, x) > 4) & (np.hypot(y, x) < 7)
    fields = np.random.default_rng(2).normal(0, 1, (n, 1, side, side))
    middle = np.array([[16.0, 16.0]])
    made = np.concatenate(
        [ff.inject(f, c[None], middle).field for f, c in zip(fields, cutouts, strict=True)]
    )
    naive = (fields + cutouts - 50)[:, 0]
    assert np.mean(np.abs(made - fields[:, 0])[:, far] > 1e-5) < 0.01 and made[:, far].std() < 1.01
    assert naive[:, far].std() > 1.38  # sqrt(2)
    assert (made - light)[:, rim].std() < 1.2 < 1.38 < (naive - light)[:, rim].std()
    flux = [
        ff.inject(f, c[None], middle).truth["flux"][0, 0]
        for f, c in zip(fields, cutouts, strict=True)
    ]
    assert np.mean(flux) == pytest.approx(400, rel=0.05)


def test_neighbours_are_left_out_and_empty_maps_are_named():
    cutouts = objects(2, 2000.0, 1.0)
    cutouts[0] += np.roll(objects(1, 900.0, 0.0, sky=0.0)[0], (0, 11, -11), (0, 1, 2))
    cutouts[1] = objects(1, 0.0, 1.0)[0] - 3 * objects(1, 100.0, 0.0, sky=0.0)[0]
    found = ff.inject(np.zeros((1, 50, 50)), cutouts)
    assert found.faint == (1,) and list(found.truth["cutout"]) == [0]
    assert found.truth["flux"][0, 0] == pytest.approx(2000, rel=0.05)
    assert light_of(cutouts[1]) is None
    assert ff.inject(np.zeros((1, 50, 50)), cutouts[1:]).truth["flux"].shape == (0, 1)


def test_light_beyond_the_border_or_on_missing_pixels_is_lost():
    field = np.zeros((1, 60, 60), dtype=np.float32)
    field[0, 30:, 30:] = np.nan
    at = np.array([[-0.5, 30.0], [29.5, 30.0 - 0.5]])
    found = ff.inject(field, objects(2, 1000.0, 0.0, side=32), at)
    assert np.array_equal(np.isnan(found.field), np.isnan(field))
    assert found.truth["lost"] == pytest.approx([0.5, 0.25], abs=1e-3)
    assert np.nansum(found.field) == pytest.approx(found.truth["flux"].sum(), rel=1e-4)


def test_bands_share_their_outline():
    both = np.concatenate([objects(3, 1000.0, 0.0), objects(3, 300.0, 0.0)], axis=1)
    truth = ff.inject(np.zeros((2, 70, 70)), both).truth
    assert truth["flux"] == pytest.approx(np.array([[1000.0, 300.0]] * 3), rel=1e-3)


@pytest.mark.parametrize(
    ("field", "cutouts", "positions"),
    [
        (np.zeros((2, 50, 50)), objects(1, 1.0, 1.0), None),
        (np.zeros((1, 30, 50)), objects(1, 1.0, 1.0), None),
        (np.zeros((1, 50, 50)), np.full((1, 1, 33, 33), np.nan), None),
        (np.zeros((1, 50, 50)), objects(2, 1.0, 1.0), np.zeros((1, 2))),
    ],
)
def test_what_does_not_fit_is_refused(field, cutouts, positions):
    with pytest.raises(InputError, match="expected"):
        ff.inject(field, cutouts, positions)
