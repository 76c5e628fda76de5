"""What each part of the default method is worth, as a Markdown table.

    python -m benchmarks.ablation examples/hubble.yaml examples/sun.yaml --samples 128 --seeds 3

The default, then the default with one thing changed per row, and held-out maps in the place of
samples. Every cell is a mean over seeds, with half of the range where there are several. Distances
are energy distances of families of statistics to held-out maps, 0 where nothing is told apart;
`classifier` is the balanced accuracy of a logistic regression on all that are not steered, cross-
validated; `near` the share of samples nearer to a target in scattering moments than 99 in 100
held-out maps are. The first four rows share one fit per seed.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.bases import Nothing
from benchmarks.nfe import say
from flows.settings import load_settings
from ood_core.arrays import Maps
from ood_core.config.method import Method
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.evaluation.features import FAMILIES
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.discrepancy import energy_distance, row_distances
from ood_core.metrics.distances import Whitening
from ood_core.metrics.spectra import power_spectrum, spectrum_distance
from ood_core.models.loading import BaseModel, load_model
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import measure_geometry
from ood_core.synthesis.sampler import Sampler
from ood_core.synthesis.synthesizer import Synthesizer

PENALTY, FOLDS, BATCH = 0.1, 5, 64
LOW = 2.5  # `sigma/alpha` of latents that keep a target's coarse structure


@dataclass(frozen=True)
class Case:
    """One target set, its base, and a method for it."""

    model: BaseModel
    targets: TargetSet
    method: Method

    def fitted(self, seed: int) -> Synthesizer:
        """The method, fitted."""
        return Synthesizer(self.model, self.method).fit(self.targets, seed, progress=False)


def plain(fitted: Synthesizer, **changes: Any) -> Sampler:
    """The sampler of a fit, with some of the method changed for sampling alone."""
    fit = fitted._fit
    pipeline = replace(fit.pipeline, method=replace(fit.pipeline.method, **changes))
    kept = fit.latents[list(fit.held)]
    return Sampler(pipeline, fit.prior.prior, fit.prior.geometry, kept, fit.held)


def white(fitted: Synthesizer) -> Sampler:
    """Latents from N(0, I) in the place of the fitted prior's."""
    fit, kept = fitted._fit, fitted.latents[list(fitted._fit.held)]
    shape = tuple(kept.shape[1:])
    fitted_prior = fit.prior.prior
    assert isinstance(fitted_prior, GaussianPrior)
    prior = replace(fitted_prior, mean=torch.zeros(shape), covariance=isotropic(1.0, shape))
    draw = fit.pipeline.method.draw
    geometry = measure_geometry(draw, latent_sampler(draw, prior, kept), fit.pipeline.root, kept)
    return Sampler(fit.pipeline, prior, geometry, kept, fit.held)


def means_at_fronts(fitted: Synthesizer) -> Sampler:
    """Pixels beside a plateau as the stack of experts estimates them."""
    sampler = plain(fitted)
    sampler._fronts = None
    return sampler


def means_alone(fitted: Synthesizer) -> Sampler:
    """Estimates as the stack of experts makes them, without the power that means lack."""
    sampler = plain(fitted)
    sampler._completions = None
    return sampler


BESIDE_PLATEAUS = "no patches beside plateaus"
SAMPLED: dict[str, Callable[[Synthesizer], Sampler]] = {
    "default": plain,
    "latents from N(0, I)": white,
    "ODE": lambda fitted: plain(fitted, solver="ddim"),
    "no steering": lambda fitted: plain(fitted, steering=None),
    "estimates not completed": means_alone,
    BESIDE_PLATEAUS: means_at_fronts,
}
"""Rows that share the default's fit; the last is of targets with plateaus alone."""


def low(case: Case) -> Case:
    """Latents at a lower noise level, and as many steps below it."""
    t_max = case.model.denoiser.schedule.index_of(LOW)
    return replace(case, method=replace(case.method, t_max=t_max))


def no_network(case: Case) -> Case:
    """The network answers nothing."""
    there = case.model.denoiser
    nothing = Nothing(there.schedule, cast(Any, there).network)
    return replace(case, model=replace(case.model, denoiser=nothing))


AT_LOW = f"latents at sigma/alpha {LOW:g}"
FITTED: dict[str, Callable[[Case], Case]] = {
    AT_LOW: low,
    "no network": no_network,
}
"""Rows with a fit of their own."""


