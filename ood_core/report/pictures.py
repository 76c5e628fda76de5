"""Maps as pictures: one perceptual colour scale for all, one palette PNG per map.

The scale is `asinh((v - middle) / width)` between two percentiles of the real maps: linear for
values near the median, logarithmic for bright tails, so that a Gaussian field and a star field are
both legible. PNGs are written with the 256 colours of the scale as their palette, so they hold the
quantised field exactly and stay small.
"""

import io
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

COLOURS = "inferno"
CUT = (0.5, 99.8)  # percentiles of the real pixels at the ends of the scale
SMALLEST_SIDE = 256  # pixels of a picture: sharp at twice the size it is shown at
LARGEST_SIDE = 256
TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """Colour scale shared by real and synthetic maps, in physical units."""

    low: float
    high: float
    middle: float
    width: float

    @classmethod
    def fit(cls, values: Float[np.ndarray, "..."]) -> "Stretch":
        """Fit to the finite values of real maps."""
        finite = values[np.isfinite(values)]
        finite = finite if finite.size else np.zeros(1)
        low, quarter, middle, upper, high = np.percentile(finite, [CUT[0], 16, 50, 84, CUT[1]])
        least = 1e-6 * max(abs(middle), 1e-30)
        width = max(upper - quarter, least)
        return cls(float(low), float(max(high, low + width)), float(middle), float(width))

    def __call__(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the place of values on the scale, in [0, 1]."""
        low, high = self._bend(np.array([self.low, self.high]))
        bent = self._bend(np.nan_to_num(values, nan=self.low))
        return np.asarray(np.clip((bent - low) / (high - low), 0, 1))

    def ticks(self) -> list[tuple[float, float]]:
        """Return evenly spread `(place, value)` marks of the colour bar."""
        low, high = self._bend(np.array([self.low, self.high]))
        places = np.linspace(0, 1, TICKS)
        values = self.middle + self.width * np.sinh(low + (high - low) * places)
        return [(float(p), float(v)) for p, v in zip(places, values, strict=True)]

    def _bend(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return np.asarray(np.arcsinh((values.astype(np.float64) - self.middle) / self.width))


def map_png(field: Float[np.ndarray, "y x"], stretch: Stretch) -> bytes:
    """Return one map as PNG, pixels kept square and sharp; large maps are averaged down first."""
    field = shrink(field, LARGEST_SIDE)
    levels = np.round(255 * stretch(field)).astype(np.uint8)
    repeat = max(1, -(-SMALLEST_SIDE // max(field.shape)))
    return _palette_png(levels.repeat(repeat, 0).repeat(repeat, 1))


def scale_png() -> bytes:
    """Return the colour scale from low (left) to high (right), one pixel high."""
    return _palette_png(np.arange(256, dtype=np.uint8)[None])


def shrink(field: Float[np.ndarray, "y x"], side: int) -> Float[np.ndarray, "y x"]:
    """Average blocks of pixels until no side is longer; what does not fill a block is cut."""
    factor = -(-max(field.shape) // side)
    height, width = (size // factor * factor for size in field.shape)
    blocks = field[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean((1, 3)))


def _palette_png(levels: UInt8[np.ndarray, "y x"]) -> bytes:
    # Row 0 of an image is its top; maps have their origin at the bottom, as FITS viewers show it.
    image = Image.fromarray(np.ascontiguousarray(levels[::-1])).convert("P")
    palette = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    image.putpalette(np.asarray(palette).tobytes())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
