"""Covariances of scattering coefficients of square, periodic maps, differentiable.

With Morlet wavelets `psi_a` of scale `j` and orientation `l` (`morlet_bank`), first-order
responses `W_a = I * psi_a` and moduli `U_a = |W_a|` (Cheng et al. 2023, arXiv 2306.17210; the
choice of scales, logarithms and normalisation is our own), per channel:

    S1_a   = ln <U_a>                                                      every j, l
    S2_a   = ln <U_a^2> / 2
    S3_ab  = Re <(I * psi_b) (U_a * psi_b)*> / sqrt(P_a P_b)               j_a < j_b
    S4_abc = Re <(U_a * psi_c) (U_b * psi_c)*> / sqrt(P_a P_b)             j_a <= j_b < j_c

with `P_a = <U_a^2>` of the map itself, and the mean of the map. S3 and S4 are averaged over common
rotations of all their orientations (the authors' isotropic reduction); since a rotation by half a
turn conjugates both, only real parts are left. By Parseval's theorem the averages are sums over
Fourier modes, so that no second-order map is formed.
"""

from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.metrics.scattering import FLOOR, morlet_bank

SMOOTH = 1e-12  # under the root of the modulus: its gradient stays finite


@final
class ScatteringCovariance:
    """Statistics of maps of `size` pixels, at `log2(size) - 1` dyadic scales."""

    def __init__(self, size: int, orientations: int = 4) -> None:
        self.scales, self.orientations = size.bit_length() - 2, orientations
        if self.scales < 2:
            raise ValueError(f"got size {size}; expected at least 8 pixels, for two scales")
        banks = [morlet_bank(size, j, orientations) for j in range(self.scales)]
        self._bank = torch.stack(banks)
        self._squares = self._bank.square().flatten(2) / float(size) ** 4

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels one after the other."""
        n, c = maps.shape[:2]
        flat = maps.reshape(n * c, *maps.shape[-2:])
        features = torch.cat([flat.mean((-2, -1))[:, None], *self._features(flat)], dim=1)
        return features.reshape(n, -1)

    def _features(self, maps: Float[Tensor, "m y x"]) -> list[Float[Tensor, "m _"]]:
        modes = torch.fft.fft2(maps)
        response = torch.fft.ifft2(modes[:, None, None] * self._bank)
        energy = torch.view_as_real(response).square().sum(-1) + SMOOTH
        moduli = energy.sqrt()
        means, power = moduli.mean((-2, -1)), energy.mean((-2, -1))
        inner = torch.fft.fft2(moduli).flatten(3)
        root = power.sqrt() + FLOOR
        first = [torch.log(means + FLOOR).flatten(1), torch.log(root).flatten(1)]
        third = self._third(modes.flatten(1), inner, root)
        return [*first, *third, *self._fourth(inner, root)]

    def _third(
        self, modes: Complex[Tensor, "m k"], inner: Complex[Tensor, "m j l k"], root: Tensor
    ) -> list[Float[Tensor, "m l"]]:
        found = []
        for coarse in range(1, self.scales):
            for fine in range(coarse):
                cross = (modes[:, None] * inner[:, fine].conj()).real
                value = torch.einsum("mak,bk->mab", cross, self._squares[coarse])
                value = value / root[:, fine, :, None] / root[:, coarse, None, :]
                found.append(self._turned(value))
        return found

    def _fourth(
        self, inner: Complex[Tensor, "m j l k"], root: Tensor
    ) -> list[Float[Tensor, "m _"]]:
        found = []
        for second in range(self.scales - 1):
            for first in range(second + 1):
                pair = (inner[:, first, :, None] * inner[:, second, None].conj()).real
                pair = pair / root[:, first, :, None, None] / root[:, second, None, :, None]
                for third in range(second + 1, self.scales):
                    value = torch.einsum("mabk,ck->mabc", pair, self._squares[third])
                    found.append(self._turned(value))
        return found

    def _turned(self, value: Float[Tensor, "m ..."]) -> Float[Tensor, "m _"]:
        """Average over common rotations: what is left are differences to the first orientation."""
        steps = range(self.orientations)
        axes = tuple(range(1, value.ndim))
        turned = torch.stack([value.roll([-s] * len(axes), axes)[:, 0] for s in steps])
        return turned.mean(0).flatten(1)
