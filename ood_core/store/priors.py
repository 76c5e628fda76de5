"""Priors on disk: mean, covariance in its structured form, geometry and why it was chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_core.estimators.choice import Choice, Prior
from ood_core.estimators.families import Law
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.mixture import MixturePrior
from ood_core.numerics.covariance import CrossStationary, Diagonal, LowRank, Stationary
from ood_core.store.bundle import Named, read_attributes, read_bundle, write_bundle
from ood_core.store.place import Place
from ood_core.synthesis.shell_geometry import TESTS, Interval, ShellGeometry

AXES = ("channel", "y", "x")


def write_prior(
    path: Place,
    prior: Prior,
    geometry: ShellGeometry,
    left_out: Sequence[str] = (),
    choice: Choice | None = None,
) -> None:
    """Write a prior, its geometry, what it was not fitted to and what it was chosen from."""
    attributes: dict[str, Any] = {
        "held_out_log_density": prior.held_out_log_density,
        "geometry": {name: ends for name, ends in asdict(geometry).items() if ends is not None},
        "left_out": list(left_out),
    }
    match prior:
        case GaussianPrior():
            arrays = _law_arrays((prior.mean, prior.covariance), "")
            attributes["rho"] = prior.rho
        case MixturePrior():
            arrays = {"weights": (("member",), prior.weights.numpy())}
            for number, law in enumerate(prior.laws):
                arrays |= _law_arrays(law, _member(number))
    if choice is not None:
        attributes |= _words(choice)
    write_bundle(path, arrays, attributes)


def read_prior(path: Place) -> tuple[Prior, ShellGeometry]:
    """Read what `write_prior` wrote."""
    found, attributes = read_bundle(path)
    arrays = {name: torch.from_numpy(np.array(values)) for name, values in found.items()}
    score = attributes["held_out_log_density"]
    prior: Prior
    if "weights" in arrays:
        members = range(len(arrays["weights"]))
        laws = tuple(_law(arrays, _member(number)) for number in members)
        prior = MixturePrior(arrays["weights"], laws, score)
    else:
        prior = GaussianPrior(*_law(arrays, ""), attributes["rho"], score)
    measured = attributes["geometry"]
    intervals = {name: Interval(**measured[name]) if name in measured else None for name in TESTS}
    return prior, ShellGeometry(**intervals)


def describe_prior(path: Place) -> dict[str, Any]:
    """Kind, scores of all candidates, norms, share and score of a prior; reads no array."""
    return {k: v for k, v in read_attributes(path).items() if k != "geometry"}


def _member(number: int) -> str:
    return f"member_{number}_"


def _law_arrays(law: Law, prefix: str) -> dict[str, Named]:
    mean, covariance = law
    base = covariance.base if isinstance(covariance, LowRank) else covariance
    arrays: dict[str, Named] = {prefix + "mean": (AXES, mean.numpy())}
    match base:
        case Diagonal(variance):
            arrays[prefix + "variance"] = (AXES, variance.numpy())
        case Stationary(power):
            arrays[prefix + "power"] = (("channel", "ky", "kx"), power.numpy())
        case CrossStationary(power):
            axes = ("part", "channel", "with_channel", "ky", "kx")
            parts = torch.stack([power.real, power.imag])
            arrays[prefix + "cross_power"] = (axes, parts.numpy())
    if isinstance(covariance, LowRank):
        arrays[prefix + "factors"] = (("factor", *AXES), covariance.factors.numpy())
    return arrays


def _law(arrays: Mapping[str, Tensor], prefix: str) -> Law:
    base: Diagonal | Stationary | CrossStationary
    if prefix + "power" in arrays:
        base = Stationary(arrays[prefix + "power"])
    elif prefix + "cross_power" in arrays:
        base = CrossStationary(torch.complex(*arrays[prefix + "cross_power"]))
    else:
        base = Diagonal(arrays[prefix + "variance"])
    factors = arrays.get(prefix + "factors")
    return arrays[prefix + "mean"], base if factors is None else LowRank(base, factors)


def _words(choice: Choice) -> dict[str, Any]:
    """JSON has no infinity: a mean that cannot be seen at all needs `null` latents."""
    found = choice.norms
    needed = found.needed if math.isfinite(found.needed) else None
    return {
        "kind": choice.kind,
        "candidates": choice.scores,
        "norms": {
            "mean_square": found.mean_square,
            "variance": found.variance,
            "needed": needed,
            "identified": found.identified,
        },
    }
