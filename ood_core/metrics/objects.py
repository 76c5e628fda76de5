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
    asymmetry       sum |I - I_180| / (2 sum |I|), `I_180` turned by half about the middle of the
                    map (Conselice 2003, without the background's share)
    M20             log10 of the second moment of the brightest pixels that hold 20 % of the flux,
                    over that of all, about the light's own middle (Lotz et al. 2004)

For an object of axis ratio `q`, `|e| = (1 - q^2) / (1 + q^2)`; its long axis is at half the angle
of `(e1, e2)`, from `x` towards `y`. Profiles and flux are in units of the map and of the map times
pixel area.
"""

from functools import lru_cache
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError

PER_PIXEL = 16  # points along a pixel's side when it is split between rings
LEAST = 1e-3  # of a ratio whose logarithm is taken
SURE = 5  # standard errors


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
    outside = _rings_of(maps).sum(0) < 0.5
    return maps - maps[..., outside].median(-1).values[..., None, None]


def flux(maps: Maps) -> Float[Tensor, "n c"]:
    """Return the sum of pixels inside the circle."""
    return _ring_flux(maps)[0].sum(-1)


def concentration(maps: Maps) -> Float[Tensor, "n c"]:
    """Return `5 log10(r_80 / r_20)`; NaN where there is no positive flux."""
    return _concentration(_growth(maps))


def half_light_radius(maps: Maps) -> Float[Tensor, "n c"]:
    """Return the radius that holds half of the flux, in pixels; NaN without positive flux."""
    return _radius(_growth(maps), 0.5)


def ellipticity(maps: Maps) -> Float[Tensor, "n c 2"]:
    """Return `(e1, e2)`; NaN where there is no positive flux."""
    shape = maps.shape[-2:]
    light = maps.double() * _rings_of(maps).sum(0)
    y, x = (along.to(maps.device) for along in _offsets(*shape))
    # Moments are taken about the light's own middle, so that an offset is no ellipticity.
    total = light.sum((-2, -1))
    mean_x, mean_y = (light * x).sum((-2, -1)) / total, (light * y).sum((-2, -1)) / total
    x, y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    size = (light * (x**2 + y**2)).sum((-2, -1))
    shear = torch.stack([light * (x**2 - y**2), light * 2 * x * y]).sum((-2, -1))
    e = (shear / size).movedim(0, -1)
    return torch.where((total > 0)[..., None], e, torch.nan)


def asymmetry(light: Maps) -> Float[Tensor, "n c"]:
    """Return how unlike light is to itself turned by half about the middle; NaN where dark."""
    inside = light.double() * _rings_of(light).sum(0)
    unlike = (inside - inside.flip(-2, -1)).abs().sum((-2, -1))
    return unlike / (2 * inside.abs().sum((-2, -1)))


def m20(light: Maps) -> Float[Tensor, "n c"]:
    """Return the second moment of the brightest fifth of the flux; pixels are 0 or above."""
    inside = light.double() * _rings_of(light).sum(0)
    y, x = (along.to(light.device) for along in _offsets(*light.shape[-2:]))
    total = inside.sum((-2, -1), keepdim=True)
    mean_x, mean_y = ((inside * along).sum((-2, -1), keepdim=True) / total for along in (x, y))
    moments = (inside * ((x - mean_x) ** 2 + (y - mean_y) ** 2)).flatten(-2)
    bright = inside.flatten(-2).sort(descending=True, stable=True)
    before = bright.values.cumsum(-1) - bright.values
    fifth = (before < 0.2 * total[..., 0]) * moments.gather(-1, bright.indices)
    return (fifth.sum(-1) / moments.sum(-1)).clamp(min=LEAST).log10()


def object_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Shape of each channel's light above its background, turned or not; 0 where there is none.

    Logarithm of the half-light radius over the circle's, concentration, ellipticity, asymmetry
    and M20.
    """
    light = above_background(maps.double()).clamp(min=0)
    growth = _growth(light)
    shapes = (
        (_radius(growth, 0.5) / (growth.shape[-1] - 1)).clamp(min=LEAST).log(),
        _concentration(growth).clamp(max=10),
        ellipticity(light).norm(dim=-1),
        asymmetry(light),
        m20(light),
    )
    return torch.stack(shapes, dim=-1).nan_to_num(0.0, 0.0, 0.0).flatten(1)


def has_objects(maps: Maps) -> bool:
    """Whether light lies towards the middle of maps, channel by channel.

    Where it lies anywhere, the circle of half the radius has a quarter of it; here it has more by
    five standard errors.
    """
    light = above_background(maps.double()).clamp(min=0)
    growth = _growth(light)
    count = growth.shape[-1] - 1
    even = ((count // 2) / count) ** 2
    share = (growth[..., count // 2] / growth[..., -1]).nan_to_num(even)
    error = share.std(0) / len(maps) ** 0.5
    return bool((share.mean(0) - even > SURE * error).all())


@lru_cache(maxsize=8)
def _rings_on(height: int, width: int, device: torch.device) -> Float[Tensor, "rings y x"]:
    return rings(height, width).to(device)


def _rings_of(maps: Maps) -> Float[Tensor, "rings y x"]:
    return _rings_on(*maps.shape[-2:], maps.device)


def _offsets(height: int, width: int) -> tuple[Float[Tensor, "y 1"], Float[Tensor, " x"]]:
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return y[:, None], x


def _ring_flux(maps: Maps) -> tuple[Float[Tensor, "n c rings"], Float[Tensor, " rings"]]:
    parts = _rings_of(maps)
    rows = maps.double().flatten(0, 1).flatten(1)
    sums = (parts.flatten(1).to_sparse() @ rows.T).T  # most pixels lie in two rings at most
    return sums.reshape(*maps.shape[:2], -1), parts.sum((-2, -1))


def _growth(maps: Maps) -> Float[Tensor, "n c edges"]:
    """Flux within 0, 1, 2 .. pixels of the middle."""
    return torch.nn.functional.pad(_ring_flux(maps)[0].cumsum(-1), (1, 0))


def _concentration(growth: Float[Tensor, "n c edges"]) -> Float[Tensor, "n c"]:
    ratio = _radius(growth, 0.8) / _radius(growth, 0.2)
    return 5 / log(10) * ratio.log()


def _radius(growth: Float[Tensor, "n c edges"], part: float) -> Float[Tensor, "n c"]:
    """Radius at which the growth curve first reaches a part of its end; even light in a ring."""
    total = growth[..., -1:]
    aim = part * total
    after = (growth >= aim).double().argmax(-1, keepdim=True).clamp(min=1)
    high, low = growth.gather(-1, after), growth.gather(-1, after - 1)
    inner = (after - 1).double()
    square = inner**2 + (aim - low) / (high - low) * (2 * inner + 1)
    return torch.where(total > 0, square.sqrt(), torch.nan).squeeze(-1)
