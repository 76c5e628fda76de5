"""Models of random maps that start from Gaussian fields: spectra, clouds, ridges, eddies, fronts.

A model is a frozen set of parameters, all of which `drawn` takes from one generator; lengths are in
pixels and wavenumbers in cycles per pixel, so that a larger map shows more of the same sky. Fields
are periodic: they are drawn on a larger square and cut, so that opposite borders do not match.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri

Array = NDArray[np.float32]
Rng = np.random.Generator

OVERSIZE = 2
EDGE_RANGE = 30.0  # exponents beyond this are saturated in single precision


class Drawer(Protocol):
    """Anything that maps can be drawn from."""

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps `(n, size, size)` in units of its own, all finite."""


class MapModel(Drawer, Protocol):
    """A kind of map: its parameters are fixed, its maps are drawn."""

    @classmethod
    def drawn(cls, rng: Rng) -> Self:
        """Draw the parameters."""


def as_array(values: NDArray[Any]) -> Array:
    """Return values in single precision."""
    return np.asarray(values, np.float32)


@lru_cache(maxsize=32)
def modes(side: int) -> tuple[Array, Array]:
    """Wavenumbers along y `(side, 1)` and, for a real transform, x `(1, side // 2 + 1)`."""
    ky = np.fft.fftfreq(side).astype(np.float32)[:, None]
    kx = np.fft.rfftfreq(side).astype(np.float32)[None, :]
    return ky, kx


def filtered(maps: Array, transfer: Array) -> Array:
    """Multiply the modes of maps by a transfer function, with periodic borders."""
    result: Array = fft.irfft2(fft.rfft2(maps) * transfer, s=maps.shape[-2:])
    return result


