"""What a user should know of targets that are taken all the same."""

import math
import re

import numpy as np

from ood_core.maps.mapset import HEADER_END, MapSet

MIN_STEPS = 100
"""Steps of float32 in a standard deviation of the pixels; with fewer, rounding shows."""
SAME_SCALE = 0.01
"""Relative difference of pixel sizes up to which nobody need know of it."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?"
_SIZES = re.compile(rf"^(CDELT1|CD1_1|CD2_1) *= *({_NUMBER})", re.MULTILINE)


def coarse_steps(maps: MapSet) -> tuple[str, ...]:
    """Say where float32 is too coarse for what differs between pixels."""
    steps = np.spacing(np.abs(maps.values).max((0, 2, 3)))
    spreads = maps.values.std((0, 2, 3), dtype=np.float64) * (np.ptp(maps.values, (0, 2, 3)) > 0)
    return tuple(
        f"{maps.source}: channel {channel} has values near {step * 2**23:.3g}, where float32 has "
        f"steps of {step:.3g}, and a spread of {spread:.3g} only: subtract an offset in the file"
        for channel, (step, spread) in enumerate(zip(steps, spreads, strict=True))
        if 0 < spread < MIN_STEPS * step
    )


def order_of_files(path: str, maps: MapSet, fit: int) -> tuple[str, ...]:
    """Say which maps are held out where the order of files decides it."""
    if maps.files == 1:
        return ()
    return (
        f"{path}: the natural order of {maps.files} file names decides the split: {fit} "
        f"maps are fitted, and {len(maps) - fit} from {maps.ids[fit]} on are held out",
    )


def mixed_scales(maps: MapSet) -> tuple[str, ...]:
    """Say that headers of the maps state pixels of different sizes: the method takes them for one.

    A size is CDELT1, or the length of the first column of CD, in the unit of the header.
    """
    sizes = []
    for block in maps.header.split(f"\n{HEADER_END}\n"):
        cards = {name: float(re.sub("[Dd]", "E", text)) for name, text in _SIZES.findall(block)}
        column = math.hypot(cards.get("CD1_1", 0.0), cards.get("CD2_1", 0.0))
        sizes.append(column or abs(cards.get("CDELT1", 0.0)))
    known = [size for size in sizes if size]
    if not known or max(known) <= (1 + SAME_SCALE) * min(known):
        return ()
    return (
        f"{maps.source}: pixels have sizes from {min(known):.6g} to {max(known):.6g} by CDELT1 or "
        "CD of the headers: they are taken as they are, for maps of one pixel size, and exports "
        "state none; resample the maps to one size if structures should have one scale",
    )
