"""Cut-outs of objects laid into a field, with the catalogue of what was laid where.

A cut-out is light, sky and noise; a field has sky and noise already. So that neither is there
twice, only light is added:

    field + w wiener(cut-out - sky)

`sky` is the median outside the cut-out's largest circle and `s` the spread there (1.4826 of the
median absolute deviation). `w` is 1 where the smoothed cut-out is above `DETECTION` spreads of the
smoothed sky and hangs together with the middle, falls to 0 within `TAPER` pixels, and is 0 at the
border and on neighbours; those that touch the object are laid with it. `wiener` takes each pixel
towards the mean of the 3 x 3 about it as far as their variance is that of noise (Lee 1980;
`scipy.signal.wiener`). Noise that a field lacks is not made up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.signal import wiener

from ood_core.errors import InputError
from ood_core.metrics.objects import ellipticity, half_light_radius, rings
from ood_core.numerics.random import Root

DETECTION = 3.0
"""Spreads of the smoothed sky above which a pixel is of the object."""
TAPER = 4
"""Pixels within which the weight falls from 1 to 0."""
NEAR = 2
"""Pixels between the middle and the object, at most."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Injected:
    """A field with objects in it.

    Attributes:
        field: shape (c, y, x), in the field's unit; pixels that were missing still are.
        truth: columns by name, a row per object: `cutout`, its number; `x` and `y`, the middle of
            its light in pixels, 0 being the centre of the first; `flux`, all that was added, of
            every channel (n, c); `half_light_radius` in pixels, about the cut-out's middle, `e1`
            and `e2` (`ood_core.metrics.objects`), of all channels together; `lost`, the part of the
            flux that fell beyond the border or on missing pixels, and is not in `flux`.
        faint: numbers of cut-outs without light at their middle, which were not laid.
    """

    field: NDArray[np.float32]
    truth: Mapping[str, NDArray[Any]]
    faint: tuple[int, ...]


def inject(
    field: NDArray[np.floating[Any]],
    cutouts: NDArray[np.floating[Any]],
    positions: NDArray[np.floating[Any]] | None = None,
    *,
    seed: int = 0,
) -> Injected:
    """Add the light of cut-outs to a field, where objects may overlap.

    Args:
        field: shape (c, y, x); NaN is missing.
        cutouts: shape (n, c, y, x), in the field's unit, one object in the middle of each.
        positions: of the cut-outs' middles as (y, x) in pixels, shape (n, 2), rounded to pixels;
            None draws them, even over the field, so that every cut-out lies in it.
        seed: of the positions that are drawn.

    Raises:
        InputError: shapes that do not fit, cut-outs that are not finite or larger than the field.
    """
    field, cutouts = np.asarray(field), np.asarray(cutouts, dtype=np.float64)
    if field.ndim != 3 or cutouts.ndim != 4 or cutouts.shape[1] != field.shape[0]:
        raise InputError(
            f"got a field of shape {field.shape} and cut-outs of shape {cutouts.shape}; expected "
            "(c, y, x) and (n, c, y, x) of the same channels"
        )
    room = np.array(field.shape[1:]) - cutouts.shape[2:]
    if (room < 0).any() or min(cutouts.shape[2:]) < 8 or not np.isfinite(cutouts).all():
        raise InputError(
            f"got cut-outs of {cutouts.shape[2:]} pixels for a field of {field.shape[1:]}; "
            "expected finite ones of 8 pixels and more a side that fit into the field"
        )
    if positions is None:
        drawn = Root.of("positions").generator(seed).random((len(cutouts), 2))
        firsts = (drawn * (room + 1)).astype(np.int64)
    else:
        positions = np.asarray(positions, dtype=np.float64)
        if positions.shape != (len(cutouts), 2) or not np.isfinite(positions).all():
            raise InputError(
                f"got positions of shape {positions.shape} for {len(cutouts)} cut-outs; expected "
                "finite ones (y, x), one per cut-out"
            )
        firsts = np.rint(positions - (np.array(cutouts.shape[2:]) - 1) / 2).astype(np.int64)
    made = field.astype(np.float64)
    laid, faint, rows = [], [], []
    for number, (cutout, first) in enumerate(zip(cutouts, firsts, strict=True)):
        light = light_of(cutout)
        if light is None:
            faint.append(number)
            continue
        low, high = np.maximum(first, 0), np.minimum(first + light.shape[1:], field.shape[1:])
        part = np.zeros_like(light)
        if (low < high).all():
            into = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
            of = (
                slice(None),
                *(slice(a, b) for a, b in zip(low - first, high - first, strict=True)),
            )
            part[of] = np.where(np.isfinite(made[into]), light[of], 0)
            made[into] += part[of]
        laid.append(light)
        rows.append((number, *_middle(light, first), part.sum((1, 2)), light.sum()))
    return Injected(made.astype(np.float32), _truth(rows, laid, field.shape[0]), tuple(faint))


