"""The method as an object: the same maps as a run, a function of identity and number alone."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import ood_core as ff
from ood_core.arrays import row_major
from ood_core.diffusion.patches import PatchMixture
from ood_core.errors import IdentityRefused, InputError, TargetError
from ood_core.store.run import RunStore
from ood_core.synthesis.state import read_state, write_state
from tests.fields import smooth_fields


@pytest.fixture(scope="module")
def model(base):
    return ff.load_model(str(base))


@pytest.fixture(scope="module")
def synth(model, tiny):
    """Fitted to the targets of the tiny run, in batches of its shards."""
    settings = tiny()
    targets = ff.TargetSet.of(settings.targets)
    return ff.Synthesizer(model, settings.method, batch=4).fit(targets, progress=False)


def test_maps_are_those_of_a_run_of_the_same_identity_bit_for_bit(synth, unbroken):
    """One way to make a sample: in memory, in shards on disk, and again by `replay`."""
    run = RunStore(unbroken)
    assert synth.identity == run.record["identity"]
    stored = run.table("generate").read("maps")
    made = synth.sample(10, progress=False)
    assert made.dtype == np.float32 and made.shape == (10, 1, 16, 16)
    assert made.tobytes() == stored.tobytes()
    assert np.array_equal(synth.latents.numpy(), run.table("invert").read("latents"))


@pytest.mark.parametrize(("start", "n"), [(0, 3), (5, 2), (3, 6), (9, 1), (4, 0)])
def test_a_sample_is_a_function_of_its_number(synth, start, n):
    """Whatever is drawn beside it. The negative control: two samples differ."""
    everything = synth.sample(12, progress=False)
    part = synth.sample(n, start, progress=False)
    assert part.tobytes() == everything[start : start + n].tobytes()
    assert not np.allclose(everything[0], everything[1])


def test_one_sample_by_its_number(synth):
    assert synth.sample_one(7).tobytes() == synth.sample(8, progress=False)[7].tobytes()


def test_another_seed_makes_other_samples_of_the_same_targets(synth, model, tiny):
    other = ff.Synthesizer(model, tiny().method, batch=4)
    other.fit(ff.TargetSet.of(tiny().targets), seed=1, progress=False)
    assert other.identity != synth.identity
    assert not np.allclose(other.sample(4, progress=False), synth.sample(4, progress=False))


def test_what_is_saved_comes_back(synth, model, tmp_path):
    synth.save(tmp_path / "fitted.npz")
    again = ff.Synthesizer.load(tmp_path / "fitted.npz", model, batch=4)
    assert again.identity == synth.identity
    assert again.sample(6, progress=False).tobytes() == synth.sample(6, progress=False).tobytes()
    assert again.trust().weights.tobytes() == synth.trust().weights.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["fitted.npz"]


def test_saved_weights_are_read_by_name_and_not_by_position(synth, model, tmp_path):
    """A file whose experts stand in another order; the control: turned without their names."""
    path, whole = tmp_path / "fitted.npz", synth.sample(3, progress=False).tobytes()
    synth.save(path)
    state = read_state(path)
    plan, weights = state["plan"], state["weights"]
    turned = [2, 0, 3, 1, *range(4, len(plan.experts))]
    gate = replace(weights.gate, weights=weights.gate.weights[..., turned])
    moved = replace(weights, weights=weights.weights[..., turned], gate=gate)
    names = tuple(plan.experts[number] for number in turned)
    for experts, same in ((names, True), (plan.experts, False)):
        write_state(path, state | {"weights": moved, "plan": replace(plan, experts=experts)})
        again = ff.Synthesizer.load(path, model, batch=4)
        assert (again.sample(3, progress=False).tobytes() == whole) is same
        assert again.trust().experts == plan.experts
        assert (again.trust().evaluations == synth.trust().evaluations) or not same
    unknown = replace(plan, experts=("oracle", *plan.experts[1:]))
    write_state(path, state | {"plan": unknown})
    with pytest.raises(IdentityRefused, match="oracle"):
        ff.Synthesizer.load(path, model)


def test_a_fit_has_the_strides_that_a_file_gives_back():
    """Eigenvectors come in columns; the negative control says that they do."""
    values, vectors = torch.linalg.eigh(torch.eye(6).expand(2, 6, 6))
    found = PatchMixture(torch.ones(2), torch.ones(2, 6), values, vectors, 5, 1, 2)
    assert not found.vectors.is_contiguous()
    again, (other, _), words = row_major((found, (vectors, None), {"kind": "any"}))
    assert again.vectors.is_contiguous() and other.is_contiguous() and words == {"kind": "any"}
    assert torch.equal(again.vectors, vectors)
    assert (again.side, again.scale, again.stride) == (5, 1, 2)


def test_a_file_for_another_model_is_refused(synth, tmp_path):
    from ood_core.models.networks import make_unet, save_base

    save_base(make_unet(16, 1, (8, 16), 1, (False, False), 4), "epsilon", tmp_path / "other")
    synth.save(tmp_path / "fitted.npz")
    with pytest.raises(IdentityRefused, match="another model"):
        ff.Synthesizer.load(tmp_path / "fitted.npz", ff.load_model(str(tmp_path / "other")))


@pytest.mark.parametrize("content", [None, b"", b"not a file of ours", b"PK\x03\x04broken"])
def test_what_is_no_saved_synthesizer_is_one_clear_error(model, tmp_path, content):
    path = tmp_path / "fitted.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"fitted\.npz.*Synthesizer\.save"):
        ff.Synthesizer.load(path, model)


def test_without_a_fit_there_is_nothing_to_ask(model):
    synth = ff.Synthesizer(model)
    for ask in (
        lambda: synth.sample(1),
        lambda: synth.latents,
        synth.trust,
        lambda: synth.walk(0, 1),
    ):
        with pytest.raises(InputError, match=r"fit\(targets\)"):
            ask()


def test_trust_says_where_each_expert_is_evaluated(synth):
    """In the tiny run every expert is evaluated at all three timesteps."""
    found = synth.trust()
    assert found.experts[:4] == ("identity", "base", "gaussian", "cluster")
    assert found.weights.shape == (3, 3, len(found.experts))
    assert (np.diff(found.noise_to_signal) > 0).all()
    assert found.evaluations["base"] == 3
    assert "base: 3 of 3 timesteps" in str(found)


def test_a_walk_leads_from_one_round_trip_to_another(synth, unbroken):
    """Whatever the round trips are worth: those of two steps through a random model are bad."""
    made = synth.walk(0, 3, steps=5)
    assert made.shape == (5, 1, 16, 16)
    trips = torch.from_numpy(RunStore(unbroken).table("invert").read("round_trip"))
    ends = ff.TargetSet.from_arrays(smooth_fields(14)).physical(trips[[0, 3]])
    np.testing.assert_allclose(made[[0, -1]], ends, rtol=0, atol=1e-4 * ends.std())
    assert np.abs(made[2] - made[0]).max() > 1e-2 * ends.std()


def test_a_walk_leads_from_one_target_to_another_where_round_trips_hold(model):
    """Its ends are nearer to their own target than to any other."""
    calibration = ff.CalibrationSpec(draws=1, bands=3, n_clusters=2, patches=0)
    method = ff.Method(steps=12, t_max=400, calibration=calibration, steering=None)
    targets = ff.TargetSet.from_arrays(smooth_fields(14))
    synth = ff.Synthesizer(model, method, batch=4).fit(targets, progress=False)
    made = synth.walk(0, 3, steps=2)
    for row, target in ((0, 0), (1, 3)):
        distance = np.sqrt(((made[row] - targets.fit) ** 2).mean(axis=(1, 2, 3)))
        assert int(distance.argmin()) == target
        assert distance[target] < 0.05 * targets.fit.std()


def test_a_walk_of_no_targets_is_refused(synth):
    with pytest.raises(InputError, match="numbers of fit targets"):
        synth.walk(0, 99)


def test_held_out_maps_are_not_looked_at(model, tiny, monkeypatch):
    """A fit that touched them would end here; the control: evaluation does touch them."""

    def touched(self):
        raise AssertionError("held-out maps were looked at")

    targets = ff.TargetSet.of(tiny().targets)
    monkeypatch.setattr(ff.TargetSet, "held_out", property(touched))
    monkeypatch.setattr(ff.TargetSet, "held_out_ranged", property(touched))
    synth = ff.Synthesizer(model, tiny().method, batch=4).fit(targets, progress=False)
    made = synth.sample(8, progress=False)
    with pytest.raises(AssertionError, match="held-out"):
        ff.evaluate(made, targets)


def test_bars_are_quiet_on_request(model, tiny, capfd):
    targets = ff.TargetSet.of(tiny().targets)
    capfd.readouterr()
    ff.Synthesizer(model, tiny().method, batch=4).fit(targets, progress=False)
    assert capfd.readouterr().err == ""
    ff.Synthesizer(model, tiny().method, batch=4).fit(targets, progress=True)
    assert "calibrating" in capfd.readouterr().err


def test_maps_that_the_model_cannot_take_are_refused(model):
    with pytest.raises(TargetError, match="at least"):
        ff.Synthesizer(model).fit(ff.TargetSet.from_arrays(np.random.rand(12, 1, 2, 2)))


def test_it_needs_no_ray_no_prefect_no_zarr(base, tmp_path):
    np.save(tmp_path / "maps.npy", smooth_fields(12))
    code = f"""
