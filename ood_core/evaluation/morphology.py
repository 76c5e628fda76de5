"""Objects at the middle of maps: are samples' shaped as real ones are?

Only where there are objects: the middle of the fit targets must be brighter than their rim by five
standard errors (`centred`). Shapes are measured on the first channel in physical units above each
map's own background (`ood_core.metrics.objects`). Decoding steers means of rings, hence profiles;
of concentration and ellipticity it knows nothing. The p-value is that of the two-sample
Kolmogorov-Smirnov test, adjusted for the number of quantities (Holm).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from scipy.stats import ks_2samp
from torch import Tensor

from ood_core.evaluation.features import AnyMaps
from ood_core.evaluation.results import Band
from ood_core.metrics.discrepancy import adjusted
from ood_core.metrics.objects import (
    above_background,
    concentration,
    ellipticity,
    flux,
    radial_profile,
)

CERTAIN = 5.0  # standard errors by which the middle must stand out
MIN_OBJECTS = 4  # objects of either set
RANGE = (0.16, 0.5, 0.84)  # of single maps


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """One quantity of objects: 16, 50 and 84 % of samples and of held-out maps, and how likely."""

    name: str
    title: str
    samples: tuple[float, float, float]
    real: tuple[float, float, float]
    p_value: float
    adjusted: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Profiles over radius (pixels) and shapes of `samples` maps and of held-out ones.

    Maps without light above their background have a profile, but no concentration or ellipticity.
    """

    radius: Float[Tensor, " rings"]
    samples: Band
    real: Band
    rows: tuple[Shape, ...]
    measured: int


def centred(maps: AnyMaps) -> bool:
    """Whether the middle of maps stands out from their rim."""
    profile = radial_profile(maps[:, :1])[:, 0]
    part = max(1, profile.shape[-1] // 4)
    excess = profile[:, :part].mean(1) - profile[:, -part:].mean(1)
    error = excess.std() / len(excess) ** 0.5
    return bool(excess.mean() > CERTAIN * error)


def shapes(samples: AnyMaps, held_out: AnyMaps, fit: AnyMaps) -> Shapes | None:
    """Measure maps in physical units; None where there are no objects, or too few."""
    if min(fit.shape[-2:]) < 8 or len(fit) < MIN_OBJECTS or not centred(fit):
        return None
    sets = [above_background(maps[:, :1].double()) for maps in (samples, held_out)]
    measured = [_measured(maps) for maps in sets]
    if min(len(values) for found in measured for values in found.values()) < MIN_OBJECTS:
        return None
    titles = {
        "flux": "flux in the circle",
        "concentration": "concentration",
        "ellipticity": "ellipticity, |e|",
    }
    p = [float(ks_2samp(measured[0][n].numpy(), measured[1][n].numpy()).pvalue) for n in titles]
    rows = tuple(
        Shape(name, title, _range(measured[0][name]), _range(measured[1][name]), one, raised)
        for (name, title), one, raised in zip(titles.items(), p, adjusted(p), strict=True)
    )
    bands = [_band(radial_profile(maps)) for maps in sets]
    radius = torch.arange(bands[0].median.shape[-1], dtype=torch.float64) + 0.5
    return Shapes(radius, bands[0], bands[1], rows, len(samples))


def _measured(maps: AnyMaps) -> dict[str, Float[Tensor, " n"]]:
    found = {
        "flux": flux(maps)[:, 0],
        "concentration": concentration(maps)[:, 0],
        "ellipticity": ellipticity(maps)[:, 0].square().sum(-1).sqrt(),
    }
    return {name: values[values.isfinite()] for name, values in found.items()}


def _range(values: Float[Tensor, " n"]) -> tuple[float, float, float]:
    low, middle, high = values.quantile(torch.tensor(RANGE, dtype=values.dtype)).tolist()
    return low, middle, high


def _band(profiles: Float[Tensor, "n c rings"]) -> Band:
    low, middle, high = profiles.quantile(torch.tensor(RANGE, dtype=profiles.dtype), dim=0)
    return Band(middle, low, high)
