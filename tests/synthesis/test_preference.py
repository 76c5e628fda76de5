"""Samples that a reward prefers: more of what it asks for, and a function of their number."""

from dataclasses import replace

import numpy as np
import pytest

import ood_core as ff
from ood_core.errors import InputError


def flux(maps):
    return maps.mean(axis=(1, 2, 3))


@pytest.fixture(scope="module")
def synth(base, tiny):
    """One that steers, as choices begin with aims."""
    settings = tiny()
    method = replace(settings.method, steering=ff.SteeringSpec(steps=6))
    synth = ff.Synthesizer(ff.load_model(str(base)), method, batch=8)
    return synth.fit(ff.TargetSet.of(settings.targets), progress=False)


@pytest.fixture(scope="module")
def made(synth):
    return synth.sample_towards(flux, 16, candidates=2, strength=3.0, progress=False)


def test_what_is_asked_for_is_had_more_of(synth, made):
    """Against the opposite reward, sample by sample, by more than three standard errors."""
    less = synth.sample_towards(
        lambda maps: -flux(maps), 16, candidates=2, strength=3.0, progress=False
    )
    usual = flux(synth.sample(16, progress=False))
    assert flux(less).mean() < usual.mean() < flux(made).mean()
    gain = flux(made) - flux(less)
    assert gain.mean() > 3 * gain.std() / 4


def test_a_sample_is_a_function_of_its_number(synth, made):
    part = synth.sample_towards(flux, 3, start=6, candidates=2, strength=3.0, progress=False)
    assert np.array_equal(part, made[6:9])
    assert not np.allclose(made[6], made[7])


@pytest.mark.parametrize(
    ("reward", "change", "message"),
    [
        (lambda maps: maps.mean(axis=(2, 3)), {}, r"shape \(.*, 1\)"),
        (lambda maps: np.full(len(maps), np.nan), {}, "0 of them finite"),
        (lambda maps: np.ones(len(maps)), {}, "the same for all fit targets"),
        (flux, {"candidates": 0}, "got 0 candidates"),
        (flux, {"strength": -1.0}, "strength -1.0"),
        (flux, {"start": -1}, "start -1"),
    ],
)
def test_rewards_and_numbers_that_cannot_be_are_refused(synth, reward, change, message):
    with pytest.raises(InputError, match=message):
        synth.sample_towards(reward, 2, **{"progress": False, **change})
