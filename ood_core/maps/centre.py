"""What cut-outs are centred on: the corner between four pixels, or one pixel."""

from collections.abc import Sequence

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import orbit

LESS = 0.6
"""At most so much of the asymmetry about the corner is left about the pixel that maps are centred
on: 0.2 and 0.5 of 64 and 16 galaxies of the examples. Of fields without a centre both are alike:
the mean of white ones has the same about any point, and that of smooth ones hardly changes over
half a pixel. Either centre is right for them.
"""


def on_pixel(fit: Maps, symmetries: Sequence[Symmetry]) -> bool:
    """Whether maps of even sides are symmetric in the mean about pixel `side // 2` of each side.

    Looks at the inner half of maps `(n, c, y, x)`.
    """
    height, width = fit.shape[-2:]
    if {"translate", "centred"} & set(symmetries) or height % 2 or width % 2:
        return False
    if "rotate90" in symmetries and height != width:  # refused by `TargetSet.check`
        return False
    y, x = height // 4, width // 4
    inside = fit[..., y : height - y, x : width - x]  # the object, less of the sky
    mean = inside.double().mean(dim=0)
    about_pixel, about_corner = (_asymmetry(m, symmetries) for m in (mean[..., 1:, 1:], mean))
    return about_pixel < LESS * about_corner


def _asymmetry(mean: Map, symmetries: Sequence[Symmetry]) -> float:
    """Mean square of what images of a map differ by."""
    _, *images = orbit(mean[None], symmetries)
    return sum(float((image - mean).square().mean()) for image in images)
