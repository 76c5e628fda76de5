"""Maps given coarse ones: estimates are held to means over blocks, in closed form.

Structures longer than patches and statistics reach are drawn as a small map first. On the way down
of the large one every estimate is then held to it: of a field of power `P`, seen with noise of
`s = sigma/alpha`, what is known of the map is

    D + A^2 B^T (B A^2 B^T + e^2)^-1 (coarse - B D),      A(k)^2 = P(k) s^2 / (P(k) + s^2)

with the estimate `D`, the means over blocks `B` and the error `e` that coarse maps are taken to
have (conditional Gaussian; Rasmussen & Williams 2006, A.6). It is exact mode by mode on the torus:
modes that coarse pixels cannot tell apart share what is missed by the power that is open in each.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ood_core.arrays import Map, Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule

ERROR = 0.0
"""Of coarse maps, in model range."""


def block_means(maps: Maps, factor: int) -> Maps:
    """Means over blocks of `factor` pixels a side, which must divide both sides."""
    means: Maps = avg_pool2d(maps, factor)
    return means


@final
class CoarseDenoiser:
    """A denoiser whose estimates are held to the means over blocks `(n, c, y, x)` of coarse maps.

    `power` is that of the large maps about their mean, per Fourier mode.
    """

    def __init__(self, inner: Denoiser, means: Maps, power: Map, error: float = ERROR) -> None:
        self._inner, self._means, self._power, self._error = inner, means, power, error
        self._factor = factor = power.shape[-1] // means.shape[-1]
        box = torch.zeros(power.shape[-2:], device=power.device)
        box[:factor, :factor] = 1 / factor**2
        self._box = torch.fft.fft2(box).abs().square()

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate given the coarse maps as well."""
        return self.held(self._inner(x_t, t), self.schedule.noise_to_signal(t))

    def held(self, estimate: Maps, noise: float) -> Maps:
        """Move estimates to what is known given noise and coarse maps."""
        factor, left_open = self._factor, self._power / (self._power / noise**2 + 1)
        both = _folded(self._box * left_open, factor) + self._error**2
        missed = self._means - block_means(estimate, factor)
        spread = missed.repeat_interleave(factor, -2).repeat_interleave(factor, -1) / factor**2
        weighed = torch.fft.fft2(spread) / both.repeat(1, factor, factor).clamp_min(1e-12)
        held: Maps = estimate + torch.fft.ifft2(weighed * left_open).real
        return held


def _folded(modes: Float[Tensor, "c y x"], factor: int) -> Float[Tensor, "c coarse_y coarse_x"]:
    """Mean over the modes that coarse pixels cannot tell from one another."""
    c, y, x = modes.shape
    return modes.reshape(c, factor, y // factor, factor, x // factor).mean((1, 3))
