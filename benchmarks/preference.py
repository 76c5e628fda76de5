"""What a wish or a reward gives and what it costs, as a Markdown table.

python -m benchmarks.preference --targets examples/hubble.yaml [--samples 128]
python -m benchmarks.preference --wishes --targets examples/lognormal.yaml examples/hubble.yaml

Rewards: total flux, which a sample's aim decides, and flux of the upper half less that of the
lower, which it does not. One row per reward, strength of the choice and number of candidates: the
mean score of the samples, in standard deviations of the fit targets' scores above their mean
(errors are standard errors); how far they are from held-out maps then (spectrum, FSD, two-sample
classifier); CPU seconds per map.

Wishes: total flux and the slope of the spectrum, each one spread of the fit targets (half their
central 68 %) above their median, with the width that is the default. One row per set, wish and way
to choose: no wish; an aim alone; 4 ways at every step; 4 whole ways, as a method with wishes does.
Mean and standard deviation of the statistic, the share of samples within the width (0.68 if they
were Gaussian about the wish with it), of the first and the last way families of tests that tell
them from held-out maps and accuracy of the classifier, evaluations of the network and CPU seconds
per map.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.settings import load_settings
from ood_core.config.steer import WishedStatistic, WishSpec
from ood_core.evaluation.evaluate import evaluate
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.preference import Preference, WishedFor, central, measured
from ood_core.synthesis.synthesizer import Synthesizer

ROWS = ((0.0, 1), (1.0, 1), (1.0, 4), (2.0, 4))
SCORES = ("spectrum_error", "fsd", "c2st")
WISHED: tuple[WishedStatistic, ...] = ("flux", "spectrum_slope")
WAYS = {
    "aim alone": (1, False),
    "4 at every step": (4, False),
    "4 whole ways": (4, True),
}


def flux(maps: np.ndarray) -> np.ndarray:
    """Sum over pixels of each map."""
    total: np.ndarray = maps.sum(axis=(1, 2, 3))
    return total


def upper(maps: np.ndarray) -> np.ndarray:
    """Flux of the upper half less that of the lower."""
    half = maps.shape[2] // 2
    return flux(maps[:, :, half:]) - flux(maps[:, :, :half])


REWARDS = {"flux": flux, "upper": upper}


def rewarded(synth: Synthesizer, targets: TargetSet, samples: int) -> Iterator[list[str]]:
    """Cells of every reward, strength and number of candidates."""
    for (name, reward), (strength, candidates) in product(REWARDS.items(), ROWS):
        real, began = reward(targets.fit), time.process_time()
        maps = synth.sample_towards(
            reward, samples, candidates=candidates, strength=strength, progress=False
        )
        cost = (time.process_time() - began) / samples
        scores = (reward(maps) - real.mean()) / real.std()
        error = scores.std() / len(scores) ** 0.5
        found = evaluate(maps, targets).scores
        cells = [name, f"{strength:g}", f"{candidates}", f"{scores.mean():.2f} +- {error:.2f}"]
        yield cells + [f"{found[score].value:.3f}" for score in SCORES] + [f"{cost:.2f}"]


def wished(synth: Synthesizer, targets: TargetSet, samples: int) -> Iterator[list[str]]:
    """Cells of every wish and way to choose; the first row has the real maps."""
    plain, *paid = _made(synth, None, samples)
    told = _told(plain, targets)
    for name in WISHED:
        wish = WishSpec(statistic=name, value=0.0)
        real = measured(wish, targets.fit)
        wish = replace(wish, value=float(np.median(real) + central(real)))
        term = WishedFor(synth._fit.pipeline, wish)
        said, met = f"{name} {wish.value:.3g} ± {term.width:.2g}", (wish, term.width)
        yield [said, "held-out maps", *_met(targets.held_out, *met)]
        yield [said, "no wish", *_met(plain, *met), *told, *paid]
        for title, (count, whole) in WAYS.items():
            chosen = Preference(synth._fit.pipeline, [term], count, whole)
            maps, *cost = _made(synth, chosen, samples)
            apart = _told(maps, targets) if whole else ["", ""]
            yield [said, title, *_met(maps, *met), *apart, *cost]


def _made(
    synth: Synthesizer, chosen: Preference | None, samples: int
) -> tuple[np.ndarray, str, str]:
    """Samples, and evaluations of the network and CPU seconds of each."""
    pipeline, sampler = synth._fit.pipeline, synth._fit.sampler.preferring(chosen)
    before, began, made = pipeline.base.nfe, time.process_time(), []
    for first in range(0, samples, synth.batch):
        seeds = SeedRange(pipeline.root, first, first + synth.batch)
        made.append(pipeline.physical(sampler.sample(seeds).maps.cpu()))
    maps = np.concatenate(made)
    cost, calls = time.process_time() - began, pipeline.base.nfe - before
    return maps, f"{calls / len(maps):.0f}", f"{cost / len(maps):.2f}"


def _told(maps: np.ndarray, targets: TargetSet) -> list[str]:
    """Families that tell maps from held-out ones, and the accuracy of the classifier."""
    found = evaluate(maps, targets, progress=False)
    apart = [test.name for test in found.tests.families if test.rejected]
    return [", ".join(apart) or "none", f"{found.scores['c2st'].value:.2f}"]


def _met(maps: np.ndarray, wish: WishSpec, width: float) -> list[str]:
    values = measured(wish, maps)
    within = (np.abs(values - wish.value) <= width).mean()
    return [f"{values.mean():.3g} ± {values.std():.2g}", f"{within:.2f}"]


def table(header: list[str], configs: list[str], rows: Callable[..., Any], samples: int) -> None:
    """Print a table of all sets."""
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    for config in configs:
        settings = load_settings(Path(config))
        targets = TargetSet.of(settings.targets)
        synth = Synthesizer(load_model(settings.base), settings.method)
        for cells in rows(synth.fit(targets, progress=False), targets, samples):
            cells += [""] * (len(header) - 1 - len(cells))
            print("| " + " | ".join([Path(config).stem, *cells]) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--wishes", action="store_true")
    known = parser.parse_args()
    torch.set_num_threads(1)
    if known.wishes:
        header = ["wish", "chosen by", "reached", "within", "told apart by", "c2st", "calls"]
        table(["targets", *header, "CPU s"], known.targets, wished, known.samples)
        return
    header = ["targets", "reward", "strength", "candidates", "score", *SCORES, "CPU s"]
    table(header, known.targets, rewarded, known.samples)


if __name__ == "__main__":
    main()
