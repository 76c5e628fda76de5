"""Procedural worlds: functions of their seeds, in range, and true to what they declare."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ood_core.pretraining.world_fields import Array, Clouds, PowerLaw, TwoPhase, Waves
from ood_core.pretraining.world_shapes import Discs
from ood_core.pretraining.worlds import (
    FAMILIES,
    LIMIT,
    Composition,
    Drawer,
    Standardised,
    draw_world,
)

SIGMAS = 5  # one false alarm in two million Gaussian trials
ISOTROPIC = PowerLaw(slope=3.0, corner=0.04)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def within_error(values: Array, expected: float) -> bool:
    """Whether the mean over independent maps agrees, by the scatter from map to map."""
    per_map = values.reshape(len(values), -1).mean(1).astype(np.float64)
    error = per_map.std(ddof=1) / math.sqrt(len(per_map))
    return abs(per_map.mean() - expected) < SIGMAS * error


def families_of(model: Drawer) -> set[type]:
    if isinstance(model, Composition):
        return families_of(model.first) | families_of(model.second)
    return families_of(model.model) if isinstance(model, Standardised) else {type(model)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [8, 32, 48])
def test_maps_are_functions_of_the_seeds_and_in_range(family: str, size: int) -> None:
    for seed in range(2):
        maps = draw_world(seed, family).maps(3, size, 7)
        again = draw_world(seed, family)
        assert maps.shape == (3, size, size) and maps.dtype == np.float32
        assert np.isfinite(maps).all() and np.abs(maps).max() <= LIMIT
        assert np.array_equal(maps, again.maps(3, size, 7))
        assert not np.array_equal(maps, again.maps(3, size, 8))
        assert not np.array_equal(maps, draw_world(seed + 100, family).maps(3, size, 7))


def test_worlds_fill_the_model_range() -> None:
    spreads, outside = [], []
    for seed in range(40):
        maps = draw_world(seed).maps(8, 32, 0)
        spreads.append(maps.std())
        outside.append((np.abs(maps) > 1).mean())
    assert min(spreads) > 0.01
    assert 0.15 < np.median(spreads) < 0.6
    assert np.mean(outside) < 0.05


def test_families_left_out_are_never_drawn() -> None:
    names = [name for name in FAMILIES if name not in ("arcs", "craters")]
    allowed = {FAMILIES[name] for name in names}
    worlds = [draw_world(seed, families=names) for seed in range(90)]
    assert {world.family for world in worlds} == set(names)
    assert all(families_of(world.model) <= allowed for world in worlds)
    assert any(isinstance(world.model, Composition) for world in worlds)
    held_out = [draw_world(seed, "arcs", names) for seed in range(20)]
    assert all(FAMILIES["arcs"] in families_of(world.model) for world in held_out)
    assert all(families_of(world.model) <= allowed | {FAMILIES["arcs"]} for world in held_out)


@pytest.mark.parametrize("slope", [1.0, 2.0, 3.0])
def test_power_law_has_its_slope(slope: float) -> None:
    n, size, low, high = 48, 64, 6, 24
    fields = PowerLaw(slope).draw(rng(), n, size)
    window = np.hanning(size + 1)[:size]
    power = np.abs(np.fft.fft2(fields * np.outer(window, window))) ** 2
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(size, 1 / size)], indexing="ij"))
    ring = (k >= low) & (k <= high)
    log_k = np.log(k[ring]) - np.log(k[ring]).mean()
    log_power = np.log(power[:, ring]).mean(0)
    found = -(log_k @ log_power) / (log_k @ log_k)
    # The logarithm of a periodogram scatters by pi^2/6; half the modes are mirror images, and a
    # Hann window of two dimensions makes one of (3/2)^2 neighbours.
    independent = 0.5 * n / 1.5**2
    error = math.sqrt(math.pi**2 / 6 / independent / (log_k @ log_k))
    # The window smooths over 1/3 squared mode per dimension, which adds (1/2)(1/3) slope^2 / k^2.
    bias = slope**2 / 6 / low**2 / math.log(high / low)
    assert abs(found - slope) < SIGMAS * error + bias


@pytest.mark.parametrize("model", [PowerLaw(2.0, corner=0.05), PowerLaw(3.0, 0.05, 0.2, 2.5, 0.7)])
def test_fields_have_mean_zero_and_variance_one(model: PowerLaw) -> None:
    fields = model.draw(rng(), 200, 32)
    assert within_error(fields, 0)
    assert within_error(fields**2, 1)


def test_stretched_fields_are_longer_along_their_direction() -> None:
    fields = PowerLaw(3.0, 0.05, stretch=3.0, angle=math.pi / 2).draw(rng(), 100, 32)
    along_y, along_x = (np.diff(fields, axis=axis).std() for axis in (1, 2))
    assert along_x != pytest.approx(along_y, rel=0.3)


@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.8])
def test_two_phases_take_the_declared_parts_of_the_area(fraction: float) -> None:
    model = TwoPhase(ISOTROPIC, ISOTROPIC, fraction, 0.01, "flat", False, 0.5, 0.0)
    phase = model.draw(rng(), 200, 32)
    assert within_error(phase > 0.5, fraction)
    assert ((phase < 0.02) | (phase > 0.98)).mean() > 0.8


@pytest.mark.parametrize("covered", [0.2, 0.6])
def test_discs_cover_the_declared_part(covered: float) -> None:
    model = Discs(covered, 1.5, 2.5, 0.02, ISOTROPIC, 0.0)
    assert within_error(model.draw(rng(), 150, 32) < 0.5, covered)


def test_clouds_are_log_normal() -> None:
    logs = np.log(Clouds(ISOTROPIC, ISOTROPIC, 0.7, 0.0).draw(rng(), 200, 32))
    assert within_error(logs, 0)
    assert within_error(logs**2, 0.7**2)
    assert within_error(logs**3, 0)


def test_waves_have_their_wavelength() -> None:
    size, wavenumber, spread = 64, 0.15, 0.1
    fields = Waves(wavenumber, spread, 0.0, 0.0, 0.0).draw(rng(), 20, size)
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(size)], indexing="ij"))
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    middle = float((power * k).sum() / power.sum())
    assert abs(middle - wavenumber) < spread * wavenumber + 1 / size


def test_quantised_worlds_have_their_levels() -> None:
    world = draw_world(3, "clouds")
    levels = replace(world.instrument, levels=9)
    maps = replace(world, instrument=levels).maps(4, 32, 0)
    steps = np.unique(np.round(maps[np.abs(maps) < LIMIT], 5))
    assert len(steps) > 2
    assert np.allclose(steps * 4, np.round(steps * 4), atol=1e-4)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(KeyError):
        draw_world(0, "unheard of")
    with pytest.raises(ValueError, match="expected at least one"):
        draw_world(0).maps(0, 32, 0)
