"""Denoising a field that is larger than the maps a denoiser knows, window by window.

Windows of the maps' size lie half a window apart on the torus. Every estimate of a field is the
sum of its windows' estimates under weights `sin^2`, which add up to 1 at every pixel: neighbours
see the same noised field, and no pixel lies at a border of all its windows (compare
Bar-Tal et al. 2023, MultiDiffusion, eq. 5). From one noise level to the next all windows move, so
that what a window does at its borders is left in no place for long. Waves longer than a window are
none of its business: they are given.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import filtered

STEPS = (0.7548776662466927, 0.5698402909980532)
"""Steps that spread points evenly over a square: powers of the root of `x^3 = x + 1`, inverted."""


@final
class WindowedDenoiser:
    """Estimates of one periodic field from denoisers of its windows.

    Args:
        inner: denoisers of the first windows, of those that follow, and so on.
        counts: how many windows each of them denoises; their sum is `len(corners)`.
        window: rows and columns of a window, even numbers.
        field: rows and columns of the field, multiples of half a window and at least one window.
        given: a field, `(1, c, y, x)`, of which all waves longer than a window are taken; without
            it they are what the windows make of them.
    """

    def __init__(
        self,
        inner: Sequence[Denoiser],
        counts: Sequence[int],
        window: tuple[int, int],
        field: tuple[int, int],
        given: Maps | None = None,
    ) -> None:
        self._inner, self._counts, self._window = list(inner), list(counts), window
        self._corners = corners(window, field)
        self._weights = weights(window)
        self._given, self._long = given, longer_than(window, field)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoisers inside."""
        return self._inner[0].schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate of a field, `(1, c, y, x)`."""
        moved = offset(t, self._window)
        x_t = torch.roll(x_t, (-moved[0], -moved[1]), (-2, -1))
        estimate, weight, start = torch.zeros_like(x_t), self._weights.to(x_t), 0
        for denoise, count in zip(self._inner, self._counts, strict=True):
            places = self._corners[start : start + count]
            indices = [_indices(place, self._window, x_t.shape[-2:]) for place in places]
            clean = denoise(torch.stack([x_t[0][:, y, x] for y, x in indices]), t)
            for part, (y, x) in zip(clean * weight, indices, strict=True):
                estimate[0][:, y, x] += part
            start += count
        estimate = torch.roll(estimate, moved, (-2, -1))
        if self._given is not None:
            estimate = estimate + filtered(self._given - estimate, self._long)
        return estimate


def weights(window: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Weights of the pixels of a window."""
    rows, columns = (torch.sin((torch.arange(n) + 0.5) * torch.pi / n) ** 2 for n in window)
    return rows[:, None] * columns[None, :]


def longer_than(window: tuple[int, int], field: tuple[int, int]) -> Map:
    """1 at the Fourier modes of a field that are longer than a window, 0 elsewhere; `(1, y, x)`."""
    y, x = (torch.fft.fftfreq(n) * side for n, side in zip(field, window, strict=True))
    return (torch.hypot(y[:, None], x[None, :]) < 1).float()[None]


def offset(t: int, window: tuple[int, int]) -> tuple[int, int]:
    """By how many rows and columns windows are moved at a time index, less than half of them."""
    y, x = (int(side // 2 * (t * step % 1)) for side, step in zip(window, STEPS, strict=True))
    return y, x


def corners(window: tuple[int, int], field: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left pixels (y, x) of all windows of a field, half a window apart.

    Raises:
        ValueError: odd windows, or a field that they do not tile.
    """
    half = tuple(side // 2 for side in window)
    fits = all(f % h == 0 and f >= w for f, h, w in zip(field, half, window, strict=True))
    if any(side % 2 for side in window) or not fits:
        raise ValueError(f"got windows of {window} in {field}; expected even ones that tile it")
    return [(y, x) for y in range(0, field[0], half[0]) for x in range(0, field[1], half[1])]


def _indices(
    corner: tuple[int, int], window: tuple[int, int], field: Sequence[int]
) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, " columns"]]:
    """Rows and columns of a window, wrapped around."""
    y, x = (
        (torch.arange(side) + at) % size
        for at, side, size in zip(corner, window, field, strict=True)
    )
    return y[:, None], x