@dataclass(frozen=True)
class Judge:
    """Held-out maps, and what scores others against them."""

    targets: TargetSet
    held_out: Maps

    def scores(self, maps: Maps) -> list[float]:
        """Spectrum, families, classifier and share of near ones."""
        sets = [
            {n: FAMILIES[n](some).float() for n in self.families}
            for some in (maps, self.held_out, self.targets.fit_ranged)
        ]
        whitened = {n: Whitening.fit(sets[2][n]) for n in sets[2]}
        own, real, fit = ({n: whitened[n](s[n]) for n in s} for s in sets)
        distances = [energy_distance(own[n], real[n]) for n in own]
        unsteered = [n for n in own if not FAMILIES[n].steered]
        rows = [torch.cat([s[n] for n in unsteered], 1).numpy() for s in (own, real)]
        labels = np.repeat([0, 1], [len(maps), len(self.held_out)])
        model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=500)
        told = cross_val_score(
            make_pipeline(StandardScaler(), model), np.concatenate(rows), labels,
            cv=StratifiedKFold(FOLDS, shuffle=True, random_state=0), scoring="balanced_accuracy",
        )  # fmt: skip
        near = [
            row_distances(s["scattering"], fit["scattering"]).min(1).values for s in (own, real)
        ]
        threshold = near[1].quantile(0.01)
        spectrum = spectrum_distance(*(power_spectrum(m)[1] for m in (maps, self.held_out)))
        flagged = (near[0] <= threshold).double().mean()
        return [float(spectrum), *distances, float(told.mean()), 100 * float(flagged)]

    @property
    def families(self) -> list[str]:
        """What is measured."""
        return [n for n, f in FAMILIES.items() if f.applies_to(self.targets.fit_ranged)]


def drawn(case: Case, sampler: Sampler, root: int, count: int) -> tuple[Maps, float]:
    """Samples in model range as the run would write them, and CPU seconds per map."""
    begin = time.process_time()
    made = [
        sampler.sample(SeedRange(root, first, first + BATCH)).maps
        for first in range(0, count, BATCH)
    ]
    physical = np.concatenate([sampler._pipeline.physical(maps.cpu()) for maps in made])
    seconds = (time.process_time() - begin) / len(physical)
    return case.targets.ranged(physical[:count]), seconds


def cell(values: Sequence[float]) -> str:
    """Mean and half of the range."""
    spread = f" ± {(max(values) - min(values)) / 2:.2g}" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3g}{spread}"


def table(config: Path, samples: int, seeds: int, base: str | None) -> None:
    """Print the rows of one target set as they are done."""
    settings = load_settings(config)
    targets = TargetSet.of(settings.targets)
    case = Case(load_model(base or settings.base), targets, settings.method)
    judge = Judge(targets, targets.held_out_ranged)
    header = [
        config.stem,
        "spectrum",
        *judge.families,
        "classifier",
        "near, %",
        "calls",
        "CPU s per map",
    ]
    say(*header)
    say(*["---"] * len(header))
    shared = [case.fitted(seed) for seed in range(seeds)]
    for name, sampler in SAMPLED.items():
        if name == BESIDE_PLATEAUS and plain(shared[0])._fronts is None:
            continue
        row(name, judge, case, [(fit, sampler(fit)) for fit in shared], samples)
    for name, change in FITTED.items():
        other = change(case)
        fits = [other.fitted(seed) for seed in range(seeds)]
        row(name, judge, other, [(fit, plain(fit)) for fit in fits], samples)
        if name == AT_LOW:
            row(f"{name}, from N(0, I)", judge, other, [(fit, white(fit)) for fit in fits], samples)
    half = len(judge.held_out) // 2
    real = Judge(targets, judge.held_out[half:]).scores(judge.held_out[:half])
    say("real maps", *[f"{value:.3g}" for value in real], "", "")


def row(
    name: str, judge: Judge, case: Case, made: Sequence[tuple[Synthesizer, Sampler]], samples: int
) -> None:
    """Print one row."""
    found = []
    for fit, sampler in made:
        maps, seconds = drawn(case, sampler, fit._fit.pipeline.root, samples)
        calls = fit.trust().evaluations["base"]
        found.append([*judge.scores(maps), float(calls), seconds])
    say(name, *[cell(values) for values in zip(*found, strict=True)])


def main() -> None:
    """Print one table per target set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", help="another base than the configuration's")
    known = parser.parse_args()
    torch.set_num_threads(1)
    for config in known.configs:
        table(config, known.samples, known.seeds, known.base)


if __name__ == "__main__":
    main()
