"""What a GPU makes of the way down: equality with the CPU, maps per second, launches, memory.

    make gpu-check          (farfield bench gpu [--small] [--device cpu] [--out FILE])

Random fields are fitted with no expert left out, and sampled at 1 x 32, 1 x 64 and 3 x 256 px. Of
each, beside maps per second: the share of the time that the network's kernels take; how fast the
way is beside a bare loop of the same network calls; the network's part of the matrix product's
FLOP/s; operators a batch, and kernels where CUDA's profiler tells; memory; and what measuring
costs beside generating. Without a GPU it says so and ends; `--small` tries the program itself.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from actors.loading import set_numbers
from actors.timing import TimedDenoiser
from benchmarks.record import Figure, save
from benchmarks.speed.network import in_turns
from benchmarks.speed.traffic import FREE
from flows.cli.console import OUT, show_rows
from flows.settings import PROJECT
from ood_core.config.method import CalibrationSpec, Method
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.evaluation.features import FeatureExtractor
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel, load_model
from ood_core.models.networks import make_unet, save_base
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.sampler import Sampler
from ood_core.synthesis.synthesizer import Synthesizer

SECONDS = 300.0  # after so many no further shape is begun; `make gpu-check` ends it after 480
TOLERANCE = 1e-3  # of model range, for unsteered samples of two devices; as of two CPUs


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A shape of maps: fitted targets, batch, shipped base or '' for an untrained one, steps."""

    channels: int
    side: int
    targets: int
    batch: int
    base: str = ""
    steps: int = 12
    patches: int = 24

    def __str__(self) -> str:
        return f"{self.channels} x {self.side}"


CASES = (
    Case(1, 32, 64, 256, "models/dead-leaves-32"),
    Case(1, 64, 64, 128, "models/dead-leaves-64"),
    Case(3, 256, 16, 16),
)
SMALL = (Case(1, 16, 8, 4, steps=2, patches=2),)
WIDTHS, SMALL_WIDTHS = (64, 128, 256, 256), (8, 16)