def light_of(cutout: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The light of the object in the middle, shape (c, y, x); None where there is none.

    Channels are weighted by their noise to find the object, and share its outline.
    """
    height, width = cutout.shape[1:]
    outside = rings(height, width).sum(0).numpy() < 0.5
    above = cutout - np.median(cutout[:, outside], axis=1)[:, None, None]
    noise = _spread(above[:, outside])
    scaled = above / np.where(noise > 0, noise, 1)[:, None, None]
    smooth = gaussian_filter(scaled.sum(axis=0), 1.0)
    threshold = max(DETECTION * float(_spread(smooth[None, outside])[0]), 1e-6 * smooth.max())
    parts, _ = label(smooth > threshold)
    y, x = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    near = np.where((parts > 0) & (np.hypot(y, x) <= NEAR), smooth, -np.inf)
    if not np.isfinite(near).any():
        return None
    inside = parts == parts.flat[near.argmax()]
    others = (parts > 0) & ~inside
    if noise.any():  # what lies below the threshold next to it is light as well
        inside = distance_transform_edt(~inside) <= 1
    border = np.minimum(height / 2 - np.abs(y), width / 2 - np.abs(x)) - 0.5
    weight = _falling(distance_transform_edt(~inside)) * _falling(TAPER - border) * ~others
    light = [
        wiener(channel, 3, s**2) if s > 0 else channel
        for channel, s in zip(above, noise, strict=True)
    ]
    laid: NDArray[np.float64] = np.stack(light) * weight
    return laid


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust standard deviation of each row."""
    middle = np.median(values, axis=1, keepdims=True)
    spread: NDArray[np.float64] = 1.4826 * np.median(np.abs(values - middle), axis=1)
    return spread


def _falling(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A raised cosine: 1 up to a distance of 0, 0 from `TAPER` on."""
    weight: NDArray[np.float64] = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / TAPER, 0, 1))
    return weight


def _middle(light: NDArray[np.float64], first: NDArray[np.int64]) -> tuple[float, float]:
    """Middle of the light as (y, x) in pixels of the field; that of the cut-out if it has none."""
    total, sums = float(light.sum()), light.sum(axis=0)
    if total <= 0:
        y, x = (np.array(sums.shape) - 1) / 2
    else:
        y = (sums.sum(1) * np.arange(len(sums))).sum() / total
        x = (sums.sum(0) * np.arange(sums.shape[1])).sum() / total
    return float(first[0] + y), float(first[1] + x)


def _truth(
    rows: list[tuple[Any, ...]], laid: list[NDArray[np.float64]], channels: int
) -> dict[str, NDArray[Any]]:
    if not rows:
        none = np.zeros(0)
        names = ("x", "y", "half_light_radius", "e1", "e2", "lost")
        return {
            "cutout": none.astype(np.int64), **dict.fromkeys(names, none),
            "flux": np.zeros((0, channels)),
        }  # fmt: skip
    number, y, x, flux, whole = zip(*rows, strict=True)
    light = torch.from_numpy(np.stack(laid).sum(axis=1, keepdims=True))
    shape = ellipticity(light)[:, 0].numpy()
    return {
        "cutout": np.array(number),
        "x": np.array(x),
        "y": np.array(y),
        "flux": np.stack(flux),
        "half_light_radius": half_light_radius(light)[:, 0].numpy(),
        "e1": shape[:, 0],
        "e2": shape[:, 1],
        "lost": 1 - np.stack(flux).sum(1) / np.array(whole),
    }
