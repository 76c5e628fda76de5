"""Numbers of single maps that a user may wish for, in physical units.

    mean                pixels' mean
    flux                pixels' sum, over all channels
    spectrum_amplitude  log10 of the power, in unit^2 times pixel area, that a power law fitted to
                        the map's spectrum has at the middle of its wavenumbers
    spectrum_slope      exponent of that power law
    peaks               number of pixels above a level and above their eight neighbours
    volume_fraction     share of pixels above a level
    half_light_radius   radius in pixels that holds half of the light above the background
    concentration       5 log10(r_80 / r_20) of that light

The power law is the least-squares line of `ln P` over `ln k` through the annuli of `spectra`, each
counted by its modes; at the mean of `ln k` its height does not depend on its slope. Of several
channels the mean is taken. Light of a map without any has radius and concentration 0
(`metrics.objects`).

**To add one**, write a function of maps `(n, c, y, x)` and a level, which may be left aside, and
add a line to `WISHED` and a name to `WishedStatistic`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps, PerSample
from ood_core.config.steer import WishedStatistic
from ood_core.metrics.morphology import peak_density
from ood_core.metrics.objects import above_background, concentration, half_light_radius, has_objects
from ood_core.metrics.spectra import MIN_POWER, power_spectrum


@final
@dataclass(frozen=True, slots=True)
class Wished:
    """How a number is measured, and how it is called; `level` is the pixel value to exceed."""

    title: str
    measure: Callable[[Maps, float], Float[Tensor, "n c"]]
    of_objects: bool = False

    def __call__(self, maps: Maps, level: float | None = None) -> PerSample:
        """Measure physical maps: one number per map, double precision."""
        found = self.measure(maps.double(), 0.0 if level is None else level)
        return found.mean(dim=1)


def _power_law(maps: Maps) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Natural logarithm of the amplitude, and the slope."""
    k, power, modes = power_spectrum(maps)
    least = MIN_POWER * power.amax(-1, keepdim=True) + torch.finfo(torch.float64).tiny
    height, weight = torch.maximum(power, least).log(), modes / modes.sum()
    along = k.log() - (weight * k.log()).sum()
    slope = (height * weight * along).sum(-1) / (weight * along.square()).sum().clamp_min(1e-12)
    return (height * weight).sum(-1), slope


def _peaks(maps: Maps, level: float) -> Float[Tensor, "n c"]:
    searched = (maps.shape[-2] - 2) * (maps.shape[-1] - 2)
    return peak_density(maps, torch.tensor([level]).to(maps))[..., 0] * searched


def _of_light(
    measure: Callable[[Maps], Float[Tensor, "n c"]],
) -> Callable[[Maps, float], Float[Tensor, "n c"]]:
    return lambda maps, _: measure(above_background(maps).clamp(min=0)).nan_to_num(0, 0, 0)


WISHED: dict[WishedStatistic, Wished] = {
    "mean": Wished("mean", lambda maps, _: maps.mean((-2, -1))),
    "flux": Wished("total flux", lambda maps, _: maps.sum((-2, -1)) * maps.shape[1]),
    "spectrum_amplitude": Wished(
        "log10 of the spectrum's amplitude", lambda maps, _: _power_law(maps)[0] / log(10)
    ),
    "spectrum_slope": Wished("spectrum's slope", lambda maps, _: _power_law(maps)[1]),
    "peaks": Wished("number of peaks", _peaks),
    "volume_fraction": Wished(
        "volume fraction", lambda maps, level: (maps > level).double().mean((-2, -1))
    ),
    "half_light_radius": Wished("half-light radius", _of_light(half_light_radius), True),
    "concentration": Wished("concentration", _of_light(concentration), True),
}
"""Everything that may be wished for, by name."""


def means_something(name: WishedStatistic, maps: Maps) -> bool:
    """Whether maps have what it is measured of: objects need one at the middle of maps."""
    return not WISHED[name].of_objects or (min(maps.shape[-2:]) >= 4 and has_objects(maps))
