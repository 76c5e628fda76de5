"""How often hidden pixels lie in the intervals of their draws, as a Markdown table.

python -m benchmarks.coverage --targets examples/hubble.yaml examples/lognormal.yaml ...

One row per target set. Of 48 held-out maps a square of 12 x 12 pixels in the middle is hidden and
drawn 39 times given the rest. The truth has one of 40 ranks among the draws, ties at random:
intervals of 20, 36 and 38 ranks hold it in 50, 90 and 95 % of cases if draws are right. Errors are
standard errors over maps. The last columns say the same of the square's mean, standard deviation
and largest value at 90 %. CPU seconds are those of one draw.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from flows.settings import load_settings
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.synthesis.synthesizer import Synthesizer

MAPS, DRAWS, SIDE = 48, 39, 12
INSIDE = {"50 %": (10, 29), "90 %": (2, 37), "95 %": (1, 38)}


def measure(config: str) -> list[str]:
    """The cells of one set."""
    settings = load_settings(Path(config))
    targets, model = TargetSet.of(settings.targets), load_model(settings.base)
    synth = Synthesizer(model, settings.method).fit(targets, progress=False)
    truth = targets.held_out[:MAPS]
    top, left = ((side - SIDE) // 2 for side in truth.shape[-2:])
    hidden = (..., slice(top, top + SIDE), slice(left, left + SIDE))
    maps = truth.copy()
    maps[hidden] = np.nan
    began = time.process_time()
    made = synth.inpaint(maps, DRAWS, progress=False)
    cost = (time.process_time() - began) / (len(maps) * DRAWS)
    draws, real = made[hidden], truth[hidden]
    ranks = rank(draws.reshape(*draws.shape[:2], -1), real.reshape(len(real), -1))
    cells = [Path(config).stem]
    for low, high in INSIDE.values():
        per = ((ranks >= low) & (ranks <= high)).mean(axis=1)
        cells.append(f"{per.mean():.3f} +- {per.std(ddof=1) / len(per) ** 0.5:.3f}")
    low, high = INSIDE["90 %"]
    for what in (np.mean, np.std, np.max):
        ranks = rank(what(draws, axis=(2, 3, 4))[..., None], what(real, axis=(1, 2, 3))[:, None])
        cells.append(f"{((ranks >= low) & (ranks <= high)).mean():.2f}")
    return [*cells, f"{cost:.3f}"]


def rank(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of the truth among its draws, `(maps, numbers)`, ties at random."""
    equal = (draws == truth[:, None]).sum(axis=1)
    return (draws < truth[:, None]).sum(axis=1) + np.random.default_rng(0).integers(equal + 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", required=True)
    known = parser.parse_args()
    torch.set_num_threads(1)
    header = ["targets", *INSIDE, "mean", "std", "largest", "CPU s per draw"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for config in known.targets:
        print("| " + " | ".join(measure(config)) + " |", flush=True)


if __name__ == "__main__":
    main()
