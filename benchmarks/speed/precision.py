"""What bfloat16 does to samples, and what compiling the network would save, on this CPU.

    python -m benchmarks.speed.precision [--samples 16] [--compile]

A set of the Sun's cut-outs is sampled twice from the same seeds, the network once in float32 and
once under bfloat16 autocast, with steering and without it; every map calls the network at each
step. Differences are RMS over the standard deviation of the float32 samples, and the mean absolute
log ratio of power. `--compile` times the network by itself, as it is and by `torch.compile`.
"""

import argparse
import json
import time
from dataclasses import replace

import torch

import ood_core as ff
from benchmarks.speed.method import PROJECT, SYMMETRIES, cpu_seconds
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.metrics.spectra import power_spectrum, spectrum_distance
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.sampler import Sampler

TARGETS = 24


def bfloat16(samples: int) -> None:
    """Differences of samples, one line of JSON each."""
    sun = ff.TargetSet.read(str(PROJECT / "examples/targets/sun.fits"))
    targets = ff.TargetSet.from_arrays(sun.values[: 2 * TARGETS], symmetries=SYMMETRIES)
    folder = str(PROJECT / "models/dead-leaves-32")
    model = ff.load_model(folder)
    method = ff.Method(calibration=ff.CalibrationSpec(draws=1))
    fit = ff.Synthesizer(model, method, batch=samples).fit(targets, progress=False)._fit
    kept = fit.latents[list(fit.held)]
    for steering in (method.steering, None):
        method = replace(fit.pipeline.method, steering=steering)
        made = []
        for dtype in (torch.float32, torch.bfloat16):
            base = CountingDenoiser(ff.load_model(folder, dtype=dtype).denoiser)
            pipeline = replace(fit.pipeline, method=method, base=base)
            sampler = Sampler(pipeline, fit.prior.prior, fit.prior.geometry, kept, fit.held)
            made.append(sampler.sample(SeedRange(1, 0, samples)).maps)
        apart = (made[1] - made[0]).square().mean().sqrt() / made[0].std()
        powers = [power_spectrum(maps)[1] for maps in made]
        found = {
            "steered": steering is not None,
            "calls per map": base.nfe / samples,
            "difference over standard deviation": float(apart),
            "log ratio of power": spectrum_distance(*powers),
        }
        print(json.dumps(found), flush=True)


def compiled() -> None:
    """Milliseconds of the network per map, and seconds of compiling."""
    network = ff.load_model(str(PROJECT / "models/dead-leaves-32")).denoiser.network
    maps, t = torch.randn(16, 1, 32, 32), torch.full((16,), 300)
    ready, found = torch.compile(network), {}
    with torch.no_grad():
        began = time.process_time()
        ready(maps, t)
        found["seconds of compiling"] = time.process_time() - began
        for name, call in (("as it is, ms", network), ("compiled, ms", ready)):
            call(maps, t)
            several = [cpu_seconds(lambda call=call: call(maps, t)) for _ in range(4)]
            found[name] = 1000 * min(several) / 16
    print(json.dumps(found), flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bfloat16(arguments.samples)
    if arguments.compile:
        compiled()


if __name__ == "__main__":
    main()
