"""Missing pixels: filled by closed forms, left out of what is measured, refused above the limit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from ood_core.config.targets import MissingSpec
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.statistics import Statistics
from ood_core.errors import TargetError, TargetWarning
from ood_core.maps.missing import conditional_mean, drawn, filled, isotropic_power
from ood_core.maps.quantization import Quantization
from ood_core.maps.target_set import TargetSet
from ood_core.synthesis.state import read_state, targets_of, targets_state, write_state
from tests.maps.test_advice import stationary

FIELDS = stationary(7, 12)[:, 0].astype("f4")
HOLES = np.random.default_rng(1).random(FIELDS.shape) < 0.03
HOLES[:, 5:8, 20:23] = True
LACKING = np.where(HOLES, np.nan, FIELDS).astype("f4")


def made(values: np.ndarray = LACKING, **spec: object) -> TargetSet:
    with pytest.warns(TargetWarning, match="miss pixels"):
        return TargetSet.from_arrays(values, missing=MissingSpec(**spec))


def test_conditional_mean_is_that_of_the_dense_gaussian() -> None:
    """Of 8 x 8 pixels in a periodic field of 12 x 12: mean = C_mk C_kk^-1 x_k."""
    rng = np.random.default_rng(0)
    fields = np.cumsum(rng.normal(size=(50, 8, 8)), 1)
    power = isotropic_power(fields, np.ones(fields.shape, bool))
    basis = np.zeros((8, 8, 12, 12))
    basis[np.arange(8)[:, None], np.arange(8), np.arange(8)[:, None], np.arange(8)] = 1
    whole = np.fft.ifft2(np.fft.fft2(basis) * power).real
    covariance = whole[..., :8, :8].reshape(64, 64)
    field, missing = rng.normal(size=(8, 8)), rng.random((8, 8)) < 0.2
    m, k = missing.ravel(), ~missing.ravel()
    expected = covariance[np.ix_(m, k)] @ np.linalg.solve(
        covariance[np.ix_(k, k)], field.ravel()[k]
    )
    found = conditional_mean(field, missing, power)
    np.testing.assert_allclose(found[missing], expected, atol=3e-3 * np.abs(field).max())
    np.testing.assert_array_equal(found[~missing], field[~missing])


def test_power_of_white_noise_is_its_variance() -> None:
    """However many pixels are missing, and whatever lies there."""
    rng = np.random.default_rng(0)
    fields, seen = 3 * rng.normal(size=(400, 16, 16)), rng.random((400, 16, 16)) > 0.3
    for there in (np.ones_like(seen), seen):
        power = isotropic_power(np.where(there, fields, 1e9), there)
        assert power == pytest.approx(9, rel=0.5)  # the mean wave alone has 400 draws: 7 x 7 %
        assert power.mean() == pytest.approx(9, rel=0.03)  # 5 sd of 400 * 256 * 0.7 squares


def log_normal_whole_and_lacking(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-normal maps of a red spectrum, and which of their pixels are missing: blocks, a tenth."""
    whole = np.exp(0.8 * stationary(3, count)).astype("f4")
    rng, missing = np.random.default_rng(4), np.zeros(whole.shape, bool)
    for own in missing[:, 0]:
        for top, left in rng.integers(0, 27, (5, 2)):
            own[top : top + 5, left : left + 5] = True
    return whole, missing


def test_no_filling_enters_what_samples_are_steered_to() -> None:
    """Statistics of maps that lack a tenth are those of the whole maps, within their error.

    By pairs, so that the error is that of the missing tenth alone. A mean is no draw: control.
    """
    whole, missing = log_normal_whole_and_lacking(64)
    statistics = Statistics(32)
    lacking = np.where(missing, np.nan, whole)
    with pytest.warns(TargetWarning, match="miss pixels"):
        targets = TargetSet.from_arrays(
            lacking, held_out=4, transform="log", missing=MissingSpec(fill="nearest", limit=0.2)
        )
    of_whole, of_drawn, of_filled = (
        StatisticAims.measure(statistics, maps, (), 8).values
        for maps in (targets.ranged(whole[:60]), targets.fit_ranged, targets.ranged(targets.fit))
    )

    def deviations(values: torch.Tensor) -> torch.Tensor:
        gaps = values - of_whole
        return (gaps.mean(0) / gaps.std(0))[gaps.std(0) > 0] * len(gaps) ** 0.5

    found, filled = deviations(of_drawn), deviations(of_filled)
    assert found.abs().max() < 4.5 and found.square().mean().sqrt() < 1.4  # some 150, correlated
    assert filled.abs().max() > 8 and filled.square().mean().sqrt() > 2


