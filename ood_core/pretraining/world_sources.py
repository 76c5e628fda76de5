"""Models of random maps of things that shine: sources, clustered points, haloes, arcs.

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
    beam,
    filtered,
    log_uniform,
    soft_step,
)
from ood_core.pretraining.world_scatter import (
    Painter,
    Scatter,
    normals,
    paretos,
    scattered,
    turned,
    uniforms,
)


@final
@dataclass(frozen=True, slots=True)
class Sources:
    """Objects of Sersic profiles on a dark sky, seen through an instrument.

    Profiles are `exp(-b (R/Re)^(1/n))` with `b = 2 n - 1/3` (Ciotti & Bertin 1999), perhaps with
    logarithmic spiral arms and lumps; then a point-spread function, noise of the sky, perhaps the
    photons' own, and perhaps an `asinh` stretch of softening `stretch` times the noise.
    """

    central: bool
    density: float
    index: float
    brightest: float
    radius: float
    radius_spread: float
    sersic: float
    thinnest: float
    arms: int
    winding: float
    lumps: PowerLaw
    lumpiness: float
    psf: float
    wings: float
    noise: float
    photons: float
    noise_beam: float
    stretch: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Sources":
        """Draw star fields, galaxies alone and in fields, from faint to bright."""
        central = bool(rng.random() < 0.55)
        spiral = rng.random() < 0.3
        return cls(
            central=central,
            density=log_uniform(rng, 0.0003, 0.002 if central else 0.012),
            index=rng.uniform(0.8, 2.5),
            brightest=log_uniform(rng, 20, 1000),
            radius=log_uniform(rng, 0.5, 6.0 if central or spiral else 3.0),
            radius_spread=rng.uniform(0.1, 0.7),
            sersic=rng.uniform(0.5, 3.5),
            thinnest=rng.uniform(0.2, 0.95),
            arms=int(rng.integers(2, 5)) if spiral else 0,
            winding=rng.uniform(1.5, 5),
            lumps=PowerLaw.drawn(rng, 1.2, 3),
            lumpiness=rng.uniform(0.2, 1.0) if rng.random() < 0.5 else 0.0,
            psf=rng.uniform(0.4, 2.0),
            wings=rng.uniform(0, 0.4) if rng.random() < 0.4 else 0.0,
            noise=log_uniform(rng, 0.005, 1.5),
            photons=rng.uniform(0, 0.4) if rng.random() < 0.5 else 0.0,
            noise_beam=rng.uniform(0.2, 0.7) if rng.random() < 0.4 else 0.0,
            stretch=log_uniform(rng, 0.5, 8) if rng.random() < 0.75 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` images."""
        margin = 6
        objects = scattered(rng, n, size, self.density, 5, self.central)
        light = objects.painted(size, margin, self._profiles(rng, len(objects)))
        if self.lumpiness:
            field = self.lumps.draw(rng, n, size + 2 * margin)
            light = light * np.exp(self.lumpiness * field)
        light = np.maximum(filtered(light, beam(size + 2 * margin, self.psf, self.wings)), 0)
        cut = slice(margin, margin + size)
        return self._exposed(rng, light[:, cut, cut])

    def _profiles(self, rng: Rng, count: int) -> Painter:
        flux = paretos(rng, self.index, self.brightest, count)
        radius = np.minimum(self.radius * np.exp(self.radius_spread * normals(rng, count)), 12.0)
        ratio, angle = uniforms(rng, self.thinnest, 1, count), uniforms(rng, 0, math.pi, count)
        phase, hand = uniforms(rng, 0, 2 * math.pi, count), np.sign(normals(rng, count))
        sharp = 2 * self.sersic - 1 / 3

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            along, across = turned(dy, dx, angle[part])
            across = across / ratio[part]
            # A pixel sees the mean of a cusp, so the radius is softened by a third of a pixel.
            reach = np.sqrt(along**2 + across**2 + 0.1) / radius[part]
            light = flux[part] * np.exp(-sharp * reach ** (1 / self.sersic))
            if self.arms:
                turn = np.arctan2(across, along) - self.winding * np.log(reach + 0.3)
                wave = np.cos(self.arms * hand[part] * turn + phase[part])
                light = light * (1 + 0.85 * wave * reach / (reach + 0.5))
            return as_array(light)

        return paint

    def _exposed(self, rng: Rng, light: Array) -> Array:
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        if self.noise_beam:
            noise = filtered(noise, beam(light.shape[-1], self.noise_beam))
            noise /= noise.std()
        scatter = self.noise * np.sqrt(1 + self.photons * light / self.noise)
        image = light + scatter * noise
        return as_array(np.arcsinh(image / (self.noise * self.stretch)) if self.stretch else image)


