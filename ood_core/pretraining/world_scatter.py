"""Objects of worlds: laid out in one list for all maps, painted on a frame, summed by map.

Densities are per pixel of area, lengths in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ood_core.pretraining.world_fields import Array, Rng, as_array

PAINTED_AT_ONCE = 2**20  # pixels of all objects that are evaluated together: bounds the memory

Painter = Callable[[slice, Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Objects of `n` maps: which map each belongs to, and its place on the map."""

    n: int
    owner: NDArray[np.int64]
    y: Array
    x: Array

    def __len__(self) -> int:
        return len(self.owner)

    def painted(self, size: int, margin: int, paint: Painter) -> Array:
        """Sum objects over maps, on a frame of `margin` further pixels all round.

        `paint` gets a slice of the objects and the pixels' offsets from their places `(t, y, x)`.
        """
        place = np.arange(-margin, size + margin, dtype=np.float32) + 0.5
        side = len(place)
        total = np.zeros((self.n, side * side), np.float32)
        step = max(1, PAINTED_AT_ONCE // side**2)
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            dy = place[None, :, None] - self.y[part, None, None]
            dx = place[None, None, :] - self.x[part, None, None]
            drawn = np.broadcast_to(paint(part, dy, dx), (dy.shape[0], side, side))
            belongs = self.owner[None, part] == np.arange(self.n)[:, None]
            total += belongs.astype(np.float32) @ drawn.reshape(len(drawn), -1)
        return total.reshape(self.n, side, side)


def scattered(rng: Rng, n: int, size: int, density: float, margin: float, central: bool) -> Scatter:
    """Scatter objects over a frame with a margin, and perhaps one at the centre of every map."""
    counts = rng.poisson(density * (size + 2 * margin) ** 2, n)
    owner = np.repeat(np.arange(n), counts)
    place = rng.uniform(-margin, size + margin, (2, len(owner)))
    if central:
        owner = np.concatenate([owner, np.arange(n)])
        middle = size / 2 + 0.7 * rng.standard_normal((2, n))
        place = np.concatenate([place, middle], axis=1)
    y, x = place.astype(np.float32)
    return Scatter(n, owner, y, x)


def uniforms(rng: Rng, low: float, high: float, count: int) -> Array:
    """Draw uniform numbers `(count, 1, 1)`, one per object."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def normals(rng: Rng, count: int) -> Array:
    """Draw N(0, 1) numbers `(count, 1, 1)`, one per object."""
    return rng.standard_normal((count, 1, 1), dtype=np.float32)


def paretos(rng: Rng, index: float, most: float, count: int) -> Array:
    """Draw amplitudes of at least one with `N(> f) ~ f^-index`, none above `most`."""
    return as_array(np.minimum((1 - uniforms(rng, 0, 1, count)) ** (-1 / index), most))


def turned(dy: Array, dx: Array, angle: Array) -> tuple[Array, Array]:
    """Return offsets along and across a direction, in radians from the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return as_array(cos * dx + sin * dy), as_array(cos * dy - sin * dx)