def test_draws_hang_on_the_map_and_its_name_and_have_known_values() -> None:
    whole, missing = log_normal_whole_and_lacking(12)
    whole = np.round(whole, 1)
    names = tuple(map(str, range(12)))
    one, other = (drawn(np.where(missing, f, whole), missing, names, 8) for f in (0, 1e9))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one[~missing], whole[~missing])
    ranged = [made(fill=fill).model_range for fill in ("constant", "nearest", "gaussian")]
    assert torch.equal(ranged[0], ranged[1]) and torch.equal(ranged[1], ranged[2])
    assert set(one[missing]) <= set(whole[:8][~missing[:8]])
    kept = [*range(8), 11]  # without three held-out maps
    fewer = drawn(whole[kept], missing[kept], tuple(names[k] for k in kept), 8)
    np.testing.assert_array_equal(fewer, one[kept])


def test_a_frame_keeps_its_draws_where_maps_are_added() -> None:
    first, more = (made(LACKING[:n], fill="nearest") for n in (9, 12))
    assert not torch.equal(more.model_range[:9], first.model_range)
    framed = more.framed(first)
    assert torch.equal(framed.model_range[:9], first.model_range)
    np.testing.assert_allclose(
        framed.physical(framed.model_range)[~framed.missing],
        FIELDS[~HOLES],
        atol=1e-4 * np.abs(FIELDS).max(),
    )


def test_a_channel_that_is_constant_where_it_is_known_is_constant() -> None:
    two = np.stack([FIELDS, np.full_like(FIELDS, 7)], 1)
    targets = made(np.where(HOLES[:, None], np.nan, two), fill="constant", value=0)
    assert targets.constant_channels == {1: 7}


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
        write_state(tmp_path / "s.npz", targets_state(targets))
        again = targets_of(read_state(tmp_path / "s.npz"))
        assert again.digest() == targets.digest()
        np.testing.assert_array_equal(again.known, targets.known)
        assert torch.equal(again.model_range, targets.model_range)


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
    assert targets.unit == "adu" and not any("not used" in note for note in targets.notes)
    with pytest.warns(
        TargetWarning, match=r"not used; .*targets.missing: {mask: MASK, weights: WHT}"
    ):
        plain = TargetSet.read(str(tmp_path / "f*.fits"), array="PRIMARY")
    assert sum("not used" in note for note in plain.notes) == 1, "once for all files"
    np.savez(tmp_path / "m.npz", maps=FIELDS, bad=HOLES[:, :9].astype("u1"))
    with pytest.raises(TargetError, match="mask or weights of shape"):
        TargetSet.read(str(tmp_path / "m.npz"), array="maps", missing=MissingSpec(mask="bad"))


def test_a_plane_that_is_not_there_is_called_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", maps=FIELDS)
    spec = MissingSpec(weights="IVAR", fill="nearest")
    with pytest.raises(TargetError, match=r"the plane 'IVAR' of targets\.missing: .*expected one"):
        TargetSet.read(str(tmp_path / "m.npz"), array="maps", missing=spec)


def test_empty_channels_are_named() -> None:
    values = np.ones((5, 2, 16, 16), np.float32)
    values[[1, 3], 1] = np.nan
    spec = MissingSpec(fill="gaussian", limit=0.6)
    with pytest.raises(TargetError, match=r"s: got maps without any pixel .*\(b, d\)"):
        filled(values, tuple("abcde"), 3, spec, "s")