def beam(side: int, width: float, wings: float = 0.0) -> Array:
    """Transfer function of a Gaussian of `width` pixels, a share `wings` of it far wider.

    The wings fall as a Cauchy distribution does, as scattered light in optics looks.
    """
    ky, kx = modes(side)
    k = np.hypot(ky, kx)
    core = np.exp(-2 * (math.pi * width * k) ** 2)
    return as_array((1 - wings) * core + wings * np.exp(-5 * math.pi * width * k))


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a positive number whose logarithm is uniform."""
    return float(low * (high / low) ** rng.random())


def soft_step(height: Array, softness: float) -> Array:
    """Logistic step from 0 to 1 at height zero."""
    scaled = np.clip(height / softness, -EDGE_RANGE, EDGE_RANGE)
    return as_array(1 / (1 + np.exp(-scaled)))


@final
@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Gaussian field of unit variance: `P(k) ~ (k^2 + corner^2)^(-slope/2) exp(-(k/cut)^2)`.

    `stretch` is the axis ratio of its structures and `angle` their direction.
    """

    slope: float
    corner: float = 0.0
    cut: float = math.inf
    stretch: float = 1.0
    angle: float = 0.0

    @classmethod
    def drawn(cls, rng: Rng, low: float = 1.0, high: float = 4.5) -> "PowerLaw":
        """Draw a model with a slope between `low` and `high`."""
        return cls(
            slope=rng.uniform(low, high),
            corner=log_uniform(rng, 0.004, 0.1),
            cut=rng.uniform(0.1, 0.5) if rng.random() < 0.3 else math.inf,
            stretch=rng.uniform(1, 3) if rng.random() < 0.3 else 1.0,
            angle=rng.uniform(0, math.pi),
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` fields."""
        side = OVERSIZE * size
        white = rng.standard_normal((n, side, side), dtype=np.float32)
        return filtered(white, self.amplitude(side))[:, :size, :size]

    def amplitude(self, side: int) -> Array:
        """Transfer function from white noise to a field whose expected variance is one."""
        ky, kx = modes(side)
        along = math.cos(self.angle) * kx + math.sin(self.angle) * ky
        across = math.cos(self.angle) * ky - math.sin(self.angle) * kx
        square = along**2 * self.stretch + across**2 / self.stretch
        power = np.maximum(square + self.corner**2, 1e-9) ** (-self.slope / 2)
        power *= np.exp(-square / self.cut**2)
        return _unit_variance(power, side)


@final
@dataclass(frozen=True, slots=True)
class Waves:
    """Gaussian field whose power lies on a ring: stripes, ripples or granules, perhaps oriented.

    `spread` is the ring's width as a part of its wavenumber; `focus` 0 is isotropic.
    """

    wavenumber: float
    spread: float
    focus: float
    angle: float
    sharpness: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Waves":
        """Draw wavelengths of 3 to 20 pixels."""
        return cls(
            wavenumber=log_uniform(rng, 0.05, 0.33),
            spread=log_uniform(rng, 0.08, 0.6),
            focus=rng.uniform(1, 12) if rng.random() < 0.5 else 0.0,
            angle=rng.uniform(0, math.pi),
            sharpness=rng.uniform(0, 2) if rng.random() < 0.5 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` fields; `sharpness` flattens crests and troughs."""
        side = OVERSIZE * size
        ky, kx = modes(side)
        k = np.hypot(ky, kx)
        power = np.exp(-0.5 * ((k / self.wavenumber - 1) / self.spread) ** 2)
        turned = np.cos(2 * (np.arctan2(ky, kx) - self.angle)) - 1
        transfer = _unit_variance(power * np.exp(self.focus * turned), side)
        white = rng.standard_normal((n, side, side), dtype=np.float32)
        field = filtered(white, transfer)[:, :size, :size]
        return np.tanh(self.sharpness * field) if self.sharpness > 0.1 else field


@final
@dataclass(frozen=True, slots=True)
class Clouds:
    """Log-normal clouds (Coles & Jones 1991), perhaps patchy: `exp(contrast g1 + patchy g2)`."""

    field: PowerLaw
    envelope: PowerLaw
    contrast: float
    patchy: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Clouds":
        """Draw contrasts from faint to some decades."""
        return cls(
            field=PowerLaw.drawn(rng, 1.8, 4.2),
            envelope=PowerLaw.drawn(rng, 3, 4.5),
            contrast=rng.uniform(0.3, 1.7),
            patchy=rng.uniform(0, 0.8) if rng.random() < 0.4 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` clouds of median about one."""
        height = self.contrast * self.field.draw(rng, n, size)
        if self.patchy:
            height = height + self.patchy * self.envelope.draw(rng, n, size)
        return as_array(np.exp(np.clip(height, -8, 8)))


@final
@dataclass(frozen=True, slots=True)
class Ridges:
    """Filaments: ridges along zero levels, cusps, or the steepness of a field."""

    form: str
    field: PowerLaw
    envelope: PowerLaw
    width: float
    power: float
    ground: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Ridges":
        """Draw one of three forms."""
        return cls(
            form=str(rng.choice(["ridge", "cusp", "steepness"])),
            field=PowerLaw.drawn(rng, 2.5, 4.5),
            envelope=PowerLaw.drawn(rng, 2.0, 4.0),
            width=log_uniform(rng, 0.04, 0.4),
            power=rng.uniform(0.5, 1.3),
            ground=rng.uniform(0, 0.6),
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps of filaments, with a share `ground` of smooth field."""
        field = self.field.draw(rng, n, size)
        smooth = self.envelope.draw(rng, n, size)
        if self.form == "ridge":
            lines = np.exp(-np.abs(field) / self.width + 0.6 * smooth)
        elif self.form == "cusp":
            lines = -(np.abs(field) ** self.power)
        else:
            slope_y, slope_x = np.gradient(field, axis=(1, 2))
            lines = np.hypot(slope_y, slope_x) ** self.power
        ground = self.ground * float(lines.std()) * smooth
        return as_array(lines + ground)


@final
@dataclass(frozen=True, slots=True)
class Warped:
    """A field seen through a random displacement of `reach` pixels: eddies, folds, streams."""

    field: PowerLaw
    displacement: PowerLaw
    reach: float
    contrast: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Warped":
        """Draw displacements of 2 to 14 pixels."""
        return cls(
            field=PowerLaw.drawn(rng, 2.2, 4.0),
            displacement=PowerLaw.drawn(rng, 3.0, 5.0),
            reach=rng.uniform(2, 14),
            contrast=rng.uniform(0.3, 1.3) if rng.random() < 0.5 else 0.0,
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` warped fields, log-normal where the contrast is not zero."""
        side = OVERSIZE * size
        white = rng.standard_normal((n, side, side), dtype=np.float32)
        field = filtered(white, self.field.amplitude(side))
        shift_y = self.reach * self.displacement.draw(rng, n, size)
        shift_x = self.reach * self.displacement.draw(rng, n, size)
        place = np.arange(size, dtype=np.float32)
        warped = _interpolated(field, place[:, None] + shift_y, place[None, :] + shift_x)
        return np.exp(self.contrast * warped) if self.contrast else warped


@final
@dataclass(frozen=True, slots=True)
class TwoPhase:
    """Regions above a level of a Gaussian field: a part `fraction` of the area, edges `softness`.

    Softness is in standard deviations of the field. What fills the regions is nothing (`flat`),
    another log-normal field (`filled`, bound to the first by `binding`, as gas is to its fronts) or
    the height above the level (`excess`); `outside` says the same of the other phase.
    """

    field: PowerLaw
    filling: PowerLaw
    fraction: float
    softness: float
    inside: str
    outside: bool
    contrast: float
    binding: float

    @classmethod
    def drawn(cls, rng: Rng) -> "TwoPhase":
        """Draw fractions of 0.08 to 0.92, edges from sharp to wide."""
        field = PowerLaw(
            slope=rng.uniform(2, 4.5),
            corner=log_uniform(rng, 0.01, 0.08),
            cut=log_uniform(rng, 0.06, 0.5),
        )
        return cls(
            field=field,
            filling=PowerLaw.drawn(rng, 2, 4),
            fraction=rng.uniform(0.08, 0.92),
            softness=log_uniform(rng, 0.005, 0.3),
            inside=str(rng.choice(["flat", "filled", "excess"], p=[0.35, 0.45, 0.2])),
            outside=bool(rng.random() < 0.3),
            contrast=rng.uniform(0.1, 0.8),
            binding=rng.uniform(-0.9, 0.9),
        )

    def draw(self, rng: Rng, n: int, size: int) -> Array:
        """Draw `n` maps, 0 in one phase and about 1 in the other."""
        field = self.field.draw(rng, n, size)
        height = np.asarray(field + ndtri(self.fraction), np.float32)
        phase = soft_step(height, self.softness)
        if self.inside == "flat":
            return phase
        if self.inside == "excess":
            return phase * np.maximum(height, 0)
        own = math.sqrt(1 - self.binding**2) * self.filling.draw(rng, n, size)
        gas = np.exp(self.contrast * (self.binding * field + own))
        return as_array(gas * (phase + 0.3 * (1 - phase) * self.outside))


def _unit_variance(power: NDArray[np.floating], side: int) -> Array:
    """Amplitude of the modes of a real transform, scaled to a field of expected variance one."""
    power[0, 0] = 0
    twice = np.full(side // 2 + 1, 2.0)  # modes that stand for their mirror image too
    twice[0] = 1
    if side % 2 == 0:
        twice[-1] = 1
    variance = float((power * twice).sum()) / side**2
    return as_array(np.sqrt(power / variance))


def _interpolated(field: Array, y: Array, x: Array) -> Array:
    """Bilinear values of periodic fields `(n, side, side)` at places `(n, size, size)`."""
    side = field.shape[-1]
    row = np.arange(len(field))[:, None, None]
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    wy, wx = y - y0, x - x0
    ya, xa, yb, xb = y0 % side, x0 % side, (y0 + 1) % side, (x0 + 1) % side
    above = (1 - wx) * field[row, ya, xa] + wx * field[row, ya, xb]
    below = (1 - wx) * field[row, yb, xa] + wx * field[row, yb, xb]
    return as_array((1 - wy) * above + wy * below)
