"""Wishes in the method: met, a function of the number, and part of the identity only if there."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import ood_core as ff
from ood_core.config.steer import SteerSpec, WishSpec
from ood_core.errors import ConfigError, IdentityRefused, InputError
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.met import Met


@pytest.fixture(scope="module")
def parts(base, tiny):
    settings = tiny()
    method = replace(settings.method, steering=ff.SteeringSpec(steps=6))
    return ff.load_model(str(base)), method, ff.TargetSet.of(settings.targets)


@pytest.fixture(scope="module")
def plain(parts):
    model, method, targets = parts
    return ff.Synthesizer(model, method, batch=8).fit(targets, progress=False)


@pytest.fixture(scope="module")
def fitted(parts, plain):
    """Synthesizers with wishes, from one fit."""

    def make(**spec):
        model, method, targets = parts
        steered = ff.Synthesizer(model, replace(method, steer=SteerSpec(**spec)), batch=8)
        return steered.fit(targets, progress=False)

    return make


@pytest.fixture(scope="module")
def brighter(fitted, parts):
    means = parts[2].fit.mean(axis=(1, 2, 3))
    wish = WishSpec(statistic="mean", value=float(means.mean() + means.std()))
    return fitted(wishes=(wish,), calls=12)


def test_a_wish_is_met_better_than_by_chance(brighter, plain):
    maps = brighter.sample(24, progress=False)
    met = brighter.met(maps)
    (one,) = met.reached
    assert one.samples.within > one.unsteered.within
    assert abs(one.samples.mean - one.value) < abs(one.unsteered.mean - one.value)
    assert one.samples.mean == pytest.approx(maps.mean(axis=(1, 2, 3)).mean(), rel=1e-5)
    assert met.candidates == 4 and met.whole and met.maps == 24
    assert Met.from_json(met.to_json()) == met
    assert "wished" in str(met)


def test_what_it_is_compared_with_are_the_samples_without_wishes(brighter, plain):
    """With the random numbers of the same identity."""
    fit = brighter._fit
    usual = fit.sampler.preferring(None)
    seeds = SeedRange(fit.pipeline.root, 0, 8)
    made = fit.pipeline.physical(usual.sample(seeds).maps)
    (one,) = brighter.met(brighter.sample(8, progress=False)).reached
    assert one.unsteered.mean == pytest.approx(made.mean(axis=(1, 2, 3)).mean(), rel=1e-5)


def test_a_sample_is_a_function_of_its_number(brighter):
    maps = brighter.sample(16, progress=False)
    assert np.array_equal(brighter.sample(3, start=9, progress=False), maps[9:12])
    assert not np.allclose(maps[0], maps[1])


def test_it_is_saved_and_loaded(brighter, parts, tmp_path):
    brighter.save(tmp_path / "synth.npz")
    again = ff.Synthesizer.load(tmp_path / "synth.npz", parts[0], batch=8)
    assert again.identity == brighter.identity
    assert np.array_equal(again.sample(8, progress=False), brighter.sample(8, progress=False))


REWARD = "import numpy as np\ndef left(maps):\n    return maps[..., :8].sum(axis=(1, 2, 3))\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with a reward in the working folder."""
    (tmp_path / "own_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "own_reward.py"
    sys.modules.pop("own_reward", None)


def test_a_function_by_name_is_the_same_as_one_that_is_handed_over(fitted, module):
    """With the same random numbers, those of this identity."""
    synth = fitted(reward="own_reward:left", calls=5)
    assert synth.method.steer.candidates(2) == 2
    maps = synth.sample(8, progress=False)
    handed = synth.sample_towards(
        lambda maps: maps[..., :8].sum(axis=(1, 2, 3)), 8, candidates=2, progress=False
    )
    assert np.array_equal(maps, handed)
    assert synth.met(maps).reached[0].value is None


def test_another_file_is_another_identity_and_refused_where_one_is_kept(fitted, module, parts):
    before = fitted(reward="own_reward:left", calls=5)
    before.save(module.parent / "synth.npz")
    module.write_text(REWARD + "# changed\n")
    assert fitted(reward="own_reward:left", calls=5).identity != before.identity
    with pytest.raises(IdentityRefused, match="file of own_reward differs"):
        ff.Synthesizer.load(module.parent / "synth.npz", parts[0])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("own_reward:nothing", "no function nothing"),
        ("nowhere_at_all:f", "expected a module in a .py file"),
        ("math:sqrt", "expected a module in a .py file"),
        ("nowhere.at.all:f", "cannot be found"),
    ],
)
def test_functions_without_a_file_are_refused(parts, module, reward, message):
    model, method, _ = parts
    with pytest.raises(ConfigError, match=message):
        ff.Synthesizer(model, replace(method, steer=SteerSpec(reward=reward)))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (WishSpec(statistic="concentration", value=3.0), "no object at their middle"),
        (WishSpec(statistic="volume_fraction", value=0.5, above=1e9), "0 for all fit"),
        (WishSpec(statistic="mean", value=0.0, width=1e-9), "at least a thousandth"),
    ],
)
def test_wishes_that_the_targets_cannot_be_asked_for_are_refused(fitted, wish, message):
    with pytest.raises(InputError, match=message):
        fitted(wishes=(wish,))


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ({}, {}, "wishes or a reward"),
        ({}, {"reward": "os.system"}, "expected module:function"),
        ({"solver": "ddim"}, {"reward": "a:b"}, "expected ancestral"),
        ({}, {"wishes": (WishSpec(statistic="mean", value=1.0),) * 2}, "twice"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(parts, change, spec, message):
    with pytest.raises(ConfigError, match=message):
        replace(parts[1], steer=SteerSpec(**spec), **change)


def test_a_budget_for_less_than_one_way_is_refused(parts):
    model, method, _ = parts
    wish = WishSpec(statistic="mean", value=1.0)
    with pytest.raises(ConfigError, match=r"calls: got 2; expected 3 or more"):
        ff.Synthesizer(model, replace(method, steer=SteerSpec(wishes=(wish,), calls=2)))


def test_a_synthesizer_without_wishes_has_none_to_meet(plain):
    with pytest.raises(InputError, match="expected samples of one that does"):
        plain.met(plain.sample(2, progress=False))
