"""CPU seconds of the method in memory, by shape: fitting, maps, measuring; one line of JSON each.

    python benchmarks/speed/method.py [PART ...] [--steps 12] [--maps 64] [--draws 3]
        [--targets 64]

Parts: `hubble` (64 targets of 1 x 32 px, as in the demo); random fields of 1 x 64 px (`middle`),
1 x 128 (`large`) and 3 x 256 (`bands`), to fit and to sample; `measure` (3 x 256 px alone). Maps
are measured a shard at a time against 64 targets with flips and turns, as they are where samples
are made. It takes nothing but public names, so that it also runs another tree:
PYTHONPATH=OTHER python benchmarks/speed/method.py. Seconds are those of this process in one
thread: they bear other work on the machine better than the wall's.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import ood_core as ff
from ood_core.evaluation.features import FeatureExtractor

PROJECT = Path(__file__).resolve().parents[2]
SYMMETRIES = ("flip", "rotate90")
SHAPES = {"middle": (1, 64), "large": (1, 128), "bands": (3, 256)}  # channels and side
SHARD = 2**20  # pixels that are measured at once, 64 maps at most


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def fields(count: int, channels: int, side: int) -> np.ndarray:
    """Random fields with a falling spectrum, `(n, c, y, x)`."""
    rng, frequency = np.random.default_rng(0), np.fft.fftfreq(side)
    wavenumber = np.hypot(*np.meshgrid(frequency, frequency)) + 1 / side
    white = np.fft.fft2(rng.standard_normal((count, channels, side, side)))
    return np.exp(0.1 * np.fft.ifft2(white / wavenumber).real).astype(np.float32)


def hubble(count: int) -> tuple[ff.TargetSet, str]:
    """Targets and base of the demo."""
    path = str(PROJECT / "examples/targets/hubble.fits")
    targets = ff.TargetSet.read(
        path, transform="asinh", symmetries=SYMMETRIES, held_out=384 - count
    )
    return targets, "models/dead-leaves-32"


def fitted(name: str, steps: int, maps: int, draws: int, count: int) -> dict[str, float]:
    """Seconds of a fit, of every map after it, of measuring a map, and these over those."""
    base = "models/dead-leaves-32"
    if name == "hubble":
        targets, base = hubble(count)
        measured = measuring(targets.fit_ranged, targets.held_out_ranged)
    else:
        made = fields(2 * count, *SHAPES[name])
        targets = ff.TargetSet.from_arrays(made, symmetries=SYMMETRIES)
        measured = measure(*SHAPES[name])
    model = ff.load_model(str(PROJECT / base))
    method = ff.Method(steps=steps, calibration=ff.CalibrationSpec(draws=draws))
    batch = min(16, maps)
    synth = ff.Synthesizer(model, method, batch=batch)
    took = cpu_seconds(lambda: synth.fit(targets, seed=0, progress=False))
    synth.sample(batch, progress=False)
    each = cpu_seconds(lambda: synth.sample(maps, batch, progress=False)) / maps
    return {"fit": took, "map": each, "measure": measured, "ratio": measured / each}


def measure(channels: int, side: int) -> float:
    """Seconds of measuring a map of random fields against 64 others."""
    targets = torch.from_numpy(fields(128, channels, side)).log()
    return measuring(targets[:64], targets[64:])


def measuring(fit: torch.Tensor, held_out: torch.Tensor) -> float:
    """Seconds of measuring a map of a shard, after some."""
    extractor = FeatureExtractor.of(fit, held_out, SYMMETRIES)
    shard = held_out[: max(1, min(64, SHARD // held_out[0].numel()))]
    extractor.extract(shard)
    return cpu_seconds(lambda: extractor.extract(shard)) / len(shard)


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["hubble", "large", "measure"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--maps", type=int, default=64)
    parser.add_argument("--draws", type=int, default=3, help="fewer make a fit shorter")
    parser.add_argument("--targets", type=int, default=64, help="fitted; fewer likewise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        steps, maps = arguments.steps, arguments.maps
        few = arguments.draws, arguments.targets
        alone = part == "measure"
        found = {"map": measure(3, 256)} if alone else fitted(part, steps, maps, *few)
        tree = str(Path(ff.__file__).parents[1])
        print(json.dumps({"part": part, "steps": steps, "tree": tree, **found}), flush=True)


if __name__ == "__main__":
    main()
