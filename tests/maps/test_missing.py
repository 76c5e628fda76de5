"""Missing pixels: filled by closed forms, left out of what is measured, refused above the limit."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError, TargetWarning
from ood_core.maps.missing import conditional_mean, isotropic_power
from ood_core.maps.quantization import Quantization
from ood_core.maps.target_set import TargetSet
from ood_core.synthesis.state import read_state, write_state
from ood_core.synthesis.synthesizer import _targets_of, _targets_state
from tests.maps.test_advice import stationary

FIELDS = stationary(7, 12)[:, 0].astype("f4")
HOLES = np.random.default_rng(1).random(FIELDS.shape) < 0.03
HOLES[:, 5:8, 20:23] = True
LACKING = np.where(HOLES, np.nan, FIELDS).astype("f4")


def made(values: np.ndarray = LACKING, **spec: object) -> TargetSet:
    with pytest.warns(TargetWarning, match="miss pixels"):
        return TargetSet.from_arrays(values, missing=MissingSpec(**spec))


def test_conditional_mean_is_that_of_the_dense_gaussian() -> None:
    """Of a circulant covariance on 8 x 8 pixels: mean = C_mk C_kk^-1 x_k."""
    rng = np.random.default_rng(0)
    power = isotropic_power(np.cumsum(rng.normal(size=(50, 8, 8)), 1))
    basis = np.eye(64).reshape(64, 8, 8)
    covariance = np.fft.ifft2(np.fft.fft2(basis) * power).real.reshape(64, 64)
    field, missing = rng.normal(size=(8, 8)), rng.random((8, 8)) < 0.2
    m, k = missing.ravel(), ~missing.ravel()
    expected = covariance[np.ix_(m, k)] @ np.linalg.solve(
        covariance[np.ix_(k, k)], field.ravel()[k]
    )
    found = conditional_mean(field, missing, power)
    np.testing.assert_allclose(found[missing], expected, atol=1e-4 * np.abs(field).max())
    np.testing.assert_array_equal(found[~missing], field[~missing])


def test_power_of_white_noise_is_its_variance() -> None:
    power = isotropic_power(3 * np.random.default_rng(0).normal(size=(400, 16, 16)))
    assert power == pytest.approx(9, rel=0.3)  # the mean wave alone has 400 draws: 5 x 7 %


def test_rules_by_their_error() -> None:
    """A Gaussian field is best filled by its conditional mean, and worst by a constant."""
    error = {
        fill: np.sqrt(((made(fill=fill).values[:, 0] - FIELDS)[HOLES] ** 2).mean())
        for fill in ("gaussian", "nearest", "constant")
    }
    assert error["gaussian"] < 0.8 * error["nearest"] < 0.8 * error["constant"]
    for fill in error:
        kept = made(fill=fill).values[:, 0][~HOLES]
        np.testing.assert_array_equal(kept, FIELDS[~HOLES])


def test_nearest_and_constant_are_what_they_say() -> None:
    row = np.tile(np.arange(16, dtype="f4"), (8, 16, 1))
    row += np.arange(8)[:, None, None]
    row[:, 3, 6:9] = np.nan
    whole = made(row, fill="nearest").values[0, 0]
    assert set(whole[3, 6:9]) <= {5.0, 6.0, 7.0, 8.0, 9.0} and whole[3, 7] == 7  # the row above
    assert (made(row, fill="constant", value=-2).values[:, 0, 3, 6:9] == -2).all()


def test_missing_pixels_are_left_out_of_what_is_measured() -> None:
    values = 1e6 + FIELDS  # a constant of 0 would be the lowest value by far
    targets = made(np.where(HOLES, np.nan, values), fill="constant", value=0)
    fit, there = values[:6], ~HOLES[:6]
    low, high = np.percentile(fit[there].astype("f8"), (0.1, 99.9))
    assert (targets.transform.low, targets.transform.high) == pytest.approx((low, high))
    lowest = Quantization.measure(targets.known[:6]).lowest.item()
    assert lowest == fit[there].min() and np.isnan(targets.known[0, 0][HOLES[0]]).all()
    assert targets.quantization.lowest.item() == lowest


def test_what_lacks_too_much_or_has_no_rule_is_refused() -> None:
    with pytest.raises(TargetError, match=r"NaN pixels in 12 of 12 maps.*targets\.missing\.fill"):
        TargetSet.from_arrays(LACKING)
    with pytest.raises(TargetError, match=r"miss up to .*expected at most 1\.00%.*missing\.limit"):
        TargetSet.from_arrays(LACKING, missing=MissingSpec(fill="nearest", limit=0.01))
    infinite = FIELDS.copy()
    infinite[0, 0, 0] = np.inf  # no missing pixel, but a fault
    with pytest.raises(TargetError, match="1 infinite pixels"):
        TargetSet.from_arrays(infinite, missing=MissingSpec(fill="nearest"))


def test_which_pixels_are_missing_is_part_of_the_digest() -> None:
    targets = made(fill="nearest")
    assert targets.digest() != TargetSet.from_arrays(targets.values).digest()
    assert targets.digest() == made(fill="nearest").digest()


def test_a_saved_set_knows_its_missing_pixels(tmp_path: Path) -> None:
    for targets in (made(fill="gaussian"), TargetSet.from_arrays(FIELDS)):
        write_state(tmp_path / "s.npz", _targets_state(targets))
        again = _targets_of(read_state(tmp_path / "s.npz"))
        assert again.digest() == targets.digest()
        np.testing.assert_array_equal(again.known, targets.known)


def test_planes_of_fits_files_by_name(tmp_path: Path) -> None:
    """CCDData writes MASK and UNCERT; other software weights that are 0 where nothing was seen."""
    for number, field in enumerate(FIELDS):
        frame = CCDData(
            field, unit="adu", mask=HOLES[number], uncertainty=StdDevUncertainty(0.1 + 0 * field)
        )
        hdus = frame.to_hdu()
        weight = np.ones_like(field)
        weight[0, number] = 0
        hdus.append(fits.ImageHDU(weight, name="WHT"))
        hdus.writeto(tmp_path / f"f{number}.fits")
    spec = MissingSpec(mask="MASK", weights="WHT", fill="gaussian")
    with pytest.warns(TargetWarning):
        targets = TargetSet.read(str(tmp_path / "f*.fits"), array="PRIMARY", missing=spec)
    expected = HOLES.copy()
    expected[np.arange(12), 0, np.arange(12)] = True
    np.testing.assert_array_equal(targets.missing[:, 0], expected)
    np.testing.assert_array_equal(targets.values[:, 0][~expected], FIELDS[~expected])
    assert targets.unit == "adu"
    np.savez(tmp_path / "m.npz", maps=FIELDS, bad=HOLES[:, :9].astype("u1"))
    with pytest.raises(TargetError, match="mask or weights of shape"):
        TargetSet.read(str(tmp_path / "m.npz"), array="maps", missing=MissingSpec(mask="bad"))


def test_a_plane_that_is_not_there_is_called_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", maps=FIELDS)
    spec = MissingSpec(weights="IVAR", fill="nearest")
    with pytest.raises(TargetError, match=r"the plane 'IVAR' of targets\.missing: .*expected one"):
        TargetSet.read(str(tmp_path / "m.npz"), array="maps", missing=spec)
