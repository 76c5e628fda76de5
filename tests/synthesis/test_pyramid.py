"""Coarse maps first: which factor, what samples are held to, and in which rooms that lives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ood_core as ff
from ood_core.errors import ConfigError
from ood_core.numerics.random import SeedRange
from ood_core.numerics.tents import lowered
from ood_core.synthesis.pipeline import coarse_factor, with_pyramid
from tests.fields import smooth_fields

SIDES = {
    (128, 128): 4, (256, 256): 8, (128, 192): 4, (160, 160): 5, (96, 96): 1, (64, 64): 1,
    (131, 131): 1, (100, 150): 1, (128, 131): 1, (512, 128): 4,
}  # fmt: skip


def test_coarse_maps_have_32_px_or_more_and_divide_both_sides():
    assert {sides: coarse_factor(*sides) for sides in SIDES} == SIDES


@pytest.fixture(scope="module")
def targets():
    wide = np.kron(smooth_fields(14), np.ones((2, 2), np.float32))
    return ff.TargetSet.from_arrays(wide * (1 + 0.01 * smooth_fields(14 * 4).reshape(wide.shape)))


@pytest.fixture(scope="module")
def method(tiny):
    return replace(tiny().method, pyramid=2)


@pytest.fixture(scope="module")
def synth(base, method, targets):
    synth = ff.Synthesizer(ff.load_model(str(base)), method, batch=4)
    return synth.fit(targets, progress=False)


def test_means_of_samples_are_the_coarse_maps_of_the_same_parents(synth, targets):
    """To rounding: they are of single precision and of order one."""
    fit, seeds = synth._fit, SeedRange(synth._fit.pipeline.root, 0, 4)
    drawn = fit.sampler.drawn(seeds)
    assert drawn.coarse is not None and torch.equal(drawn.parents, drawn.coarse.parents)
    assert drawn.coarse.seeds.root != seeds.root  # else both levels had the same noise
    made, coarse = fit.sampler.decoded(drawn), fit.coarse.sampler.decoded(drawn.coarse)
    means = fit.coarse.targets.linear(coarse.maps)
    assert torch.allclose(lowered(made.maps, 2), means, atol=1e-5)
    assert np.allclose(
        fit.coarse.targets.values, lowered(targets.model_range, 2).numpy(), atol=1e-6
    )
    assert np.allclose(means, fit.coarse.targets.physical(coarse.maps), atol=1e-5)


def test_stored_and_moved_it_makes_the_same_maps(synth, tmp_path):
    maps = synth.sample(6, progress=False)
    synth.save(tmp_path / "fit.npz")
    again = ff.Synthesizer.load(tmp_path / "fit.npz", synth.model, batch=4)
    assert np.array_equal(again.sample(6, progress=False), maps)
    assert np.array_equal(synth.to("cpu").sample(6, progress=False), maps)
    assert again.identity == synth.identity


def test_it_is_part_of_the_identity_and_of_no_other(synth, base, method, targets):
    plain = ff.Synthesizer(synth.model, replace(method, pyramid=1), batch=4)
    plain.fit(targets, progress=False)
    assert "pyramid" not in plain._fit.record["method"]
    assert synth._fit.record["method"]["pyramid"] == 2
    assert "pyramid" not in synth._fit.coarse.record["method"]
    assert plain._fit.coarse is None
    other = plain.sample(4, progress=False)
    assert not np.array_equal(other, synth.sample(4, progress=False))


def test_evaluations_of_both_levels_are_counted_together(synth):
    counter = synth._fit.pipeline.base
    before = counter.nfe
    synth.sample(4, progress=False)
    assert counter.nfe - before == 4 * 2 * 3  # maps, levels, indices


def set_of(height, width, plateau=False):
    values = np.random.default_rng(0).normal(size=(8, height, width)).astype(np.float32)
    values = np.where(values < -1, np.float32(-3), values) if plateau else values
    return ff.TargetSet.from_arrays(values)


def test_a_factor_that_does_not_fit_is_refused(synth, method):
    for sides, factor in (((32, 32), 4), ((36, 48), 5), ((48, 50), 3)):
        with pytest.raises(ConfigError, match=f"got {factor} for maps of {sides[0]} x {sides[1]}"):
            with_pyramid(replace(method, pyramid=factor), synth.model, set_of(*sides))


def test_auto_is_for_large_maps_without_plateaus_and_for_methods_that_calibrate(synth, method):
    auto, model = replace(method, pyramid="auto"), synth.model
    assert with_pyramid(auto, model, set_of(128, 160)).factor == 4
    assert with_pyramid(auto, model, set_of(64, 64)).factor == 1
    flat = set_of(128, 128, plateau=True)
    assert with_pyramid(replace(auto, quantization=True), model, flat).factor == 1
    assert with_pyramid(replace(auto, quantization=False), model, flat).factor == 4
    assert with_pyramid(replace(auto, pyramid=4), model, flat).factor == 4
    none = replace(auto, calibration=None, steering=None)
    assert with_pyramid(none, model, set_of(128, 128)).factor == 1
