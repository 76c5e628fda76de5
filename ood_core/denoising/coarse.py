"""Maps given coarse ones: estimates are held to means under tents, in closed form.

Structures longer than patches and statistics reach are drawn as a small map first. On the way down
of the large one every estimate is then held to it: of a field of power `P`, seen with noise of
`s = sigma/alpha`, what is known of the map is

    D + A^2 B^T (B A^2 B^T)^-1 (coarse - B D),      A(k)^2 = P(k) s^2 / (P(k) + s^2)

with the estimate `D` and the means `B` (`ood_core.numerics.tents`): a conditional Gaussian
(Rasmussen & Williams 2006, A.6). It is exact mode by mode on the torus: modes that coarse pixels
cannot tell apart share what is missed by the power that is open in each.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import filtered
from ood_core.numerics.tents import tents


@final
class CoarseDenoiser:
    """A denoiser whose estimates are held to coarse maps `means`, `(n, c, y, x)`.

    `power` is that of the large maps about their mean, per Fourier mode.
    """

    def __init__(self, inner: Denoiser, means: Maps, power: Map) -> None:
        self._inner, self._means, self._power = inner, means, power
        self._factor = power.shape[-1] // means.shape[-1]
        self._rows, self._columns = (
            tents(side, self._factor).to(means) for side in power.shape[-2:]
        )
        y, x = (torch.fft.fft(one[0]).abs().square() for one in (self._rows, self._columns))
        self._seen = y[:, None] * x

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate given the coarse maps as well."""
        return self.held(self._inner(x_t, t), self.schedule.noise_to_signal(t))

    def held(self, estimate: Maps, noise: float) -> Maps:
        """Move estimates to what is known given noise and coarse maps."""
        left_open = self._power / (self._power / noise**2 + 1)
        missed = self._means - self._rows @ estimate @ self._columns.T
        whitened = torch.fft.fft2(missed) / _folded(self._seen * left_open, self._factor)
        weights = torch.fft.ifft2(whitened).real
        return estimate + filtered(self._rows.T @ weights @ self._columns, left_open)


def _folded(modes: Float[Tensor, "c y x"], factor: int) -> Float[Tensor, "c coarse_y coarse_x"]:
    """Mean over the modes that coarse pixels cannot tell from one another."""
    c, y, x = modes.shape
    return modes.reshape(c, factor, y // factor, factor, x // factor).mean((1, 3))
