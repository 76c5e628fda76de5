"""Steered decoding: the clean estimate is pulled towards statistics of the targets.

While decoding, at each timestep with `sigma/alpha` up to `sigma_max`, a few Adam steps on the
denoised estimate alone (no gradient through the network) lower the distance of its statistics
(`ood_core.denoising.statistics`) to a per-sample aim (`ood_core.denoising.aims`), each divided by
its spread over the targets.

Adam moves all its coordinates by like amounts. On pixels such steps are white noise, which makes
peaks that no map has. In posterior coordinates `x0 + A u`, with `A(k)^2 = P(k) s^2 / (P(k) + s^2)`
the variance that the targets' power `P` leaves open at `s = sigma/alpha`, they follow the maps' own
spectrum.

A stationary field knows nothing of place: it is as rough where maps are bright as where they are
faint, and bright objects became lumpy. So steps are scaled by the spread that the targets' detail
has at the brightness of the estimate's local mean, `x0 + r(c) A u`.

The mean and the lowest wavenumbers are a few numbers among a hundred that follow small scales. With
equal weights they hardly matter: on maps of two phases half of the power at the lowest wavenumbers
was given up for the rest. So the loss gives them more weight.

Where maps go together (`random.Mixing`), so does what is left open: coordinates are then mixed as
their noise is. Steps of each map by itself would tear slices of a cube apart.

"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

from ood_core.arrays import Map, Maps, PerSample
from ood_core.config.method import SteeringSpec
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.completed import left_by_gaussian
from ood_core.denoising.statistics import Statistics
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import filtered
from ood_core.numerics.random import SeedRange

HOST_PIXELS = 2**16  # that are steered at once on a CPU: wavelet responses then fit into its cache
MOST = 1.0  # spread: a wider gap pulls no more, as in the loss of Huber (1964)
BETAS = 0.8, 0.99
"""Adam's memory of the gradient and of its square: a dozen steps are too few for its own."""


@final
class SteeredDenoiser:
    """A denoiser whose estimates are steered towards per-sample aims; one instance per batch."""

    def __init__(
        self,
        inner: Denoiser,
        statistics: Statistics,
        aim: Float[Tensor, "n f"],
        aims: StatisticAims,
        spec: SteeringSpec,
        seeds: SeedRange | None = None,
    ) -> None:
        self._inner, self._statistics, self._spec = inner, statistics, spec
        self._aim, self._spread, self._power = aim, aims.spread, aims.power
        self._local = aims.local
        weight = torch.where(aims.low_k, spec.low_k_weight, 1.0) / aims.spread
        self._slope = 2 * weight.square() / aim.shape[1]  # of the loss, by a gap
        self._along = None if seeds is None else seeds.mixing
        if self._along is not None and len(self._along.samples) != len(aim):
            raise ValueError(f"got {len(aim)} maps of {self._along.samples}; expected all at once")

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the steered clean estimate."""
        x0 = self._inner(x_t, t)
        if not self._steers(t):
            return x0
        x0 = x0.detach()
        rows = len(x0)
        if x0.device.type == "cpu" and self._along is None:
            rows = max(1, HOST_PIXELS // x0[0].numel())
        ratio = self.schedule.noise_to_signal(t)
        left_open = left_by_gaussian(self._power, ratio)
        split = x0.split(rows), self._aim.split(rows), self._local(x0).split(rows)
        blocks = zip(*split, strict=True)
        return torch.cat([self._pull(*block, left_open.sqrt()) for block in blocks])

    def distance(self, maps: Maps) -> PerSample:
        """Root-mean-square distance to the aims, in spreads of the targets."""
        return self._gaps(maps, self._aim).square().mean(dim=1).sqrt()

    def _steers(self, t: int) -> bool:
        return self.schedule.noise_to_signal(t) <= self._spec.sigma_max

    def _gaps(self, maps: Maps, aim: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return (self._statistics(maps) - aim) / self._spread

    def _pull(self, x0: Maps, aim: Float[Tensor, "n f"], local: Maps, gain: Map) -> Maps:
        """Take the Adam steps in posterior coordinates, scaled by `local`.

        Filter and mixing are their own adjoints, so the gradient by `u` is the gradient by the
        map, filtered and mixed.
        """
        u, most = torch.zeros_like(x0), MOST * self._spread
        least = -most
        first, second, count = torch.zeros_like(u), torch.zeros_like(u), u.new_zeros(())
        for _ in range(self._spec.steps):
            maps = torch.addcmul(x0, local, self._step(u, gain))
            found, by_maps = self._statistics.vjp(maps)
            pull = (found - aim).clamp(least, most) * self._slope
            by_u = self._step(local * by_maps(pull), gain)
            adam(
                [u], [by_u], [first], [second], [], [count], lr=self._spec.rate, beta1=BETAS[0],
                beta2=BETAS[1], eps=1e-8, weight_decay=0, amsgrad=False, maximize=False, fused=True,
            )  # fmt: skip
        return x0 + local * self._step(u, gain)

    def _step(self, u: Maps, gain: Map) -> Maps:
        """Posterior coordinates as a map; its own adjoint."""
        return filtered(u if self._along is None else self._along(u), gain)
