"""Covariances as objects with algebra, never as `d` x `d` matrices.

Every covariance acts on maps `(n, c, y, x)`. `Diagonal` (in pixels), `Stationary` (in Fourier
space, unitary transform) cost `O(d log d)`; `LowRank` adds `sum_i f_i f_i^T` to one of them and is
inverted by the Woodbury identity in its `r`-dimensional dual. `Dense` is the exception, for maps of
a few thousand pixels whose covariance is none of these.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Map, Maps, wide


@runtime_checkable
class Covariance(Protocol):
    """Symmetric positive (semi-)definite operator on maps."""

    @property
    def rank(self) -> int:
        """Number of extra standard normals that `colour` needs beside the map-shaped ones."""
        ...

    def apply(self, x: Maps) -> Maps:
        """Return `C x`."""
        ...

    def solve(self, x: Maps) -> Maps:
        """Return `C^-1 x`."""
        ...

    def colour(self, white: Maps, factors: Float[Tensor, "n r"]) -> Maps:
        """Turn standard normals into draws of `N(0, C)`."""
        ...

    def plus_white(self, variance: float) -> "Covariance":
        """Return `C + variance * I`."""
        ...

    def logdet(self) -> float:
        """Return `ln det C`."""
        ...

    def trace(self) -> float:
        """Return `tr C`."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Diagonal:
    """One variance per pixel."""

    variance: Map
    rank = 0

    def apply(self, x: Maps) -> Maps:
        """Return `C x`."""
        return self.variance.to(x) * x

    def solve(self, x: Maps) -> Maps:
        """Return `C^-1 x`."""
        return x / self.variance.to(x)

    def colour(self, white: Maps, factors: Float[Tensor, "n r"]) -> Maps:
        """Return `C^(1/2) white`."""
        return self.variance.sqrt().to(white) * white

    def plus_white(self, variance: float) -> "Diagonal":
        """Return `C + variance * I`."""
        return type(self)(self.variance + variance)

    def logdet(self) -> float:
        """Return `ln det C`."""
        return float(self.variance.double().log().sum())

    def trace(self) -> float:
        """Return `tr C`."""
        return float(self.variance.double().sum())


def isotropic(variance: float, shape: tuple[int, ...]) -> Diagonal:
    """Return `variance * I` on maps of the given shape `(c, y, x)`."""
    return Diagonal(torch.full(shape, variance))


@final
@dataclass(frozen=True, eq=False)
class Stationary:
    """Diagonal in Fourier space: eigenvalue `power[c, ky, kx]` per mode of the unitary transform.

    `power` must be even, `P(k) = P(-k)`, so that real maps stay real.
    """

    power: Map
    rank = 0

    def apply(self, x: Maps) -> Maps:
        """Return `C x`."""
        return filtered(x, self.power)

    def solve(self, x: Maps) -> Maps:
        """Return `C^-1 x`."""
        return filtered(x, 1 / self.power)

    def colour(self, white: Maps, factors: Float[Tensor, "n r"]) -> Maps:
        """Return `C^(1/2) white`."""
        return filtered(white, self.power.sqrt())

    def plus_white(self, variance: float) -> "Stationary":
        """Return `C + variance * I`."""
        return type(self)(self.power + variance)

    def logdet(self) -> float:
        """Return `ln det C`."""
        return float(self.power.double().log().sum())

    def trace(self) -> float:
        """Return `tr C`."""
        return float(self.power.double().sum())


BLOCK = 64
"""Factors that are solved for at once, which bounds the memory."""


