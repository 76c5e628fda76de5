"""Priors on disk: mean, covariance in its structured form, geometry and diagnostics."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.geometry import TESTS, Interval, ShellGeometry
from ood_core.linalg import Diagonal, LowRank, Stationary
from ood_core.priors.gaussian import GaussianPrior
from ood_core.store.bundle import read_bundle, write_bundle
from ood_core.store.place import Place

AXES = ("channel", "y", "x")


def write_prior(
    path: Place, prior: GaussianPrior, geometry: ShellGeometry, left_out: Sequence[str] = ()
) -> None:
    """Write a prior, its geometry, and the names of targets that it was not fitted to."""
    covariance = prior.covariance
    base = covariance.base if isinstance(covariance, LowRank) else covariance
    arrays: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {"mean": (AXES, prior.mean.numpy())}
    match base:
        case Diagonal(variance):
            arrays["variance"] = (AXES, variance.numpy())
        case Stationary(power):
            arrays["power"] = (("channel", "ky", "kx"), power.numpy())
    if isinstance(covariance, LowRank):
        arrays["factors"] = (("factor", *AXES), covariance.factors.numpy())
    attributes = {
        "rho": prior.rho,
        "held_out_log_density": prior.held_out_log_density,
        "geometry": {name: ends for name, ends in asdict(geometry).items() if ends is not None},
        "left_out": list(left_out),
    }
    write_bundle(path, arrays, attributes)


def read_prior(path: Place) -> tuple[GaussianPrior, ShellGeometry]:
    """Read what `write_prior` wrote."""
    found, attributes = read_bundle(path)
    arrays = {name: torch.from_numpy(np.array(values)) for name, values in found.items()}
    base = Stationary(arrays["power"]) if "power" in arrays else Diagonal(arrays["variance"])
    covariance = LowRank(base, arrays["factors"]) if "factors" in arrays else base
    prior = GaussianPrior(
        arrays["mean"], covariance, attributes["rho"], attributes["held_out_log_density"]
    )
    measured = attributes["geometry"]
    intervals = {name: Interval(**measured[name]) if name in measured else None for name in TESTS}
    return prior, ShellGeometry(**intervals)
