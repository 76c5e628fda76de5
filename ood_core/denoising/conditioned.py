"""Estimates given pixels that are known: what a Gaussian makes of them, in closed form.

Of maps `N(mu, C)` and noise of `s = sigma/alpha`, the clean map given `x_t` is Gaussian about the
estimate `D` with precision `Q = C^-1 + s^-2`. Let `m` be the pixels that are missing, `o` the known
ones with values `y`. Then (conditional Gaussian; Rasmussen & Williams 2006, A.6)

    x_m | x_t, y  ~  N( D_m - Q_mm^-1 Q_mo (y - D_o),  Q_mm^-1 ),    Q_mo = (C^-1)_mo

for `s^-2` couples no two pixels. One eigendecomposition of `(C^-1)_mm` serves all noise levels. `D`
is the calibrated estimate and `C` the targets' Gaussian: where maps are Gaussian and `D` is exact,
so is the draw, with any number of steps. No gradient goes through the network.
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ood_core.arrays import Map, Maps, wide
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import InputError
from ood_core.numerics.covariance import Covariance
from ood_core.numerics.random import SeedRange, StepNoise, Stream

MAX_MISSING = 4096
"""Missing pixels of one map; a matrix of their precisions then takes 128 MiB."""


@final
class KnownPixels:
    """A map of which some pixels are known, under the targets' Gaussian covariance.

    Args:
        covariance: of maps in model range.
        known: the map, whatever values it has where pixels are missing.
        missing: which pixels are; one or more.

    Raises:
        InputError: more pixels are missing than `MAX_MISSING`.
    """

    def __init__(self, covariance: Covariance, known: Map, missing: Bool[Tensor, "c y x"]) -> None:
        self._where = missing.flatten().nonzero()[:, 0]
        if len(self._where) > MAX_MISSING:
            raise InputError(
                f"got a map that misses {len(self._where)} pixels; expected at most {MAX_MISSING}:"
                " fill it in parts, or bin it"
            )
        self._covariance, self._known, self._missing = covariance, known, missing
        unit = wide(torch.zeros(len(self._where), known.numel(), device=known.device))
        unit[torch.arange(len(self._where)), self._where] = 1
        columns = covariance.solve(unit.reshape(-1, *known.shape)).flatten(1)[:, self._where]
        values, self._vectors = torch.linalg.eigh((columns + columns.T) / 2)
        self._values = values.clamp_min(0)

    def mean(self, estimate: Maps, noise_to_signal: float) -> Maps:
        """The mean of the clean map given `x_t` and the known pixels, `(n, c, y, x)`."""
        gap = torch.where(self._missing, 0, self._known - estimate)
        pull = self._covariance.solve(wide(gap)).flatten(1)[:, self._where]
        return self._with(estimate, -self._scaled(pull, noise_to_signal, -1))

    def draw(self, estimate: Maps, noise_to_signal: float, white: Maps) -> Maps:
        """A draw of the clean map given `x_t` and the known pixels, from standard normals."""
        spread = wide(white).flatten(1)[:, self._where]
        mean = self.mean(estimate, noise_to_signal)
        return self._with(mean, self._scaled(spread, noise_to_signal, -0.5))

    def _scaled(
        self, rows: Float[Tensor, "n missing"], noise_to_signal: float, power: float
    ) -> Float[Tensor, "n missing"]:
        scale = (self._values + noise_to_signal**-2) ** power
        scaled: Tensor = ((rows @ self._vectors) * scale) @ self._vectors.T
        return scaled

    def _with(self, maps: Maps, change: Float[Tensor, "n missing"]) -> Maps:
        """Maps that are known where they can be, and changed elsewhere."""
        whole = torch.where(self._missing, maps, self._known).flatten(1)
        return whole.index_add(1, self._where, change.to(whole.dtype)).reshape(maps.shape)


@final
class ConditionedDenoiser:
    """Draws of the clean map given `x_t` and known pixels, in the place of its mean.

    A step of the reverse noising chain that begins at a draw of the clean map is exact; one that
    begins at the mean loses spread. `seeds` has one sample per map of a batch.
    """

    def __init__(self, inner: Denoiser, pixels: KnownPixels, seeds: SeedRange) -> None:
        self._inner, self._pixels = inner, pixels
        self._noise = StepNoise(seeds, Stream.KNOWN)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return a draw given `x_t` and the known pixels."""
        ratio = self.schedule.noise_to_signal(t)
        return self._pixels.draw(self._inner(x_t, t), ratio, self._noise.at(t, x_t))
