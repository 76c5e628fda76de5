"""Advice on transforms and symmetries, on maps whose right answer is known."""

from pathlib import Path

import numpy as np
import pytest

from ood_core.errors import TargetWarning
from ood_core.limits import USUAL
from ood_core.maps.advice import advise_transform, symmetry_tests
from ood_core.maps.paths import SHIPPED
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet

RNG = np.random.default_rng(3)
WHITE = RNG.normal(size=(64, 1, 32, 32))


def stationary(seed: int, count: int = 40) -> np.ndarray:
    """Cut from periodic fields four times as large, with a steep isotropic spectrum."""
    rng = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    white = np.fft.fft2(rng.normal(size=(count, 64, 64)))
    return np.fft.ifft2(white / (0.03 + k) ** 1.5).real[:, None, :32, :32]


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_the_gain_of_the_logarithm_is_that_of_the_closed_form(spread: float) -> None:
    """Of log-normal values with standard deviation s of the logarithm.

    The likelihood of a Gaussian of the values is -log(std) per pixel, up to what both share, and
    that of the logarithms -log(s) - mean(log v) with mean(log v) = 0.
    """
    values = np.exp(spread * WHITE)
    variance = (np.exp(spread**2) - 1) * np.exp(spread**2)
    advice = advise_transform(values)
    assert advice.kind == "log" and advice.log_normal and "log-normal" in advice.reason
    expected = 0.5 * np.log(variance) - np.log(spread)
    assert advice.gains["log"] == pytest.approx(expected, rel=0.1)  # heavy tails of 65,536 pixels


def test_the_knee_of_a_faint_background_is_its_noise() -> None:
    sources = (RNG.random(WHITE.shape) > 0.98) * 50 * RNG.pareto(1.5, WHITE.shape)
    advice = advise_transform(100 + 3 * WHITE + sources)
    assert advice.kind == "asinh" and not advice.log_normal
    assert advice.knee == pytest.approx(3, rel=0.05) and advice.centre == pytest.approx(
        100, rel=0.01
    )


@pytest.mark.parametrize(
    "values",
    [
        WHITE,
        273 + 5 * WHITE,
        np.exp(0.1 * WHITE),  # skewed so little that a stretch is not worth it
        RNG.random(WHITE.shape),
        (WHITE > 0).astype(float),
        np.where(WHITE > 0, WHITE, 0.0),  # half of the pixels on a plateau
    ],
)
def test_values_that_no_stretch_helps_stay_linear(values: np.ndarray) -> None:
    advice = advise_transform(values)
    assert advice.kind == "linear" and not advice.log_normal


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hubble", "asinh"),
        ("sun", "asinh"),
        ("perseus", "asinh"),
        ("reionisation", "linear"),
        ("lognormal", "log"),
    ],
)
def test_the_examples_have_what_is_advised(name: str, kind: str) -> None:
    values = read_maps(str(SHIPPED / "examples" / "targets" / f"{name}.fits"), None, USUAL).values
    assert advise_transform(values).kind == kind


def test_advice_does_not_depend_on_the_unit() -> None:
    values = np.exp(WHITE)
    one, other = advise_transform(values), advise_transform(1e-20 * values)
    assert one.kind == other.kind
    assert one.gains == pytest.approx(other.gains, abs=1e-6)


def test_auto_takes_the_advice_and_says_so(tmp_path: Path) -> None:
    maps = np.exp(2 * stationary(4) / stationary(4).std()).astype("f4")
    np.save(tmp_path / "m.npy", maps)
    with pytest.warns(TargetWarning, match="transform auto: log, since"):
        targets = TargetSet.read(str(tmp_path / "m.npy"), transform="auto")
    assert targets.transform.kind == "log"
    assert any("transform auto: log" in note for note in targets.notes)
    with pytest.warns(TargetWarning, match="log would suit better"):
        assert TargetSet.from_arrays(maps, transform="asinh").transform.kind == "asinh"


