"""The denoiser of a mixture of Gaussians over patches, in closed form.

Every patch of a map is a draw from `sum_k w_k N(m_k, C_k)`, so that of a noised patch
`y = p + s e` the posterior mean is

    E[p | y] = sum_k g_k(y) (m_k + C_k (C_k + s^2 I)^-1 (y - m_k))

with responsibilities `g_k` of `y` under `N(m_k, C_k + s^2 I)` (Zoran & Weiss 2011, EPLL, there with
the likeliest component alone). Overlapping patches are averaged. A mixture of a coarser scale sees
the map averaged over squares of `scale` pixels, where white noise is `scale` times weaker.
"""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps, on_device
from ood_core.diffusion.schedule import NoiseSchedule

HOST_ROWS = 512  # patches at once: their products fit into the cache, which halves the time
DEVICE_VALUES = 2**30  # of such a product on a GPU, 4 GiB


@final
@dataclass(frozen=True, slots=True, eq=False)
class PatchMixture:
    """A mixture over patches of all channels, `side` px wide on the map coarsened `scale` times.

    Maps are cut into patches at every `stride` pixels.
    `vectors[k]` holds the eigenvectors of covariance `k` as columns, `values[k]` the eigenvalues.
    """

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    values: Float[Tensor, "k d"]
    vectors: Float[Tensor, "k d d"]
    side: int
    scale: int
    stride: int

    def noised(self, noise: float) -> "NoisedMixture":
        """The mixture of patches with white noise of this standard deviation."""
        total = self.values + noise**2
        whiten = self.vectors / total.sqrt()[:, None, :]
        count, size = self.means.shape
        return NoisedMixture(
            whiten.permute(1, 0, 2).reshape(size, count * size),
            -torch.bmm(self.means[:, None], whiten)[:, 0],
            self.weights.log() - 0.5 * total.log().sum(-1),
        )


@final
@dataclass(frozen=True, slots=True, eq=False)
class NoisedMixture:
    """Filters that whiten patches under every Gaussian, its whitened mean negated, its log odds."""

    into: Float[Tensor, "d kd"]
    centre: Float[Tensor, "k d"]
    odds: Float[Tensor, " k"]

    def whitened(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k d"]:
        """Whitened deviations of patches from every mean."""
        away = torch.addmm(self.centre.flatten(), rows, self.into)
        return away.view(-1, *self.centre.shape)

    def log_densities(self, away: Float[Tensor, "n k d"]) -> Float[Tensor, "n k"]:
        """Log of weight times density of every Gaussian, up to one constant."""
        square: Tensor = torch.linalg.vector_norm(away, dim=-1).square()
        return self.odds - 0.5 * square


@final
class PatchDenoiser:
    """Posterior mean of a map under a mixture over its patches."""

    def __init__(self, schedule: NoiseSchedule, mixture: PatchMixture) -> None:
        self._schedule, self.mixture = schedule, mixture

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule the time indices refer to."""
        return self._schedule

    def to(self, device: torch.device | str) -> "PatchDenoiser":
        """Move to a device."""
        return PatchDenoiser(self._schedule, on_device(self.mixture, device))

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the average over patches of `E[patch | x_t]`."""
        y = x_t / float(self._schedule.alpha[t])
        noise, scale = self._schedule.noise_to_signal(t), self.mixture.scale
        if scale == 1:
            return self._averaged(y, noise)
        height, width = y.shape[-2:]
        whole = F.pad(y, (0, -width % scale, 0, -height % scale), mode="reflect")
        coarse = self._averaged(F.avg_pool2d(whole, scale), noise / scale)
        fine = F.interpolate(coarse, scale_factor=scale, mode="bilinear", align_corners=False)
        return fine[..., :height, :width]

    def _averaged(self, y: Maps, noise: float) -> Maps:
        side, (height, width) = self.mixture.side, y.shape[-2:]
        stride, edge = self.mixture.stride, side - 1  # so that every pixel has as many patches
        more = [edge + (-(length + 2 * edge - side)) % stride for length in (width, height)]
        wide = F.pad(y, (edge, more[0], edge, more[1]), mode="reflect")
        seen = F.unfold(wide, side, stride=stride)
        rows = seen.transpose(1, 2).reshape(-1, seen.shape[1])
        clean = self._posterior(rows, noise)
        back = clean.view(len(y), -1, seen.shape[1]).transpose(1, 2)
        total = F.fold(back, wide.shape[-2:], side, stride=stride)
        count = F.fold(torch.ones_like(back[:1]), wide.shape[-2:], side, stride=stride)
        return (total / count)[..., edge : edge + height, edge : edge + width]

    def _posterior(self, rows: Float[Tensor, "n d"], noise: float) -> Float[Tensor, "n d"]:
        """`E[p | y]` of noised patches."""
        law = on_device(self.mixture, rows.device)
        count, size = law.means.shape
        noised = law.noised(noise)
        shrink = law.values / (law.values + noise**2).sqrt()
        back = (law.vectors * shrink[:, None]).transpose(1, 2).reshape(-1, size)

        def cleaned(block: Tensor) -> Tensor:
            away = noised.whitened(block)
            share = noised.log_densities(away).softmax(-1)
            return torch.addmm(share @ law.means, away.mul_(share[..., None]).flatten(1), back)

        return torch.cat([cleaned(block) for block in rows.split(block_rows(rows, count))])


def block_rows(rows: Float[Tensor, "n d"], count: int) -> int:
    """Patches that are cleaned at once: what fits into the cache of a CPU, or a GPU's memory."""
    if rows.device.type == "cpu":
        return HOST_ROWS
    return max(1, DEVICE_VALUES // (count * rows.shape[1]))
