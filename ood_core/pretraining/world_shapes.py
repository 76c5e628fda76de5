"""Models of random maps that are made of bodies with borders: craters, discs, leaves, cells.

Densities are per pixel of area, lengths in pixels.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from ood_core.pretraining.world_fields import (
    Array,
    PowerLaw,
    Rng,
    as_array,
    log_uniform,
    soft_step,
)
from ood_core.pretraining.world_scatter import (
    paretos,
    scattered,
    turned,
    uniforms,
)

MAX_LEAVES = 250
LARGEST_DISC = 14.0  # radius, and so the margin within which discs reach the map


@final
@dataclass(frozen=True, slots=True)
class Craters:
    """Bowls with rims on rough ground: as heights, or shaded by a sun of one direction."""

    ground: PowerLaw
    roughness: float
    density: float
    smallest: float
    index: float
    depth: float
    rim: float
    sun: float
    shaded: bool

    @classmethod
    def drawn(cls, rng: Rng) -> "Craters":
        """Draw radii of 1 pixel and more with a power law of sizes."""
        return cls(
            ground=PowerLaw.drawn(rng, 2.5, 4.5),
            roughness=rng.uniform(0.1, 1.5),
            density=log_uniform(rng, 0.002, 0.02),
            smallest=rng.uniform(1, 3),
            index=rng.uniform(1.2, 3),
            depth=rng.uniform(0.3, 1.2),
            rim=rng.uniform(0.1, 0.35),
            sun=rng.uniform(0, 2 * math.pi),
            shaded=bool(rng.random() < 0.75),
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` reliefs or their shades."""
        margin = 2
        craters = scattered(rng, n, size, self.density, 8, central=False)
        radius = self.smallest * paretos(rng, self.index, 20 / self.smallest, len(craters))
        fresh = self.depth * uniforms(rng, 0.3, 1, len(craters))

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            reach = np.sqrt(dy**2 + dx**2) / radius[part]
            bowl = np.minimum(reach**2 - 1, 0)
            rim = 0.4 * np.exp(-(((reach - 1) / self.rim) ** 2))
            return as_array(radius[part] * fresh[part] * (bowl + rim))

        height = craters.painted(size, margin, paint)
        height = height + 2 * self.roughness * self.ground.draw(rng, n, size + 2 * margin)
        if self.shaded:
            slope_y, slope_x = np.gradient(height, axis=(1, 2))
            height = np.arctan(math.cos(self.sun) * slope_x + math.sin(self.sun) * slope_y)
        return as_array(height[:, margin:-margin, margin:-margin])


