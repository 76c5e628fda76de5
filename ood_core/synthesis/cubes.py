"""Cubes and series: slices that go together along a third axis (experimental).

What makes a sample is random in three places: its latent, the noise of the solver and the steps of
steering. All are linear in white noise, and between the slices of a cube these whites correlate,
wavenumber by wavenumber, by

    rho(lag) = exp(-(lag / length)^power),      0 < power <= 2

a positive definite function of the lag (Schoenberg 1938), fitted in octaves of wavenumbers to fit
targets that are consecutive slices themselves. For slices of a Gaussian cube, whose denoiser is
linear and diagonal in wavenumbers, the correlation of slices is that of their noise. (Latents of
targets say less: the Gaussian that inverts them is fitted to these very targets, and makes them
more independent of one another than those of other maps are.)

A slice by itself is made of white noise, as any sample is, and without steering it is distributed
as one. Aims of steering cannot be mixed: along the axis one is kept, with the probability that the
largest waves have as correlation from slice to slice, or drawn anew.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import InputError
from ood_core.numerics.covariance import wavenumbers
from ood_core.numerics.random import SeedRange, Stream, root_key, uniform
from ood_core.synthesis.pipeline import Pipeline
from ood_core.synthesis.sampler import Sampler

LENGTHS = torch.from_numpy(np.geomspace(0.2, 200, 121))
POWERS = torch.linspace(0.5, 2, 16, dtype=torch.float64)
MAX_DEPTH = 1024
MIN_SLICES = 3


def octaves(y: int, x: int) -> Int[Tensor, "y half"]:
    """The octave of every mode of a half spectrum: up to 1.5 waves per map, to 3, to 6, ..."""
    waves = wavenumbers(y, x)[:, : x // 2 + 1] * min(y, x)
    found: Tensor = (waves.clamp(min=1) / 1.5).log2().floor().long() + 1
    return found


def correlations(slices: Float[Tensor, "cubes depth c y x"]) -> Float[Tensor, "lags octaves"]:
    """Correlation of modes about the mean map, at every lag from 0, in octaves of wavenumbers."""
    away = slices.double() - slices.double().mean((0, 1))
    modes, depth = torch.fft.rfft2(away), slices.shape[1]
    where = octaves(*slices.shape[-2:])
    twice = torch.full(where.shape, 2.0, dtype=torch.float64)  # modes of -k are not stored
    twice[:, 0] = 1
    if slices.shape[-1] % 2 == 0:
        twice[:, -1] = 1
    rows = []
    for lag in range(depth):
        both = (modes[:, : depth - lag].conj() * modes[:, lag:]).real.mean((0, 1)).sum(0) * twice
        row = both.new_zeros(int(where.max()) + 1)
        rows.append(row.index_add(0, where.flatten(), both.flatten()))
    found = torch.stack(rows)
    return found / found[0].clamp_min(torch.finfo(torch.float64).tiny)


@final
@dataclass(frozen=True, slots=True, eq=False)
class AxisLaw:
    """Correlation along the axis, `exp(-(lag / length)^power)`, in octaves of wavenumbers."""

    length: Float[Tensor, " octaves"]
    power: Float[Tensor, " octaves"]

    @classmethod
    def fit(cls, slices: Float[Tensor, "cubes depth c y x"]) -> "AxisLaw":
        """The best in least squares over lags, which count by their pairs of slices."""
        found = correlations(slices)[1:]
        lags = torch.arange(1, len(found) + 1, dtype=torch.float64)
        made = (-((lags / LENGTHS[:, None, None]) ** POWERS[:, None])).exp()
        missed = (made[..., None] - found).square()  # lengths, powers, lags, octaves
        loss = (missed * (len(found) + 1 - lags)[:, None]).sum(2)
        best = loss.flatten(0, 1).argmin(0)
        return cls(LENGTHS[best // len(POWERS)], POWERS[best % len(POWERS)])

    def at(self, lags: Tensor) -> Tensor:
        """Correlations at lags, `(octaves, *lags)`."""
        shape = (-1, *[1] * lags.ndim)
        length, power = self.length.view(shape), self.power.view(shape)
        return (-((lags.abs().double() / length) ** power)).exp()


@final
@dataclass(frozen=True, eq=False)
class AlongAxis:
    """Mixes white noise of consecutive samples (`random.Mixing`); maps by octave of wavenumbers.

    What is no map, such as factors of a covariance, is mixed as the largest waves are.
    """

    law: AxisLaw
    samples: range

    def __call__(self, white: Tensor) -> Tensor:
        """Mix normals of all samples, `(n, *shape)`."""
        roots = self._roots.to(white)
        if white.ndim != 4:
            return torch.einsum("ij,j...->i...", roots[0], white)
        modes = torch.fft.rfft2(white)
        where = octaves(*white.shape[-2:]).to(white.device)
        mixed = torch.zeros_like(modes)
        for number, root in enumerate(roots):
            mask = where == number
            mixed[..., mask] = torch.einsum("ij,jcm->icm", root.to(modes.dtype), modes[..., mask])
        made: Tensor = torch.fft.irfft2(mixed, s=white.shape[-2:])
        return made

    @cached_property
    def _roots(self) -> Float[Tensor, "octaves n n"]:
        """Symmetric square roots of the correlations between slices."""
        place = torch.arange(len(self.samples), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(self.law.at(place[:, None] - place))
        roots: Tensor = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
        return roots


@final
class CubeMaker:
    """Makes cubes for a fitted pipeline whose fit targets are cubes of `depth` slices in order.

    Raises:
        InputError: not a whole number of cubes, too short ones, or latents that are not
            drawn from the prior alone.
    """

    def __init__(self, pipeline: Pipeline, sampler: Sampler, depth: int) -> None:
        seen = pipeline.targets.fit_seen
        cubes, left = divmod(len(seen), max(1, depth))
        if left or depth < MIN_SLICES or pipeline.method.draw is not None:
            raise InputError(
                f"cube: got {len(seen)} fit targets and {depth} slices per cube; expected "
                f"whole cubes of {MIN_SLICES} or more slices, one after another, and a method "
                "without `draw`"
            )
        self._pipeline, self._sampler = pipeline, sampler.preferring(None)
        self.law = AxisLaw.fit(seen.unflatten(0, (cubes, depth)))

    def make(self, depth: int, root: int, number: int) -> Maps:
        """Make cube `number` of a root key, `(depth, c, y, x)` in model range."""
        own = range(number * depth, (number + 1) * depth)
        seeds = SeedRange(root, own.start, own.stop, AlongAxis(self.law, own))
        drawn = self._sampler.drawn(seeds)
        kept = uniform(seeds, 1, 0, Stream.CHOICE)[:, 0] < self.law.at(torch.ones(()))[0]
        place = torch.arange(depth)
        place[1:][kept[1:]] = 0
        aim_of = place.cummax(0).values  # the last slice whose aim was drawn anew
        return self._sampler.decoded(drawn.aimed(aim_of)).maps


def make_cube(
    pipeline: Pipeline,
    sampler: Sampler,
    identity: str,
    slices: int,
    depth: int,
    number: int = 0,
) -> NDArray[np.float32]:
    """Make a cube in physical units; see `Synthesizer.cube`."""
    if not (1 <= depth <= MAX_DEPTH and number >= 0):
        raise InputError(
            f"cube: got {depth} slices, number {number}; expected 1 to {MAX_DEPTH}, and 0 or more"
        )
    made = CubeMaker(pipeline, sampler, slices).make(depth, root_key(f"{identity}/cube"), number)
    physical: NDArray[np.float32] = pipeline.physical(made.cpu())
    return physical
