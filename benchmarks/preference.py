"""What a reward gives and what it costs, as a Markdown table.

python -m benchmarks.preference --targets examples/hubble.yaml [--samples 128]

Rewards: total flux, which a sample's aim decides, and flux of the upper half less that of the
lower, which it does not. One row per reward, strength of the choice and number of candidates: the
mean score of the samples, in standard deviations of the fit targets' scores above their mean
(errors are standard errors); how far they are from held-out maps then (spectrum, FSD, two-sample
classifier); CPU seconds per map.
"""

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from flows.settings import load_settings
from ood_core.evaluation.evaluate import evaluate
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.synthesis.synthesizer import Synthesizer

ROWS = ((0.0, 1), (1.0, 1), (1.0, 4), (2.0, 4))
SCORES = ("spectrum_error", "fsd", "c2st")


def flux(maps: np.ndarray) -> np.ndarray:
    """Sum over pixels of each map."""
    total: np.ndarray = maps.sum(axis=(1, 2, 3))
    return total


def upper(maps: np.ndarray) -> np.ndarray:
    """Flux of the upper half less that of the lower."""
    half = maps.shape[2] // 2
    return flux(maps[:, :, half:]) - flux(maps[:, :, :half])


REWARDS = {"flux": flux, "upper": upper}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=list(REWARDS))
    known = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings(Path(known.targets))
    targets = TargetSet.of(settings.targets)
    synth = Synthesizer(load_model(settings.base), settings.method).fit(targets, progress=False)
    header = ["reward", "strength", "candidates", "score", *SCORES, "CPU s"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    for (name, reward), (strength, candidates) in product(
        [(name, REWARDS[name]) for name in known.rewards], ROWS
    ):
        real, began = reward(targets.fit), time.process_time()
        maps = synth.sample_towards(
            reward, known.samples, candidates=candidates, strength=strength, progress=False
        )
        cost = (time.process_time() - began) / known.samples
        scores = (reward(maps) - real.mean()) / real.std()
        error = scores.std() / len(scores) ** 0.5
        found = evaluate(maps, targets).scores
        cells = [name, f"{strength:g}", f"{candidates}", f"{scores.mean():.2f} +- {error:.2f}"]
        cells += [f"{found[score].value:.3f}" for score in SCORES] + [f"{cost:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