def test_p_values_are_uniform_where_symmetries_hold() -> None:
    found = [symmetry_tests(stationary(seed), trials=49, seed=seed) for seed in range(40)]
    for name in ("flip", "rotate90", "translate"):
        p = np.array([tests[name].p for tests in found])
        assert (p <= 0.1).sum() <= 10  # binomial, 40 x 0.1: more has a chance of 1e-3
        assert 0.25 < np.median(p) < 0.75  # +- 3 standard errors of the median


def test_broken_symmetries_are_found() -> None:
    ramp = stationary(0) + np.linspace(-1, 1, 32) * stationary(0).std()
    found = symmetry_tests(ramp)
    assert {test.outcome for test in found.values()} == {"contradicted"}
    waves = np.repeat(stationary(1)[:, :, :16], 2, axis=2)  # drawn out along y
    found = symmetry_tests(waves)
    assert found["rotate90"].outcome == "contradicted" and found["flip"].outcome == "agrees"
    y, x = np.mgrid[:32, :32] - 15.5
    centred = stationary(2) + 2 * stationary(2).std() * np.exp(-(y**2 + x**2) / 50)
    found = symmetry_tests(centred)
    assert found["translate"].outcome == "contradicted"
    assert found["flip"].outcome == found["rotate90"].outcome == "agrees"


def test_a_deviation_that_is_sure_but_small_is_called_so() -> None:
    maps = np.random.default_rng(5).normal(size=(2000, 1, 16, 16))
    maps[..., :8] += 0.02  # 0.04 standard deviations of a cell's mean from either side
    found = symmetry_tests(maps)["flip"]
    assert found.p < 0.01 and found.outcome == "slight deviation"


def blobs(offset: float) -> np.ndarray:
    """Fields with a bright source, its centre so many pixels from that of the grid."""
    y, x = np.mgrid[:32, :32] - 15.5 - offset
    return stationary(2) + 8 * stationary(2).std() * np.exp(-(y**2 + x**2) / 8)


@pytest.mark.parametrize("offset", [0.5, -0.5])
def test_maps_centred_on_a_pixel_of_an_even_grid_may_be_flipped(offset: float) -> None:
    """They are symmetric about it; about no centre within half a pixel when it is two off."""
    found = symmetry_tests(blobs(offset))
    for name in ("flip", "rotate90"):
        assert found[name].outcome == "agrees" and found[name].offset == (offset, offset)
    for test in symmetry_tests(blobs(4 * offset)).values():
        assert test.outcome == "contradicted"


def test_the_example_of_galaxies_is_not_refused_for_its_centre() -> None:
    """It is pixel (16, 16), the corner of the middle. Maps drawn out along x are refused."""
    values = read_maps(str(SHIPPED / "examples" / "targets" / "hubble.fits"), None, USUAL).values
    ranged = np.arcsinh((values - np.median(values)) / 10)
    found = symmetry_tests(ranged)
    assert "contradicted" not in (found["flip"].outcome, found["rotate90"].outcome)
    assert found["flip"].offset == (0.5, 0.5)
    drawn = np.repeat(ranged[:, :, :, 8:24], 2, axis=3)
    assert symmetry_tests(drawn)["rotate90"].outcome == "contradicted"


def test_the_share_of_power_by_direction_is_the_effect() -> None:
    """White noise whose power goes with 1 + a cos(2 angle)."""
    k = np.meshgrid(*2 * [np.fft.fftfreq(32)], indexing="ij")
    law = 1 + 0.4 * np.cos(2 * np.arctan2(*k))
    maps = np.fft.ifft2(
        np.fft.fft2(np.random.default_rng(0).normal(size=(400, 1, 32, 32))) * law**0.5
    )
    assert symmetry_tests(maps.real)["rotate90"].effect == pytest.approx(0.4, abs=0.05)
