"""Binned bispectrum of maps: the part of three-point statistics that no power spectrum sees.

With `F` the unnormalised transform of a map of `N = Y X` pixels, the bispectrum of a triangle
`k1 + k2 + k3 = 0` is `B = F(k1) F(k2) F(k3) / N`, as `P = |F|^2 / N` is the power of a mode. In
terms of maps `d_i` that keep the modes of shell `i` only, and of `i_i`, the same for a point of
height one, the mean over all closed triangles between three shells is (Scoccimarro 2015; Watkinson
et al. 2017)

    B(1, 2, 3) = sum_x d_1 d_2 d_3 / (N sum_x i_1 i_2 i_3),     triangles = N^2 sum_x i_1 i_2 i_3

Shells end at a third of a cycle per pixel: beyond it, wavevectors of the grid close to triangles
which only aliasing makes. A Gaussian field has `B = 0`, with variance per map
`s N P_1 P_2 P_3 / triangles`, where `s` is 6, 2 or 1 as three, two or none of the shells are the
same. The sign of `B` is that of the skewness. For maps in units `u`, `B` is in `u^3` times pixel
area squared. No window is applied, as in `spectra`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError

BLOCK_VALUES = 2**17  # float64 values of filtered maps held at once: in the cache of a CPU


@final
class Shells:
    """Shells `edges[i] <= |k| min(Y, X) < edges[i + 1]` and the triples that close to triangles.

    Raises:
        TargetError: If edges do not rise from above 0 to at most a third of the shorter side, or
            if a shell holds no mode.
    """

    def __init__(self, height: int, width: int, edges: Sequence[float]) -> None:
        side = min(height, width)
        rising = all(low < high for low, high in pairwise(edges))
        if len(edges) < 2 or not rising or edges[0] <= 0 or edges[-1] > side / 3:
            raise TargetError(
                f"got shell edges {list(edges)}; expected at least 2, rising, above 0 and at most"
                f" {side / 3:.4g}, a third of the shorter side of the map"
            )
        self.shape = (height, width)
        ky = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        k = torch.hypot(ky, torch.fft.rfftfreq(width, dtype=torch.float64))
        twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1  # half of the plane is stored; shells end below its other edge
        bounds = torch.tensor(list(edges), dtype=torch.float64)[:, None, None]
        self.masks = (k * side >= bounds[:-1]) & (k * side < bounds[1:])
        self.modes = (self.masks * twice).sum((-2, -1))
        if not bool((self.modes > 0).all()):
            raise TargetError(f"got shell edges {list(edges)}; a shell has no mode: widen it")
        self.k = (self.masks * twice * k).sum((-2, -1)) / self.modes
        self._all = list(combinations_with_replacement(range(len(self.modes)), 3))
        impulse = torch.ones(1, 1, *k.shape, dtype=torch.complex128)
        point = self._sums(self.filtered(impulse))[0, 0]
        self._closed = point * (height * width) ** 2 > 0.5  # the number is whole
        self.point_sums = point[self._closed]
        self.triples = torch.tensor(self._all)[self._closed]

    @property
    def triangles(self) -> Float[Tensor, " triples"]:
        """Number of closed triangles per triple, in every order of their sides."""
        return (self.point_sums * (self.shape[0] * self.shape[1]) ** 2).round()

    @property
    def orders(self) -> Float[Tensor, " triples"]:
        """Number `s` of orders in which a triangle is counted: 6, 2 or 1."""
        same = (self.triples.diff(dim=1) == 0).sum(1)
        return torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)[same]

    def filtered(self, spectrum: Complex[Tensor, "n c y half"]) -> Float[Tensor, "n c shells y x"]:
        """Return maps of the modes of each shell, from a half spectrum (`rfft2`)."""
        maps: Tensor = torch.fft.irfft2(spectrum[:, :, None] * self.masks, s=self.shape)
        return maps

    def sums(self, filtered: Float[Tensor, "n c shells y x"]) -> Float[Tensor, "n c triples"]:
        """Return `sum_x d_1 d_2 d_3` of every triple that closes."""
        return self._sums(filtered)[..., self._closed]

    def _sums(self, filtered: Float[Tensor, "n c shells y x"]) -> Float[Tensor, "n c all"]:
        maps = filtered.flatten(-2)
        shells = maps.shape[2]
        rows = []  # in the order of combinations with replacement
        for i in range(shells):
            for j in range(i, shells):
                pair = maps[:, :, i] * maps[:, :, j]
                rows.append(torch.einsum("ncp,nclp->ncl", pair, maps[:, :, j:]))
        return torch.cat(rows, dim=-1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bispectrum:
    """Bispectra of single maps over triples of shells; `power` and `k` are per shell.

    `k` is the mean wavenumber in cycles per pixel, `triples` has the shells of each value in rising
    order, and `noise` the standard deviation of a map's value if maps were Gaussian.
    """

    k: Float[Tensor, " shells"]
    triples: Int[Tensor, "triples 3"]
    triangles: Float[Tensor, " triples"]
    value: Float[Tensor, "n c triples"]
    power: Float[Tensor, "n c shells"]
    noise: Float[Tensor, "c triples"]

    @property
    def squeezed(self) -> Bool[Tensor, " triples"]:
        """Which triples have one side in the first shell and two in a later one."""
        first, second, third = self.triples.unbind(1)
        return (first == 0) & (second == third) & (second > 0)


def bispectrum(maps: Maps, edges: Sequence[float]) -> Bispectrum:
    """Measure the bispectrum between shells; edges are in units of the fundamental `1 / min(Y, X)`.

    Raises:
        TargetError: If there are no maps, or edges are not those of `Shells`.
    """
    if not len(maps):
        raise TargetError("got no maps; expected at least 1 to measure a bispectrum")
    height, width = maps.shape[-2:]
    shells, pixels = shells_of(height, width, tuple(edges)), height * width
    values, powers = [], []
    for block in torch.split(maps, block_rows(maps, shells)):
        filtered = shells.filtered(torch.fft.rfft2(block.double()))
        values.append(shells.sums(filtered) / (pixels * shells.point_sums))
        powers.append(filtered.square().sum((-2, -1)) / shells.modes)
    power = torch.cat(powers)
    product = power.mean(0)[:, shells.triples].prod(-1)
    noise = (shells.orders * pixels * product / shells.triangles).sqrt()
    return Bispectrum(shells.k, shells.triples, shells.triangles, torch.cat(values), power, noise)


@lru_cache(maxsize=8)
def shells_of(height: int, width: int, edges: tuple[float, ...]) -> Shells:
    """Return shells, made once: that takes longer than to measure a map."""
    return Shells(height, width, edges)


def bispectrum_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return the bispectra of maps over the root of the product of their own powers.

    The power spectrum is divided out, map by map; see `shell_edges` for the shells. Maps have at
    least 8 pixels on a side.
    """
    found = bispectrum(maps, shell_edges(min(maps.shape[-2:])))
    scale = found.power[:, :, found.triples].prod(-1).sqrt()
    return torch.where(scale > 0, found.value / scale, 0).flatten(1)


def shell_edges(side: int) -> list[float]:
    """Return edges of 4 shells, or 2 on maps under 16 pixels: wide enough for all to hold modes.

    They are in units of the fundamental `1 / side` and end at a third of a cycle per pixel.
    """
    shells = 4 if side >= 16 else 2
    return [float(edge) for edge in np.geomspace(1, side / 3, shells + 1)]


def block_rows(maps: Maps, shells: Shells) -> int:
    """Return how many maps may be filtered at once."""
    return max(1, BLOCK_VALUES // (maps[0].numel() * len(shells.k)))
