"""What is asked of maps before they are targets: known names, enough maps, pixels, no copies."""

import hashlib
from dataclasses import replace
from typing import get_args

import numpy as np

from ood_core.config.targets import Symmetry, TargetsSpec, TransformChoice
from ood_core.errors import TargetError
from ood_core.maps.duplicates import near_duplicates, turned_copies
from ood_core.maps.mapset import MapSet, listing
from ood_core.maps.missing import Mask

MIN_TARGETS = 4
"""Maps of each split, at least."""


def require_known(spec: TargetsSpec) -> None:
    """Refuse names that exist in no configuration file, which checks them itself."""
    unknown = [name for name in spec.symmetries if name not in get_args(Symmetry)]
    if unknown:
        raise TargetError(
            f"symmetries: got {listing(list(map(repr, unknown)))}; expected some of "
            f"{', '.join(get_args(Symmetry))}, as a list"
        )
    if spec.transform not in get_args(TransformChoice):
        raise TargetError(
            f"transform: got {spec.transform!r}; expected one of "
            f"{', '.join(get_args(TransformChoice))}"
        )


def require_split(maps: MapSet, fit: int) -> None:
    """Refuse splits of fewer maps than `MIN_TARGETS`."""
    if min(fit, len(maps) - fit) < MIN_TARGETS:
        raise TargetError(
            f"{maps.source}: got {len(maps)} maps, split into {fit} to fit and {len(maps) - fit} "
            f"held out; expected at least {MIN_TARGETS} of each: add maps or change "
            "targets.held_out"
        )


def require_pixels(maps: MapSet) -> None:
    """Refuse pixels that are not finite, and maps of one value."""
    bad = np.count_nonzero(~np.isfinite(maps.values), axis=(1, 2, 3))
    if bad.any():
        names = [name for name, number in zip(maps.ids, bad, strict=True) if number]
        raise TargetError(
            f"{maps.source}: got {bad.sum()} infinite pixels in {len(names)} of {len(maps)} "
            f"maps ({listing(names)}); expected finite float32 values; fill or mask these pixels "
            "yourself, or leave these maps out"
        )
    flat = maps.values.reshape(len(maps), -1)
    constant = flat.min(axis=1) == flat.max(axis=1)
    if constant.any():
        names = [name for name, same in zip(maps.ids, constant, strict=True) if same]
        raise TargetError(
            f"{maps.source}: got {len(names)} constant maps ({listing(names)}); expected maps "
            "that vary; leave them out, and if they do vary in the file, change the unit so that "
            "float32 can hold them (7 digits, 1e-38 to 3e38)"
        )


def find_identical(maps: MapSet, fit: int) -> tuple[str, ...]:
    """Find maps that are identical: a note for those in one split, an error across the split.

    Raises:
        TargetError: a held-out map is identical to a fitted one.
    """
    first: dict[bytes, int] = {}
    pairs = []
    for number, values in enumerate(maps.values):
        content = hashlib.sha256((values + np.float32(0)).tobytes()).digest()  # -0 becomes 0
        known = first.setdefault(content, number)
        if known != number:
            pairs.append((known, number))
    across = [f"{maps.ids[a]} = {maps.ids[b]}" for a, b in pairs if a < fit <= b]
    if across:
        raise TargetError(
            f"{maps.source}: got {len(across)} held-out maps identical to fitted ones "
            f"({listing(across)}); expected different maps, or the comparison with held-out maps "
            "means nothing; give each map once"
        )
    turned = turned_copies(maps.values, fit)
    return tuple(
        f"{maps.source}: {len(found)} maps are {words} others of the same split "
        f"({listing([f'{maps.ids[a]} = {maps.ids[b]}' for a, b in found])}): {remedy}"
        for found, words, remedy in (
            (pairs, "identical to", "each counts as often as it is given; give each map once"),
            (turned, "mirrored or turned copies of", "give each once, and declare symmetries"),
        )
        if found
    )


def without_copies(
    maps: MapSet, missing: Mask | None, fit: int, spec: TargetsSpec
) -> tuple[MapSet, Mask | None]:
    """Refuse held-out maps that are nearly fitted ones, or leave them out.

    Raises:
        TargetError: there are such maps, or too few others.
    """
    if spec.duplicates == "refuse":
        find_identical(maps, fit)  # identical ones have an error of their own
    pairs = near_duplicates(maps.values, fit)
    if not pairs:
        return maps, missing
    names = [f"{maps.ids[held]} = {maps.ids[target]}" for held, target in pairs]
    if spec.duplicates == "refuse":
        raise TargetError(
            f"{maps.source}: got {len(pairs)} held-out maps that are nearly fitted ones "
            f"({listing(names)}), up to flips, turns, shifts, contrast and little noise; expected "
            "different maps, or the comparison with held-out maps means nothing; give each map "
            "once, or set targets.duplicates to leave_out"
        )
    out = {held for held, _ in pairs}
    kept = [row for row in range(len(maps)) if row not in out]
    note = f"{maps.source}: left out {len(pairs)} held-out maps that are nearly fitted ones"
    left = replace(
        maps,
        values=maps.values[kept],
        ids=tuple(maps.ids[row] for row in kept),
        notes=(*maps.notes, f"{note} ({listing(names)})"),
        places=None if maps.places is None else maps.places[kept],
    )
    require_split(left, fit)
    return left, missing if missing is None else missing[kept]
