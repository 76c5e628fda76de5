"""Denoising a field that is larger than the maps a denoiser knows, window by window.

Windows of the maps' size lie half a window apart on the torus. Every estimate of a field is the
sum of its windows' estimates under weights `sin^2`, which add up to 1 at every pixel: neighbours
see the same noised field, and no pixel lies at a border of all its windows (compare
Bar-Tal et al. 2023, MultiDiffusion, eq. 5).
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule


@final
class WindowedDenoiser:
    """Estimates of one periodic field from denoisers of its windows.

    Args:
        inner: denoisers of the first windows, of those that follow, and so on.
        counts: how many windows each of them denoises; their sum is `len(corners)`.
        window: rows and columns of a window, even numbers.
        field: rows and columns of the field, multiples of half a window and at least one window.
    """

    def __init__(
        self,
        inner: Sequence[Denoiser],
        counts: Sequence[int],
        window: tuple[int, int],
        field: tuple[int, int],
    ) -> None:
        self._inner, self._counts, self._window = list(inner), list(counts), window
        self._corners = corners(window, field)
        rows, columns = (torch.sin((torch.arange(n) + 0.5) * torch.pi / n) ** 2 for n in window)
        self._weights = rows[:, None] * columns[None, :]

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoisers inside."""
        return self._inner[0].schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the estimate of a field, `(1, c, y, x)`."""
        estimate, weights, start = torch.zeros_like(x_t), self._weights.to(x_t), 0
        for denoise, count in zip(self._inner, self._counts, strict=True):
            places = self._corners[start : start + count]
            indices = [_indices(place, self._window, x_t.shape[-2:]) for place in places]
            clean = denoise(torch.stack([x_t[0][:, y, x] for y, x in indices]), t)
            for part, (y, x) in zip(clean * weights, indices, strict=True):
                estimate[0][:, y, x] += part
            start += count
        return estimate


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
