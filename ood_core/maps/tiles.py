"""Maps that are cut from larger ones: tiles of a grid, or cut-outs around catalogued positions.

Windows are read one at a time, so that a mosaic may be far larger than memory. Names of maps are
their places, as NumPy writes them: `m31[128:160, 64:96]`.

With `split: regions` the held-out maps lie together at one end of the mosaic, along its longer
side (the last mosaics, where there are several), and fitted ones that lie closer to them than one
size are left out: neighbours share sources and noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ood_core.config.targets import CutoutsSpec, TargetsSpec, TilesSpec
from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.mapset import MapSet, listing, require_count
from ood_core.maps.mosaics import Mosaic, opened_mosaic, positions, read_catalogue
from ood_core.maps.readers import files_of
from ood_core.maps.remote import fetched, is_remote

Values = NDArray[np.float32]
_FAR = 2**40
"""Pixels from one mosaic to the next: they do not touch."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a window lies.

    Attributes:
        mosaic: number of the file.
        plane: number of the plane in it.
        y: first row.
        x: first column.
        name: of the source in a catalogue; '' of a tile.
    """

    mosaic: int
    plane: int
    y: int
    x: int
    name: str = ""


def cut_maps(spec: TargetsSpec) -> tuple[MapSet, TargetsSpec]:
    """Cut the maps that a configuration asks for.

    Returns:
        The maps, fitted ones first, and the configuration with the number that is held out.

    Raises:
        TargetError: files that cannot be read or have no such windows, or more than the limits
            allow.
    """
    if is_remote(spec.path):
        with fetched(spec.path, spec.limits) as local:
            maps, settled = cut_maps(replace(spec, path=local))
            return replace(maps, source=spec.path), replace(settled, path=spec.path)
    cut: TilesSpec | CutoutsSpec | None = spec.tiles or spec.cutouts
    assert cut is not None, "asked for by the caller"
    files = files_of(spec.path, spec.limits)
    catalogue = None if spec.tiles else read_catalogue(spec.cutouts, spec.limits)
    places: list[Place] = []
    parts: list[Values] = []
    names: list[str] = []
    seen: set[int] = set()
    first: Mosaic | None = None
    notes = []
    for number, file in enumerate(files):
        with opened_mosaic(file, spec) as mosaic:
            first = first or mosaic
            _require_alike(first, mosaic, file)
            if catalogue is None:
                found: Iterator[Place] = _grid(mosaic, number, spec.tiles)
            else:
                at = positions(catalogue, mosaic, len(files))
                found = _around(mosaic, number, cut.size, at, catalogue.names, seen)
            least = spec.tiles.min_coverage if spec.tiles else 0.0
            kept, windows = _read(mosaic, found, cut.size, least, spec.limits, sum(map(len, parts)))
            places += kept
            parts.append(windows)
            names += [_name(mosaic.stem, place, cut.size, mosaic.planes) for place in kept]
            along = "x" if mosaic.width >= mosaic.height else "y"
    if not places or first is None:
        raise TargetError(
            f"{spec.path}: got no window of {cut.size} x {cut.size} px in {len(files)} files; "
            "expected some: lower the size or min_coverage, or correct the catalogue"
        )
    if catalogue is not None and len(seen) < len(catalogue.names):
        out = [name for row, name in enumerate(catalogue.names) if row not in seen]
        notes.append(f"{spec.path}: {len(out)} sources lie outside or at the edge ({listing(out)})")
    rows, held = _split(places, spec, cut.size, along)
    if len(rows) < len(places):
        notes.append(
            f"{spec.path}: left out {len(places) - len(rows)} maps that lie within {cut.size} px "
            f"of held-out ones; {len(rows) - held} maps are fitted, {held} are held out"
        )
    values = np.concatenate(parts)[rows]
    maps = MapSet(
        values=values,
        ids=tuple(names[row] for row in rows),
        unit=first.unit,
        header=first.header,
        source=spec.path,
        notes=tuple(notes),
        places=np.array([[places[row].mosaic, places[row].y, places[row].x] for row in rows]),
    )
    return maps, replace(spec, held_out=held) if held else spec


def _grid(mosaic: Mosaic, number: int, spec: TilesSpec | None) -> Iterator[Place]:
    """Windows of a grid that begins at the first pixel; what does not fill a window is left out."""
    assert spec is not None, "a catalogue else"
    stride = spec.stride or spec.size
    for plane in range(mosaic.planes):
        for y in range(0, mosaic.height - spec.size + 1, stride):
            for x in range(0, mosaic.width - spec.size + 1, stride):
                yield Place(number, plane, y, x)


def _around(
    mosaic: Mosaic,
    number: int,
    size: int,
    at: NDArray[np.float64],
    names: Sequence[str],
    seen: set[int],
) -> Iterator[Place]:
    """Windows around positions (y, x) that lie wholly in a mosaic, in the first that has them."""
    corners = np.floor(at - (size - 1) / 2 + 0.5)
    inside = (corners >= 0) & (corners <= np.array([mosaic.height, mosaic.width]) - size)
    for row in np.flatnonzero(inside.all(1)).tolist():
        if row not in seen:
            seen.add(row)
            y, x = corners[row].astype(int).tolist()
            for plane in range(mosaic.planes):
                yield Place(number, plane, y, x, names[row])


def _read(
    mosaic: Mosaic,
    places: Iterator[Place],
    size: int,
    least: float,
    limits: Limits,
    before: int,
) -> tuple[list[Place], Values]:
    """The windows of which enough is there, one after another."""
    kept, windows = [], []
    most = limits.max_bytes // (4 * mosaic.channels * size * size)
    for place in places:
        window = mosaic.window(place.plane, place.y, place.x, size)
        if np.isfinite(window).mean() >= least:
            kept.append(place)
            windows.append(window.astype(np.float32))
            require_count(before + len(kept), mosaic.stem, limits.max_maps)
            if before + len(kept) > most:
                raise TargetError(
                    f"{mosaic.stem}: got more than {most} windows of {size} px; expected at most "
                    f"{limits.max_bytes} bytes of them (targets.max_bytes); raise the stride, or "
                    "targets.max_bytes"
                )
    shape = (0, mosaic.channels, size, size)
    return kept, np.stack(windows) if windows else np.empty(shape, np.float32)


def _split(
    places: Sequence[Place], spec: TargetsSpec, size: int, along: str
) -> tuple[list[int], int]:
    """Rows to keep, fitted ones first, and how many of them are held out; 0 leaves the order."""
    cut: Any = spec.tiles or spec.cutouts
    if cut.split == "order":
        return list(range(len(places))), 0
    at = np.array([getattr(place, along) for place in places], dtype=np.int64)
    keys = np.array([place.mosaic for place in places], dtype=np.int64) * _FAR + at
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.unique(ordered)  # where the held-out end may begin
    held = len(places) - np.searchsorted(ordered, starts)
    fit = np.searchsorted(ordered, starts - 2 * size, side="right")
    wanted = spec.held_out if spec.held_out >= 1 else spec.held_out * (fit + held)
    best = int(np.argmin(np.abs(held - wanted)))
    kept = [*order[: fit[best]].tolist(), *order[len(places) - held[best] :].tolist()]
    return kept, int(held[best])


def _name(stem: str, place: Place, size: int, planes: int) -> str:
    plane = f"{place.plane}, " if planes > 1 else ""
    window = f"[{plane}{place.y}:{place.y + size}, {place.x}:{place.x + size}]"
    return f"{place.name} {stem}{window}".strip()


def _require_alike(first: Mosaic, other: Mosaic, file: str) -> None:
    if (first.unit, first.channels) != (other.unit, other.channels):
        raise TargetError(
            f"{file}: got unit '{other.unit}' and {other.channels} channels; expected "
            f"'{first.unit}' and {first.channels} as in {first.stem}; convert the mosaics"
        )
