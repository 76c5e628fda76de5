"""What sampling asks of a device, counted where there is none: `benchmarks/speed/traffic.py`."""

from dataclasses import replace

import pytest
import torch

import ood_core as ff
from benchmarks.speed.traffic import DEVICE, OnDevice, Recorder
from ood_core.denoising.statistics import Statistics
from ood_core.errors import DeviceFull
from ood_core.numerics.memory import MicroBatches
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.fit import Fit
from ood_core.synthesis.sampler import Sampler


@pytest.fixture(scope="module")
def synth(base, tiny):
    """Fitted to the targets of the tiny run; every expert is evaluated at every timestep."""
    settings = tiny()
    targets = ff.TargetSet.of(settings.targets)
    made = ff.Synthesizer(ff.load_model(str(base)), settings.method, batch=4)
    made.fit(targets, progress=False)
    fit = made._fit
    weights = fit.pipeline.weights.weights
    every = replace(fit.pipeline.weights, weights=(weights + 1 / weights.shape[-1]) / 2)
    made._fitted = Fit.of_state({**fit.state, "weights": every}, made.model, "this test")
    return made


def recorded(synth, n: int) -> tuple[Recorder, torch.Tensor]:
    """Counts of one batch on the device, after another one there, and its maps."""
    with Recorder():
        sampler = synth.to(DEVICE)._fit.sampler
        sampler.sample(SeedRange(1, 0, n))
    with Recorder() as recorder:
        made = sampler.sample(SeedRange(1, 0, n)).maps
    assert isinstance(made, OnDevice)
    return recorder, made.numbers


def test_a_batch_is_uploaded_once_and_never_read(synth):
    """Latents, and where aims and clusters lie: nothing per timestep, and no path names the CPU."""
    recorder, _ = recorded(synth, 4)
    assert recorder.count("reads") == 0
    assert recorder.count("uploads") <= 8
    places = " ".join(recorder.by_place["uploads"])
    assert "_pull" not in places and "__call__" not in places


def test_launches_do_not_grow_with_the_batch(synth):
    few, many = (recorded(synth, n)[0].count("launches") for n in (8, 24))
    assert few == many


def test_a_gradient_of_the_statistics_takes_few_launches():
    """Autograd took some 250 for it."""
    counts = []
    for n in (2, 40):
        with Recorder():
            statistics = Statistics(32, 7).to(DEVICE)
            maps = torch.randn(n, 1, 32, 32).to(DEVICE)
        with Recorder() as recorder:
            found, by_maps = statistics.vjp(maps)
            by_maps(found)
        assert (recorder.count("uploads"), recorder.count("reads")) == (0, 0)
        counts.append(recorder.count("launches"))
    assert counts[0] == counts[1] <= 122


def test_the_device_makes_the_samples_of_the_cpu(synth):
    """Without steering, whose steps by the sign of a gradient blow rounding up."""

    def sampled(some):
        pipeline = replace(
            some._fit.pipeline, method=replace(some._fit.pipeline.method, steering=None)
        )
        return sampler_of(some, pipeline).sample(SeedRange(1, 0, 4)).maps

    expected = sampled(synth)
    with Recorder():
        found = sampled(synth.to(DEVICE))
    # A few steps whose float32 errors (1e-6 of values below 4) a step amplifies by less than 10.
    torch.testing.assert_close(found.numbers, expected, rtol=0, atol=1e-3)


class Small:
    """A base on a device that has memory for `most` maps at once."""

    def __init__(self, inner, most):
        self.inner, self.most, self.refused = inner, most, 0

    @property
    def schedule(self):
        return self.inner.schedule

    def __call__(self, x_t, t, *context):
        if len(x_t) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More.")
        return self.inner(x_t, t, *context)


def small(synth, most):
    """Its base, and the pipeline of a synthesizer on it; unsteered, as rounding grows by that."""
    pipeline, memory = synth._fit.pipeline, MicroBatches()
    base, method = Small(pipeline.base, most), replace(pipeline.method, steering=None)
    return base, replace(pipeline, base=base, method=method, memory=memory)


def sampler_of(synth, pipeline):
    fit = synth._fit
    kept = fit.latents[list(fit.held)]
    return Sampler(pipeline, fit.prior.prior, fit.prior.geometry, kept, fit.held)


def test_out_of_memory_halves_the_batch_and_not_the_samples(synth):
    _, roomy = small(synth, 8)
    expected = sampler_of(synth, roomy).sample(SeedRange(1, 0, 8)).maps
    assert roomy.memory.rows is None
    base, pipeline = small(synth, 3)
    sampler = sampler_of(synth, pipeline)
    found = sampler.sample(SeedRange(1, 0, 8))
    assert (pipeline.memory.rows, base.refused) == (2, 2)  # 8, 4, 2
    # As for two devices: rounding of another batch shape, amplified by less than 10 a step.
    torch.testing.assert_close(found.maps, expected, rtol=0, atol=1e-3)
    sampler.sample(SeedRange(1, 8, 16))
    assert base.refused == 2  # the next batch begins with what fitted
    done = pipeline.invert(slice(0, 8), 8)
    torch.testing.assert_close(
        done.latents, roomy.invert(slice(0, 8), 8).latents, rtol=0, atol=1e-3
    )


def test_a_map_that_does_not_fit_alone_is_said(synth):
    with pytest.raises(DeviceFull, match="one map alone .*Tried to allocate|one map alone .*CUDA"):
        sampler_of(synth, small(synth, 0)[1]).sample(SeedRange(1, 0, 4))


def test_the_recorder_sees_what_it_counts():
    """Negative controls: an upload, a read, and tensors of both devices."""
    with Recorder() as recorder:
        x = torch.ones(3).to(DEVICE)
        float(x.sum())
        x.cpu()
        torch.zeros(2, device=DEVICE)
        with pytest.raises(RuntimeError, match="beside one of the device"):
            x * torch.ones(3)
    assert {k: c.total() for k, c in recorder.by_place.items()} == {
        "launches": 3, "uploads": 1, "reads": 2,
    }  # fmt: skip