@final
@dataclass(frozen=True, slots=True)
class Discs:
    """A Boolean model: the union of discs of power-law radii, edges from sharp to soft, filled."""

    covered: float
    smallest: float
    index: float
    softness: float
    filling: PowerLaw
    contrast: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Discs":
        """Draw covered parts of 0.1 to 0.9."""
        return cls(
            covered=rng.uniform(0.1, 0.9),
            smallest=log_uniform(rng, 0.8, 4),
            index=rng.uniform(1.5, 4),
            softness=log_uniform(rng, 0.08, 1),
            filling=PowerLaw.drawn(rng, 2, 4),
            contrast=rng.uniform(0.1, 0.9) if rng.random() < 0.6 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps: 0 in the discs, about 1 outside."""
        largest = LARGEST_DISC / self.smallest
        # Expected area of a disc, from a fixed sample of radii: the union covers 1 - exp(-sum).
        sample = np.minimum(np.linspace(1e-3, 1, 1000) ** (-1 / self.index), largest)
        area = math.pi * self.smallest**2 * float((sample**2).mean())
        density = -math.log1p(-self.covered) / area
        discs = scattered(rng, n, size, density, LARGEST_DISC, central=False)
        radius = self.smallest * paretos(rng, self.index, largest, len(discs))

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            inside = soft_step(radius[part] - np.sqrt(dy**2 + dx**2), self.softness)
            return as_array(np.log1p(-0.9999 * inside))

        left = np.exp(discs.painted(size, 0, paint))
        if self.contrast:
            left = left * np.exp(self.contrast * self.filling.draw(rng, n, size))
        return left


@final
@dataclass(frozen=True, slots=True)
class Leaves:
    """Dead leaves (Matheron 1968): opaque shapes of power-law sizes that cover one another."""

    smallest: float
    largest: float
    index: float
    square: bool
    thinnest: float
    softness: float
    grades: float
    texture: PowerLaw
    roughness: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Leaves":
        """Draw shapes between 1.5 and 25 pixels."""
        return cls(
            smallest=log_uniform(rng, 1.2, 4),
            largest=log_uniform(rng, 6, 25),
            index=rng.uniform(2, 3.6),
            square=bool(rng.random() < 0.25),
            thinnest=rng.uniform(0.3, 1),
            softness=log_uniform(rng, 0.3, 1.5),
            grades=rng.uniform(0, 0.1) if rng.random() < 0.5 else 0.0,
            texture=PowerLaw.drawn(rng, 1.5, 3.5),
            roughness=rng.uniform(0.05, 0.4) if rng.random() < 0.5 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps; leaf by leaf from the lowest, the same number of leaves on every map."""
        count = self._count(size)
        y, x = rng.uniform(-6, size + 6, (2, count, n, 1, 1)).astype(np.float32)
        power = 1 - self.index
        low, high = self.smallest**power, self.largest**power
        raw = rng.random((4, count, n, 1, 1), dtype=np.float32)
        radius = np.asarray((low + raw[0] * (high - low)) ** (1 / power), np.float32)
        ratio, angle = self.thinnest + (1 - self.thinnest) * raw[1], math.pi * raw[2]
        shade = 2 * raw[3] - 1
        slope = self.grades * rng.standard_normal((count, n, 1, 1), dtype=np.float32)
        place = np.arange(size, dtype=np.float32) + 0.5
        canvas = np.zeros((n, size, size), np.float32) + shade[0]
        for leaf in range(count):
            along, across = turned(place[:, None] - y[leaf], place - x[leaf], angle[leaf])
            wide = across / ratio[leaf]
            far = np.maximum(np.abs(along), np.abs(wide)) if self.square else np.hypot(along, wide)
            cover = np.clip((radius[leaf] - far) / self.softness + 0.5, 0, 1)
            canvas += cover * (shade[leaf] + slope[leaf] * along - canvas)
        if self.roughness:
            canvas += self.roughness * self.texture.draw(rng, n, size)
        return as_array(canvas)

    def _count(self, size: int) -> int:
        """Leaves that cover the frame about three times over, at most `MAX_LEAVES`."""
        radii = np.geomspace(self.smallest, self.largest, 64)
        weight = radii ** (1 - self.index)
        area = math.pi * 0.6 * float((weight * radii**2).sum() / weight.sum())
        return int(np.clip(3 * (size + 12) ** 2 / area, 20, MAX_LEAVES))


@final
@dataclass(frozen=True, slots=True)
class Cells:
    """Voronoi cells: their walls, their shades, or the distance to the nearest nucleus."""

    form: str
    density: float
    width: float
    texture: PowerLaw
    roughness: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Cells":
        """Draw cells of 3 to 14 pixels."""
        return cls(
            form=str(rng.choice(["walls", "shades", "distance"])),
            density=log_uniform(rng, 0.005, 0.08),
            width=rng.uniform(0.5, 2.5),
            texture=PowerLaw.drawn(rng, 1.5, 4),
            roughness=rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps."""
        margin = 6.0
        count = max(3, round(self.density * (size + 2 * margin) ** 2))
        nuclei = rng.uniform(-margin, size + margin, (n, 2, count)).astype(np.float32)
        shades = rng.uniform(-1, 1, (n, count)).astype(np.float32)
        place = np.arange(size, dtype=np.float32) + 0.5
        cells = np.stack(
            [self._one(place, y, x, shade) for (y, x), shade in zip(nuclei, shades, strict=True)]
        )
        if self.roughness:
            spread = self.roughness * float(cells.std())
            cells = cells + spread * self.texture.draw(rng, n, size)
        return cells

    def _one(self, place: Array, y: Array, x: Array, shades: Array) -> Array:
        square = (place[:, None, None] - y) ** 2 + (place[None, :, None] - x) ** 2
        if self.form == "shades":
            return as_array(shades[square.argmin(-1)])
        nearest = np.sqrt(np.partition(square, 1, axis=-1)[..., :2])
        if self.form == "distance":
            return as_array(nearest[..., 0])
        return as_array(np.exp(-(nearest[..., 1] - nearest[..., 0]) / self.width))