@final
class Operators(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operator, and count it."""
        self.count += func.overloadpacket.__name__ not in FREE
        return func(*args, **(kwargs or {}))


def fields(case: Case, count: int) -> np.ndarray:
    """Random fields with a falling spectrum, `(n, c, y, x)`."""
    rng, frequency = np.random.default_rng(0), np.fft.fftfreq(case.side)
    wavenumber = np.hypot(*np.meshgrid(frequency, frequency)) + 1 / case.side
    white = np.fft.fft2(rng.standard_normal((count, case.channels, case.side, case.side)))
    return np.exp(0.1 * np.fft.ifft2(white / wavenumber).real).astype(np.float32)


def model_of(case: Case, device: torch.device) -> BaseModel:
    """The shipped base, or an untrained network of the usual size."""
    if case.base:
        return load_model(str(PROJECT / case.base), device)
    torch.manual_seed(0)
    widths = WIDTHS if case.side > 64 else SMALL_WIDTHS
    with tempfile.TemporaryDirectory() as folder:
        attention = (False,) * len(widths)
        network = make_unet(case.side, case.channels, widths, 1, attention, 4)
        save_base(network, "epsilon", Path(folder))
        return load_model(folder, device)


def unsteered(synth: Synthesizer) -> Sampler:
    """A sampler of the same fit that leaves steering out, which amplifies rounding."""
    fit = synth._fit
    pipeline = replace(fit.pipeline, method=replace(fit.pipeline.method, steering=None))
    kept = fit.latents[list(fit.held)]
    return Sampler(pipeline, fit.prior.prior, fit.prior.geometry, kept, fit.held)


def measured(case: Case, device: torch.device, repeats: int) -> dict[str, Figure]:
    """All figures of one shape.

    Raises:
        AssertionError: unsteered samples differ from those of the CPU by more than `TOLERANCE`.
    """
    targets = TargetSet.from_arrays(fields(case, 2 * case.targets), symmetries=("flip", "rotate90"))
    spec = CalibrationSpec(draws=1, prune_tolerance=0.0, patches=case.patches)
    method = Method(steps=case.steps, calibration=spec)
    model = model_of(case, device)
    clock = TimedDenoiser(model.denoiser)
    began = time.perf_counter()
    synth = Synthesizer(model, method, batch=case.batch).fit(targets, progress=False)
    fitted, few = time.perf_counter() - began, SeedRange(1, 0, min(4, case.batch))
    there = unsteered(synth).sample(few).maps.cpu()
    apart = float((there - unsteered(synth.to("cpu")).sample(few).maps).abs().max())
    if apart > TOLERANCE:
        raise AssertionError(f"{case}: got samples {apart:.2g} apart from the CPU's; {TOLERANCE}")

    fit = synth._fit
    timed = replace(fit.pipeline, base=CountingDenoiser(clock), network=clock)
    kept = fit.latents[list(fit.held)]
    sampler = Sampler(timed, fit.prior.prior, fit.prior.geometry, kept, fit.held)
    seeds, calls = SeedRange(1, 0, case.batch), len(timed.timesteps) - 1
    maps = sampler.sample(seeds).maps
    noisy = torch.randn_like(maps)
    extractor = FeatureExtractor.of(
        targets.fit_ranged.to(device), targets.held_out_ranged.to(device), targets.symmetries
    )
    side = 4096 if device.type == "cuda" else 512
    matrix = torch.randn(side, side, device=device)
    t = int(timed.timesteps[len(timed.timesteps) // 2])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = in_turns(
        {
            "samples": lambda: sampler.sample(seeds),
            "network": lambda: [model.denoiser(noisy, t) for _ in range(calls)],
            "measure": lambda: extractor.extract(maps),
            "product": lambda: matrix @ matrix,
        },
        repeats,
        device,
    )
    clock.take()
    began = time.perf_counter()
    sampler.sample(seeds).maps.cpu()
    share = clock.take() / (time.perf_counter() - began)
    with Operators() as operators:
        sampler.sample(seeds)
    with FlopCounterMode(display=False) as counter:
        model.denoiser(noisy[:1], t)
    flops = counter.get_total_flops() * case.batch * calls
    samples, network, peak = (taken[name] for name in ("samples", "network", "product"))
    figures = {
        "maps per second": Figure.of([case.batch / s for s in samples], ratio=False),
        "bare network loop over generating": over(network, samples),
        "share of time in the network": Figure(share),
        "network's share of the matrix product's FLOP/s": Figure.of(
            [flops / n / (2 * side**3 / p) for n, p in zip(network, peak, strict=True)]
        ),
        "measuring over generating": over(taken["measure"], samples, higher_is_better=False),
        "operators per batch": Figure(operators.count, ratio=False, higher_is_better=False),
        "seconds of fitting": Figure(fitted, ratio=False, higher_is_better=False),
        "largest difference from the CPU, unsteered": Figure(
            apart, ratio=False, higher_is_better=False
        ),
    }
    if device.type == "cuda":
        figures["peak memory, MiB"] = Figure(
            torch.cuda.max_memory_allocated() / 2**20, ratio=False, higher_is_better=False
        )
        figures["kernels per batch"] = Figure(
            kernels(lambda: sampler.sample(seeds)), ratio=False, higher_is_better=False
        )
    return figures


def over(some: list[float], others: list[float], **options: bool) -> Figure:
    """Quotients of seconds that were taken in turns."""
    return Figure.of([a / b for a, b in zip(some, others, strict=True)], **options)


def kernels(call: Callable[[], Any]) -> int:
    """Kernels that CUDA's profiler sees."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in found.key_averages())


def main() -> None:
    """Measure, print one table, write JSON; without a GPU say why nothing was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny maps, to try the program")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON to write; else a new file in runs/bench")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        OUT.print("gpu-check: skipped: torch sees no CUDA device on this machine")
        return
    device, began = torch.device(arguments.device), time.monotonic()
    set_numbers(device, "float32")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    figures: dict[str, Figure] = {}
    skipped: list[str] = []
    path = arguments.out
    for case in SMALL if arguments.small else CASES:
        if time.monotonic() - began > SECONDS:
            skipped.append(str(case))
            continue
        found = measured(case, device, arguments.repeats)
        figures |= {f"{case}: {what}": figure for what, figure in found.items()}
        path = save("gpu", figures, {"device": name}, path)  # what is found, whatever comes next
    rows = [[what, figure.value, figure.noise] for what, figure in figures.items()]
    show_rows(f"{name}, {path}", ["figure", "value", "noise"], rows)
    if skipped:
        OUT.print(f"no time for {json.dumps(skipped)}")


if __name__ == "__main__":
    main()