import sys
import ood_core as ff
targets = ff.TargetSet.read({str(tmp_path / "maps.npy")!r})
calibration = ff.CalibrationSpec(draws=1, patches=2, n_clusters=1)
method = ff.Method(steps=2, calibration=calibration, steering=None)
synth = ff.Synthesizer(ff.load_model({str(base)!r}), method, batch=4)
assert synth.fit(targets, progress=False).sample(2, progress=False).shape == (2, 1, 16, 16)
loaded = {{"ray", "prefect", "zarr", "obstore"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(2, 17, 21), (1, 32, 18)])
def test_bands_and_oblong_maps_of_odd_sides_are_made_as_they_are(model, tiny, shape):
    """The base has one channel and sees multiples of 4 px; bands that are equal stay nearly so."""
    channels, height, width = shape
    rng = np.random.default_rng(0)
    k = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 0.05
    one = np.fft.ifft2(np.fft.fft2(rng.standard_normal((14, 1, height, width))) / k).real
    targets = ff.TargetSet.from_arrays(np.repeat(one, channels, axis=1), symmetries=["flip"])
    synth = ff.Synthesizer(model, tiny().method, batch=4).fit(targets, progress=False)
    made = synth.sample(4, progress=False)
    assert made.shape == (4, *shape) and np.isfinite(made).all()
    gap = made[:, 0] - made[:, -1]
    assert gap.std() < 0.5 * made.std()  # independent ones differ by 2^1/2 of it
