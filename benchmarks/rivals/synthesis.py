"""Synthesis from scattering covariances: descent from noise until the statistics of targets hold.

Microcanonical maximum entropy (Bruna & Mallat 2018; Cheng et al. 2023, arXiv 2306.17210): a
Gaussian field is changed by L-BFGS until its statistics are those that are wanted. No network.

`aim` says which: those of one random target per map, so that a set is as various as the targets,
or the mean over all images of all targets (`ensemble` in the authors' code), one aim for all maps.
Each map starts from a field with the mean and spectrum of its own target, or of all. Statistics
are scattering covariances and, as among the authors' further targets, the pixels' distribution and
the power spectrum, which reaches the corners of Fourier space where no wavelet does; each counts in
units of its spread over the targets.

Wavelets are periodic and cut-outs are not: the jump between opposite edges is a strong edge to
them, which synthesis would write into the middle of its maps. So covariances are those of the map
and its mirror images side by side, without a jump, unless the field is declared periodic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.rivals.baseline import Made, draw_images, require_targets
from benchmarks.rivals.scattering_covariance import ScatteringCovariance
from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.estimators.gaussian import band_spectrum
from ood_core.numerics.covariance import Stationary
from ood_core.numerics.random import SeedRange, normal
from ood_core.numerics.symmetry import orbit

PARTS = 32  # of the sorted pixels; means of parts, so that every pixel is pulled
BANDS = 9  # of wavenumbers
FAINT = 1e-6  # power at which logarithms end, model range squared
MIN_SPREAD = 0.02  # of a log unit, of a correlation or of model range
HISTORY = 20  # steps that L-BFGS remembers


@final
class SynthesisStatistics:
    """Scattering covariances, log powers and sorted pixels of square maps, channels in a row."""

    def __init__(self, size: int, periodic: bool = False) -> None:
        whole = size if periodic else 2 * size
        self._covariance = ScatteringCovariance(whole, size.bit_length() - 2)
        hats = hat_functions(band_knots(whole, whole, BANDS), whole, whole)
        self._bands = hats / hats.sum((-2, -1), keepdim=True)
        self._periodic = periodic

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics, differentiable."""
        ranked = maps.flatten(2).sort(dim=-1).values.tensor_split(PARTS, dim=-1)
        pixels = torch.stack([part.mean(-1) for part in ranked], dim=-1)
        whole = maps if self._periodic else mirrored(maps)
        power = torch.fft.fft2(whole, norm="ortho").abs().square()
        bands = 0.5 * torch.log(torch.einsum("ncyx,byx->ncb", power, self._bands) + FAINT)
        return torch.cat([self._covariance(whole), bands.flatten(1), pixels.flatten(1)], dim=1)


def mirrored(maps: Maps) -> Maps:
    """Maps of twice the side, periodic without a jump."""
    wide = torch.cat([maps, maps.flip(-1)], dim=-1)
    return torch.cat([wide, wide.flip(-2)], dim=-2)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """At most `steps` iterations of L-BFGS per map."""

    steps: int = 100
    aim: Literal["target", "ensemble"] = "target"

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Synthesise one map per seed, each by itself; see `Baseline`."""
        require_targets(targets, 2)
        statistics = SynthesisStatistics(targets.shape[-1], "translate" in symmetries)
        images = torch.cat(orbit(targets, symmetries))
        values = torch.cat([statistics(block) for block in images.split(64)])
        spread = values.std(dim=0).clamp_min(MIN_SPREAD)
        made, losses = [], []
        for i in seeds:
            alone = SeedRange(seeds.root, i, i + 1)
            source = draw_images(targets, symmetries, alone)[0]
            aim = statistics(source)[0] if self.aim == "target" else values.mean(dim=0)
            like = source if self.aim == "target" else images
            found, loss = descend(statistics, start(like, alone), aim, spread, self.steps)
            made.append(found)
            losses.append(loss)
        return Made(torch.cat(made), notes={"loss": sum(losses) / max(1, len(losses))})


def start(like: Maps, seed: SeedRange) -> Maps:
    """Draw a Gaussian field with the mean and the isotropic spectrum of some maps."""
    mean = like.mean((0, -2, -1))[:, None, None]
    return mean + Stationary(band_spectrum(like - mean)).colour(
        normal(seed, like.shape[1:]), torch.empty(1, 0)
    )


def descend(
    statistics: SynthesisStatistics,
    x: Maps,
    aim: Float[Tensor, " f"],
    spread: Float[Tensor, " f"],
    steps: int,
) -> tuple[Maps, float]:
    """Lower the mean squared gap of one map's statistics; return the map and its last loss."""
    x = x.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [x], max_iter=steps, history_size=HISTORY, tolerance_grad=1e-6,
        tolerance_change=1e-9, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        gap: Tensor = ((statistics(x)[0] - aim) / spread).square().mean()
        gap.backward()
        return gap

    with torch.enable_grad():
        solver.step(loss)
        last = float(loss().detach())
    return x.detach(), last