@final
@dataclass(frozen=True, slots=True)
class Points:
    """Points clustered by a log-normal intensity (a Cox process), with haloes; perhaps logged."""

    field: PowerLaw
    bias: float
    density: float
    marks: float
    width: float
    wings: float
    floor: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Points":
        """Draw from some points per map to crowded fields."""
        return cls(
            field=PowerLaw.drawn(rng, 1.5, 3.5),
            bias=rng.uniform(0.2, 1.8),
            density=log_uniform(rng, 0.002, 0.25),
            marks=rng.uniform(0.1, 1.3),
            width=rng.uniform(0.4, 2),
            wings=rng.uniform(0, 0.5),
            floor=log_uniform(rng, 0.003, 0.3) if rng.random() < 0.6 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps of density, or of its logarithm above a floor."""
        margin = 4
        side = size + 2 * margin
        height = self.bias * self.field.draw(rng, n, side) - self.bias**2 / 2
        counts = rng.poisson(self.density * np.exp(np.clip(height, -8, 5)))
        marks = np.exp(self.marks * rng.standard_normal(counts.shape, dtype=np.float32))
        light = filtered(np.asarray(counts * marks, np.float32), beam(side, self.width, self.wings))
        light = np.maximum(light[:, margin:-margin, margin:-margin], 0)
        return np.log(light + self.floor) if self.floor else light


@final
@dataclass(frozen=True, slots=True)
class Haloes:
    """One extended object at the centre: a beta model with a winding edge and cavities.

    Brightness is `(1 + R^2)^(-beta)` (Cavaliere & Fusco-Femiano 1976) with `R` in core radii.
    """

    core: float
    beta: float
    thinnest: float
    edge: float
    winding: float
    softness: float
    cavities: float
    texture: PowerLaw
    roughness: float
    noise: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Haloes":
        """Draw cores of 1.5 to 12 pixels."""
        return cls(
            core=log_uniform(rng, 1.5, 12),
            beta=rng.uniform(0.5, 2),
            thinnest=rng.uniform(0.4, 1),
            edge=rng.uniform(0.1, 0.6) if rng.random() < 0.6 else 0.0,
            winding=rng.uniform(0.5, 3),
            softness=log_uniform(rng, 0.05, 0.6),
            cavities=rng.uniform(0.5, 4) if rng.random() < 0.4 else 0.0,
            texture=PowerLaw.drawn(rng, 2, 4),
            roughness=rng.uniform(0, 0.6),
            noise=rng.uniform(0, 0.3) if rng.random() < 0.6 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` logarithms of brightness."""
        middle = Scatter(n, np.arange(n), *(size / 2 + rng.standard_normal((2, n), np.float32)))
        core = self.core * np.exp(0.25 * normals(rng, n))
        ratio, angle = uniforms(rng, self.thinnest, 1, n), uniforms(rng, 0, 2 * math.pi, n)

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            along, across = turned(dy, dx, angle[part])
            square = (along**2 + (across / ratio[part]) ** 2) / core[part] ** 2
            light = -self.beta * np.log1p(square)
            turn = np.arctan2(across, along) - self.winding * np.log1p(square)
            return as_array(light + self.edge * np.tanh(np.sin(turn) / self.softness))

        light = middle.painted(size, 0, paint)
        if self.cavities:
            light = light - self._holes(rng, n, size)
        light = light + self.roughness * self.texture.draw(rng, n, size)
        faint = np.exp(-0.5 * np.clip(light, -8, 4))
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        return as_array(light + self.noise * faint * noise)

    def _holes(self, rng: Rng, n: int, size: int) -> Array:
        holes = scattered(rng, n, size, self.cavities / size**2, 0, central=False)
        radius, depth = uniforms(rng, 1.5, 5, len(holes)), uniforms(rng, 0.2, 1, len(holes))

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            reach = np.sqrt(dy**2 + dx**2) / radius[part]
            return depth[part] * soft_step(1 - reach, 0.1)

        return holes.painted(size, 0, paint)


@final
@dataclass(frozen=True, slots=True)
class Arcs:
    """Loops and arcs that fade along their length, above a diffuse glow."""

    density: float
    radius: float
    radius_spread: float
    width: float
    focus: float
    aligned: float
    thinnest: float
    glow: PowerLaw
    glow_contrast: float
    glow_share: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Arcs":
        """Draw arcs of radius 4 to 30 pixels."""
        return cls(
            density=log_uniform(rng, 0.001, 0.007),
            radius=log_uniform(rng, 4, 30),
            radius_spread=rng.uniform(0.1, 0.5),
            width=rng.uniform(0.5, 1.8),
            focus=rng.uniform(0.3, 3),
            aligned=rng.uniform(0.1, 3),
            thinnest=rng.uniform(0.5, 1),
            glow=PowerLaw.drawn(rng, 2, 4),
            glow_contrast=rng.uniform(0.3, 1),
            glow_share=rng.uniform(0.1, 1),
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps."""
        arcs = scattered(rng, n, size, self.density, 8, central=False)
        count = len(arcs)
        radius = self.radius * np.exp(self.radius_spread * normals(rng, count))
        light = np.exp(0.6 * normals(rng, count))
        common = uniforms(rng, 0, 2 * math.pi, n)[arcs.owner]
        bright = common + self.aligned * normals(rng, count)
        ratio = uniforms(rng, self.thinnest, 1, count)

        def paint(part: slice, dy: Array, dx: Array) -> Array:
            along, across = turned(dy, dx, bright[part])
            reach = np.sqrt(along**2 + (across / ratio[part]) ** 2)
            fading = np.maximum(0.5 + 0.5 * along / np.maximum(reach, 0.5), 0) ** self.focus
            across_arc = np.exp(-0.5 * ((reach - radius[part]) / self.width) ** 2)
            return as_array(light[part] * across_arc * fading)

        glow = np.exp(self.glow_contrast * self.glow.draw(rng, n, size))
        return as_array(arcs.painted(size, 0, paint) + self.glow_share * glow)