@final
@dataclass(frozen=True, eq=False)
class LowRank:
    """`base + sum_i f_i f_i^T` with `r` factors of map shape."""

    base: Diagonal | Stationary
    factors: Float[Tensor, "r c y x"]

    @property
    def rank(self) -> int:
        """Number of factors."""
        return len(self.factors)

    def _flat(self, like: Tensor) -> Tensor:
        """Rows of factors in the precision and on the device of a tensor; never kept."""
        return self.factors.flatten(1).to(like)

    @cached_property
    def _dual_inverse(self) -> Tensor:
        """`(I + F base^-1 F^T)^-1`."""
        return torch.cholesky_inverse(self._cholesky)

    @cached_property
    def _cholesky(self) -> Tensor:
        """Cholesky factor of the dual `I + F base^-1 F^T`."""
        flat = self._flat(wide(self.factors[:1]))
        solved = [self.base.solve(wide(f)).flatten(1) @ flat.T for f in self.factors.split(BLOCK)]
        dual = torch.cat(solved)
        eye = torch.eye(len(dual), dtype=dual.dtype, device=dual.device)
        factor: Tensor = torch.linalg.cholesky(dual + eye)
        return factor

    def apply(self, x: Maps) -> Maps:
        """Return `C x`."""
        flat = self._flat(x)
        return self.base.apply(x) + ((x.flatten(1) @ flat.T) @ flat).reshape(x.shape)

    def solve(self, x: Maps) -> Maps:
        """Return `C^-1 x` by the Woodbury identity.

        `base^-1 f_i` is not kept: denoisers have one covariance for every noise level, whose
        factors are the same.
        """
        flat = self._flat(wide(x[:1]))
        projected = self.base.solve(wide(x)).flatten(1) @ flat.T
        low = (projected @ self._dual_inverse) @ flat
        return self.base.solve(wide(x) - low.reshape(x.shape)).to(x.dtype)

    def colour(self, white: Maps, factors: Float[Tensor, "n r"]) -> Maps:
        """Return `base^(1/2) white + sum_i factors_i f_i`."""
        low = (factors.to(white) @ self._flat(white)).reshape(white.shape)
        return self.base.colour(white, factors) + low

    def plus_white(self, variance: float) -> "LowRank":
        """Return `C + variance * I`."""
        return type(self)(self.base.plus_white(variance), self.factors)

    def logdet(self) -> float:
        """Return `ln det C` by the matrix determinant lemma."""
        return self.base.logdet() + 2 * float(self._cholesky.diagonal().log().sum())

    def trace(self) -> float:
        """Return `tr C`."""
        squares = [(block.double() ** 2).sum() for block in self.factors.split(BLOCK)]
        return self.base.trace() + float(sum(squares))


@final
@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix of all pixels, `(c y x)` squared, in double precision: for small maps alone."""

    matrix: Float[Tensor, "d d"]
    rank = 0

    @cached_property
    def _cholesky(self) -> Tensor:
        factor: Tensor = torch.linalg.cholesky(self.matrix)
        return factor

    def apply(self, x: Maps) -> Maps:
        """Return `C x`."""
        return (wide(x).flatten(1) @ self.matrix.to(wide(x))).reshape(x.shape).to(x.dtype)

    def solve(self, x: Maps) -> Maps:
        """Return `C^-1 x`."""
        factor = self._cholesky.to(wide(x))
        solved = torch.cholesky_solve(wide(x).flatten(1).T, factor).T
        return solved.reshape(x.shape).to(x.dtype)

    def colour(self, white: Maps, factors: Float[Tensor, "n r"]) -> Maps:
        """Return `C^(1/2) white`, by the Cholesky factor."""
        factor = self._cholesky.to(wide(white))
        return (wide(white).flatten(1) @ factor.T).reshape(white.shape).to(white.dtype)

    def plus_white(self, variance: float) -> "Dense":
        """Return `C + variance * I`."""
        eye = torch.eye(len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device)
        return type(self)(self.matrix + variance * eye)

    def logdet(self) -> float:
        """Return `ln det C`."""
        return 2 * float(self._cholesky.diagonal().log().sum())

    def trace(self) -> float:
        """Return `tr C`."""
        return float(self.matrix.trace())


def filtered(x: Maps, gain: Map) -> Maps:
    """Multiply the Fourier modes of real maps by a real, even gain."""
    if x.numel() == 0:  # the transform refuses empty batches
        return x
    modes = torch.fft.rfft2(x)
    half = gain[..., : modes.shape[-1]].to(x)
    maps: Tensor = torch.fft.irfft2(modes * half, s=x.shape[-2:])
    return maps


def wavenumbers(y: int, x: int) -> Float[Tensor, "y x"]:
    """Length of the wavevector of every mode of an unshifted transform, cycles per pixel."""
    ky = torch.fft.fftfreq(y)[:, None]
    kx = torch.fft.fftfreq(x)[None, :]
    return torch.sqrt(ky**2 + kx**2)
