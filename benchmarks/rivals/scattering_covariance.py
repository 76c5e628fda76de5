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
the Fourier modes of the coarsest wavelet's band: per orientation one Gram matrix of map and moduli.
"""

from typing import final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.metrics.scattering import MIN_MODULUS, crop, morlet_bank

SMOOTH = 1e-12  # under the root of the modulus: its gradient stays finite


@final
class ScatteringCovariance:
    """Statistics of maps of `size` pixels, by default at `log2(size) - 1` dyadic scales.

    From scale 2 on, first-order moduli lie on grids thinned by `2^(scale - 1)`, as in `Scattering`.
    """

    def __init__(self, size: int, scales: int | None = None, orientations: int = 4) -> None:
        most = size.bit_length() - 2
        self.size, self.scales, self.orientations = size, scales or most, orientations
        if not 2 <= self.scales <= most:
            raise ValueError(
                f"got size {size} for {self.scales} scales; expected at least 8 pixels and 2 scales"
            )
        banks = [morlet_bank(size, j, orientations) for j in range(self.scales)]
        # A wavelet of scale j >= 2 has no modes beyond the Nyquist frequency of a thinned grid.
        self._sides = [size // 2 ** max(0, j - 1) for j in range(self.scales)]
        self._bands = [crop(b, side) for b, side in zip(banks, self._sides, strict=True)]
        self._turns = {places: common_turns(orientations, places) for places in (2, 3)}

    def __call__(self, maps: Maps) -> Float[Tensor, "n f"]:
        """Return the statistics of every map, channels one after the other."""
        n, c = maps.shape[:2]
        flat = maps.reshape(n * c, *maps.shape[-2:])
        features = torch.cat([flat.mean((-2, -1))[:, None], *self._features(flat)], dim=1)
        return features.reshape(n, -1)

    def _features(self, maps: Float[Tensor, "m y x"]) -> list[Float[Tensor, "m _"]]:
        modes = torch.fft.fft2(maps)
        energies = [self._energy(modes, j) for j in range(self.scales)]
        moduli = [energy.sqrt() for energy in energies]
        means = torch.stack([u.mean((-2, -1)) for u in moduli], dim=1)
        root = torch.stack([e.mean((-2, -1)) for e in energies], dim=1).sqrt() + MIN_MODULUS
        found = [torch.log(means + MIN_MODULUS).flatten(1), torch.log(root).flatten(1)]
        inner = [torch.fft.fft2(u) * self._thinned(j) for j, u in enumerate(moduli[:-1])]
        for coarse in range(1, self.scales):
            side = self._sides[coarse]
            rows = [crop(modes, side)[:, None], *(crop(u, side) for u in inner[:coarse])]
            found += self._at(coarse, torch.cat(rows, dim=1), root)
        return found

    def _energy(self, modes: Complex[Tensor, "m y x"], scale: int) -> Float[Tensor, "m l y x"]:
        cut = crop(modes, self._sides[scale])[:, None] * (self._bands[scale] / self._thinned(scale))
        return torch.view_as_real(torch.fft.ifft2(cut)).square().sum(-1) + SMOOTH

    def _thinned(self, scale: int) -> float:
        """Pixels of the map per pixel of the grid on which a scale lies."""
        return float((self.size / self._sides[scale]) ** 2)

    def _at(
        self, coarse: int, rows: Complex[Tensor, "m r y x"], root: Float[Tensor, "m j l"]
    ) -> list[Float[Tensor, "m _"]]:
        """Third and fourth order whose coarsest wavelet is of one scale; row 0 is the map."""
        band = (rows[:, None] * self._bands[coarse][None, :, None]).flatten(3)
        real = torch.cat([band.real, band.imag], dim=-1)
        gram = (real @ real.transpose(-2, -1)).permute(0, 2, 3, 1) / float(self.size) ** 4
        tiles = self._tiled(gram[:, 1:, 1:])
        finer = root[:, :coarse]
        third = gram[:, 0, 1:].unflatten(1, finer.shape[1:]) / finer[..., None]
        third = third / root[:, None, coarse, None]
        first, second = torch.tril_indices(coarse, coarse).flip(0)
        fourth = tiles[:, first, second]
        fourth = fourth / finer[:, first, :, None, None] / finer[:, second, None, :, None]
        return [self._turned(third), self._turned(fourth)]

    def _tiled(self, gram: Float[Tensor, "m a b l"]) -> Float[Tensor, "m j k l l l"]:
        shape = (-1, self.orientations)
        tiles: Tensor = gram.unflatten(2, shape).unflatten(1, shape).transpose(2, 3)
        return tiles

    def _turned(self, value: Float[Tensor, "m p ..."]) -> Float[Tensor, "m _"]:
        """Average over common rotations: what is left are differences to the first orientation."""
        turns = self._turns[value.ndim - 2]
        return value.flatten(2)[..., turns].mean(-2).flatten(1)


def common_turns(orientations: int, places: int) -> Int[Tensor, "turns differences"]:
    """Flat places of `orientations^places` values that a common rotation carries to one another."""
    grid = torch.arange(orientations**places).reshape([orientations] * places)
    axes = tuple(range(places))
    turned = [grid.roll([-step] * places, axes)[0].flatten() for step in range(orientations)]
    return torch.stack(turned)
