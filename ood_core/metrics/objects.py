"""Shape of one object per map: flux, radial profile, concentration, ellipticity.

The object lies at the middle of its map, on a background of zero: subtract the background first
(`above_background`).
Everything is measured inside the largest circle of the map, of whole pixels in radius. Pixels are
split between rings one pixel wide by area (on a grid of 16 by 16 points each), and light is taken
as even within a ring: for a Gaussian of width `sigma` pixels `C` is then right to `0.4 / sigma^2`.

    concentration   C = 5 log10(r_80 / r_20), radii that hold 80 and 20 % of the flux (Bershady et
                    al. 2000), for flux in the circle
    ellipticity     (e1, e2) = (Q_xx - Q_yy, 2 Q_xy) / (Q_xx + Q_yy), with second moments Q of light
                    (Bernstein & Jarvis 2002, distortion)

For an object of axis ratio `q`, `|e| = (1 - q^2) / (1 + q^2)`; its long axis is at half the angle
of `(e1, e2)`, from `x` towards `y`. Profiles and flux are in units of the map and of the map times
pixel area.
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError

PER_PIXEL = 16  # points along a pixel's side when it is split between rings


def rings(height: int, width: int) -> Float[Tensor, "rings y x"]:
    """Return the part of every pixel that lies in ring `j <= r < j + 1` about the middle.

    Raises:
        TargetError: If the shorter side is below 4 pixels.
    """
    count = min(height, width) // 2
    if count < 2:
        raise TargetError(f"got maps of {(height, width)} pixels; expected at least 4 on a side")
    parts = torch.zeros(count + 1, height, width, dtype=torch.float64)
    points = (torch.arange(PER_PIXEL, dtype=torch.float64) + 0.5) / PER_PIXEL - 0.5
    y, x = _offsets(height, width)
    one = torch.full((1, height, width), 1 / PER_PIXEL**2, dtype=torch.float64)
    for dy in points:
        for dx in points:
            ring = torch.hypot(y + dy, x + dx).long().clamp(max=count)
            parts.scatter_add_(0, ring[None], one)
    return parts[:count]


def above_background(maps: Maps) -> Maps:
    """Subtract from every map and channel the median of its pixels outside the circle."""
    outside = rings(*maps.shape[-2:]).sum(0) < 0.5
    return maps - maps[..., outside].median(-1).values[..., None, None]


def flux(maps: Maps) -> Float[Tensor, "n c"]:
    """Return the sum of pixels inside the circle."""
    return _ring_flux(maps)[0].sum(-1)


def radial_profile(maps: Maps) -> Float[Tensor, "n c rings"]:
    """Return the mean of each ring; ring `j` is at radii from `j` to `j + 1` pixels."""
    sums, areas = _ring_flux(maps)
    return sums / areas


def concentration(maps: Maps) -> Float[Tensor, "n c"]:
    """Return `5 log10(r_80 / r_20)`; NaN where there is no positive flux."""
    sums, _ = _ring_flux(maps)
    growth = torch.nn.functional.pad(sums.cumsum(-1), (1, 0))
    ratio = _radius(growth, 0.8) / _radius(growth, 0.2)
    return 5 / log(10) * ratio.log()


def half_light_radius(maps: Maps) -> Float[Tensor, "n c"]:
    """Return the radius that holds half of the flux, in pixels; NaN without positive flux."""
    sums, _ = _ring_flux(maps)
    return _radius(torch.nn.functional.pad(sums.cumsum(-1), (1, 0)), 0.5)


def ellipticity(maps: Maps) -> Float[Tensor, "n c 2"]:
    """Return `(e1, e2)`; NaN where there is no positive flux."""
    shape = maps.shape[-2:]
    light = maps.double() * rings(*shape).sum(0)
    y, x = _offsets(*shape)
    # Moments are taken about the light's own middle, so that an offset is no ellipticity.
    total = light.sum((-2, -1))
    mean_x, mean_y = (light * x).sum((-2, -1)) / total, (light * y).sum((-2, -1)) / total
    x, y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    size = (light * (x**2 + y**2)).sum((-2, -1))
    shear = torch.stack([light * (x**2 - y**2), light * 2 * x * y]).sum((-2, -1))
    e = (shear / size).movedim(0, -1)
    return torch.where((total > 0)[..., None], e, torch.nan)


def _offsets(height: int, width: int) -> tuple[Float[Tensor, "y 1"], Float[Tensor, " x"]]:
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return y[:, None], x


def _ring_flux(maps: Maps) -> tuple[Float[Tensor, "n c rings"], Float[Tensor, " rings"]]:
    parts = rings(*maps.shape[-2:])
    return torch.einsum("ncyx,ryx->ncr", maps.double(), parts), parts.sum((-2, -1))


def _radius(growth: Float[Tensor, "n c edges"], part: float) -> Float[Tensor, "n c"]:
    """Radius at which the growth curve first reaches a part of its end; even light in a ring."""
    total = growth[..., -1:]
    aim = part * total
    after = (growth >= aim).double().argmax(-1, keepdim=True).clamp(min=1)
    high, low = growth.gather(-1, after), growth.gather(-1, after - 1)
    inner = (after - 1).double()
    square = inner**2 + (aim - low) / (high - low) * (2 * inner + 1)
    return torch.where(total > 0, square.sqrt(), torch.nan).squeeze(-1)
