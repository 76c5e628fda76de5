"""What was fitted, on disk: expert weights, mixtures over patches, priors.

Each is a bundle of named arrays that one process writes at once, with its diagnostics.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.denoising.calibrated import BandWeights
from ood_core.denoising.completed import LeftOpen
from ood_core.denoising.gate import Gate
from ood_core.diffusion.patches import PatchMixture
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.moments import Norms
from ood_core.numerics.covariance import Diagonal, LowRank, Stationary
from ood_core.store.bundle import Named, read_attributes, read_bundle, write_bundle
from ood_core.store.place import Place
from ood_core.store.run import PATCHES, RunStore
from ood_core.store.schema import calibration_parts
from ood_core.synthesis.latents import TESTS, Interval, ShellGeometry
from ood_core.synthesis.pipeline import ExpertPlan


def read_calibration(run: RunStore) -> tuple[ExpertPlan, BandWeights]:
    """Read the band weights of a run, each expert's by its stored name, and their plan.

    Raises:
        IdentityRefused: the run has weights of an expert that this version does not know.
    """
    rows, attributes = run.table("calibrate").load("fitted")
    layout, found = attributes["layout"], torch.from_numpy(rows["fitted"])
    sizes = [math.prod(shape) for _, shape in layout]
    parts = {
        name: numbers.unflatten(1, shape)
        for (name, shape), numbers in zip(layout, found.split(sizes, dim=1), strict=True)
    }
    return ExpertPlan.from_dict(attributes), BandWeights(
        noise_to_signal=torch.tensor(attributes["noise_to_signal"]),
        knots=torch.tensor(attributes["knots"]),
        weights=parts["weights"],
        gate=Gate(parts["gate_edges"], parts["gate_weights"], parts["gate_offsets"]),
        left=LeftOpen(parts["left"], parts["kept"], parts["gaps"]),
    ).by_name(attributes["experts"], str(run.root))


def calibration_row(weights: Tensor, gate: Gate, left: LeftOpen) -> dict[str, NDArray[Any]]:
    """Rows of `calibration.zarr` of weights `(timesteps, bands, experts)` and what they leave."""
    parts = {
        "weights": weights,
        "gate_edges": gate.edges,
        "gate_weights": gate.weights,
        "gate_offsets": gate.offsets,
        "left": left.left,
        "kept": left.kept,
        "gaps": left.gaps,
    }
    layout = calibration_parts(*weights.shape[1:])
    return {"fitted": torch.cat([parts[name].flatten(1) for name in layout], dim=1).numpy()}


PATCH_AXES = {
    "weights": ("gaussian",),
    "means": ("gaussian", "pixel"),
    "values": ("gaussian", "mode"),
    "vectors": ("gaussian", "pixel", "mode"),
}
Mixtures = tuple[PatchMixture, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class PatchFits:
    """One mixture per shape of patches; half `p` has not seen the targets `p::2`."""

    every: Mixtures
    halves: tuple[Mixtures, Mixtures]


def write_patches(run: RunStore, patches: PatchFits) -> None:
    """Write all mixtures of a run at once."""
    arrays: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
    for targets, mixtures in _by_targets(patches):
        for mixture in mixtures:
            name = f"{targets}_{mixture.side}x{mixture.scale}"
            for part, axes in PATCH_AXES.items():
                named = tuple(axis + f"_{name}" for axis in axes)  # xarray wants one size per name
                arrays[f"{name}_{part}"] = (named, getattr(mixture, part).numpy())
    shapes = [[mixture.side, mixture.scale] for mixture in patches.every]
    strides = [mixture.stride for mixture in patches.every]
    write_bundle(run.root / PATCHES, arrays, {"shapes": shapes, "strides": strides})


def read_patches(run: RunStore, halves: bool = True) -> PatchFits:
    """Read what `write_patches` wrote, with or without those of halves of the targets."""
    arrays, attributes = read_bundle(run.root / PATCHES, "" if halves else "every")
    shapes, strides = attributes["shapes"], attributes["strides"]

    def mixtures(targets: str) -> Mixtures:
        return tuple(
            PatchMixture(
                **{
                    part: torch.from_numpy(np.array(arrays[f"{targets}_{side}x{scale}_{part}"]))
                    for part in PATCH_AXES
                },
                side=side,
                scale=scale,
                stride=stride,
            )
            for (side, scale), stride in zip(shapes, strides, strict=True)
        )

    if not halves:
        return PatchFits(mixtures("every"), ((), ()))
    return PatchFits(mixtures("every"), (mixtures("without_even"), mixtures("without_odd")))


def _by_targets(patches: PatchFits) -> Iterator[tuple[str, Mixtures]]:
    """The mixtures with the name of the targets that they are fitted to."""
    yield "every", patches.every
    yield from zip(("without_even", "without_odd"), patches.halves, strict=True)


MAP_AXES = ("channel", "y", "x")


def write_prior(
    path: Place,
    prior: GaussianPrior,
    geometry: ShellGeometry,
    left_out: Sequence[str] = (),
    found: Norms | None = None,
) -> None:
    """Write a prior, its geometry, the ids of targets left out of it, and the latents' norms."""
    covariance = prior.covariance
    base = covariance.base if isinstance(covariance, LowRank) else covariance
    arrays: dict[str, Named] = {"mean": (MAP_AXES, prior.mean.numpy())}
    match base:
        case Diagonal(variance):
            arrays["variance"] = (MAP_AXES, variance.numpy())
        case Stationary(power):
            arrays["power"] = (("channel", "ky", "kx"), power.numpy())
    if isinstance(covariance, LowRank):
        arrays["factors"] = (("factor", *MAP_AXES), covariance.factors.numpy())
    attributes: dict[str, Any] = {
        "rho": prior.rho,
        "held_out_log_density": prior.held_out_log_density,
        "geometry": {name: ends for name, ends in asdict(geometry).items() if ends is not None},
        "left_out": list(left_out),
    }
    if found is not None:
        attributes["norms"] = {
            "mean_square": found.mean_square,
            "variance": found.variance,
            "needed": found.needed if math.isfinite(found.needed) else None,  # JSON has no infinity
            "identified": found.identified,
        }
    write_bundle(path, arrays, attributes)


def read_prior(path: Place) -> tuple[GaussianPrior, ShellGeometry]:
    """Read what `write_prior` wrote."""
    found, attributes = read_bundle(path)
    arrays = {name: torch.from_numpy(np.array(values)) for name, values in found.items()}
    stationary = "power" in arrays
    base = Stationary(arrays["power"]) if stationary else Diagonal(arrays["variance"])
    covariance = LowRank(base, arrays["factors"]) if "factors" in arrays else base
    prior = GaussianPrior(
        arrays["mean"], covariance, attributes["rho"], attributes["held_out_log_density"]
    )
    measured = attributes["geometry"]
    intervals = {name: Interval(**measured[name]) if name in measured else None for name in TESTS}
    return prior, ShellGeometry(**intervals)


def describe_prior(path: Place) -> dict[str, Any]:
    """Share, score and norms of a prior; reads no array."""
    return {k: v for k, v in read_attributes(path).items() if k != "geometry"}
