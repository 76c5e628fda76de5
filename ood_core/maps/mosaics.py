"""Large maps of which windows are read, and the catalogue of positions in them.

FITS images and `.npy` arrays are read window by window; other formats, and files with mask or
weight planes, are read whole, within `targets.max_bytes`.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ood_core.config.targets import CutoutsSpec, TargetsSpec
from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps import paths
from ood_core.maps.fits import header_text, is_fits, opened_fits, physical
from ood_core.maps.mapset import require_count
from ood_core.maps.numpy_files import is_npy, mapped_npy, require_no_name
from ood_core.maps.readers import head_of, read_maps

Window = Callable[[int, int, int, int], NDArray[Any]]


@final
@dataclass(frozen=True, slots=True)
class Mosaic:
    """A large map, open for reading.

    Attributes:
        planes: number of maps in it.
        channels: of each.
        height: rows.
        width: columns.
        window: values (c, size, size) at `(plane, y, x, size)`; NaN is missing.
        unit: physical unit.
        header: FITS header cards as text.
        stem: its name in names of maps.
    """

    planes: int
    channels: int
    height: int
    width: int
    window: Window
    unit: str
    header: str
    stem: str


@contextmanager
def opened_mosaic(path: str, spec: TargetsSpec) -> Iterator[Mosaic]:
    """Open a file as a mosaic.

    Raises:
        TargetError: it cannot be read as one.
    """
    head = head_of(path)
    stem = re.sub(r"(\.(fits?|fts|npy|npz|zarr|h5|nc))?(\.\w+)*$", "", Path(path).name)
    lazily = spec.axes is None and not (spec.missing.mask or spec.missing.weights)
    if lazily and is_npy(path, head):
        require_no_name(spec.array, path)
        array = mapped_npy(path, spec.limits)
        yield _of_array(array, path, stem, "", "", lambda part: np.asarray(part, np.float64))
    elif lazily and is_fits(path, head):
        with opened_fits(path, spec.array, spec.limits, lazily=True) as (hdus, chosen):
            if len(chosen) > 1 or not hdus[chosen[0]].is_image:
                raise TargetError(
                    f"{path}: got {len(chosen)} HDUs to cut maps from; expected one image; name it "
                    "with `array`"
                )
            hdu = hdus[chosen[0]]
            cards = hdu.header
            words = [cards.get(name) for name in ("BSCALE", "BZERO", "BLANK")]
            unit = str(cards.get("BUNIT", hdus[0].header.get("BUNIT", "")) or "").strip()
            yield _of_array(
                hdu.section, path, stem, unit, header_text(hdu), lambda part: physical(part, *words)
            )
    else:
        maps = read_maps(path, spec.array, spec.limits, spec.axes, spec.missing)
        n, c, height, width = maps.values.shape
        yield Mosaic(
            n, c, height, width,
            lambda plane, y, x, size: maps.values[plane, :, y : y + size, x : x + size],
            maps.unit, maps.header, stem,
        )  # fmt: skip


def _of_array(
    array: Any,
    path: str,
    stem: str,
    unit: str,
    header: str,
    decode: Callable[[NDArray[Any]], NDArray[np.float64]],
) -> Mosaic:
    """A mosaic of an array that can be cut: (y, x) or planes (n, y, x), after axes of length 1."""
    shape = tuple(array.shape)
    extra = max(0, len(shape) - 3)
    if len(shape) < 2 or any(side != 1 for side in shape[:extra]):
        raise TargetError(
            f"{path}: got an array of shape {shape}; expected a mosaic (y, x) or planes (n, y, x); "
            "say what the axes are with targets.axes"
        )
    planes = shape[extra] if len(shape) > 2 else 1

    def window(plane: int, y: int, x: int, size: int) -> NDArray[Any]:
        at = (0,) * extra + ((plane,) if len(shape) > 2 else ())
        part = array[(*at, slice(y, y + size), slice(x, x + size))]
        return decode(np.asarray(part))[None]

    return Mosaic(planes, 1, shape[-2], shape[-1], window, unit, header, stem)


@final
@dataclass(frozen=True, slots=True)
class Catalogue:
    """Positions of sources.

    Attributes:
        first: longitude in degrees, or x in pixels, 0 being the centre of the first.
        second: latitude in degrees, or y in pixels.
        frame: of longitude and latitude, as astropy calls it; None of pixels.
        names: of the sources.
        path: the file.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    frame: str | None
    names: tuple[str, ...]
    path: str


def read_catalogue(spec: CutoutsSpec | None, limits: Limits) -> Catalogue:
    """Read a table of positions: FITS, VOTable, ECSV, CSV or plain columns.

    Raises:
        TargetError: no such file, table, or columns of numbers.
    """
    assert spec is not None, "asked for by the caller"
    path = next(paths.matches(spec.catalogue), spec.catalogue)
    try:
        from astropy.io.registry import IORegistryError
        from astropy.table import Table

        if Path(path).stat().st_size > limits.max_bytes:
            raise ValueError(f"more than {limits.max_bytes} bytes (targets.max_bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                table = Table.read(path)
            except IORegistryError:
                table = Table.read(path, format="ascii")
            columns = spec.columns
            missing = [name for name in columns if name not in table.colnames]
            if missing:
                raise TargetError(
                    f"{path}: got the columns {', '.join(table.colnames)[:500]}; expected "
                    f"{' and '.join(missing)}; correct targets.cutouts"
                )
            _require_frame(spec, path)
            first, second = (_numbers(table[name], bool(spec.frame)) for name in columns)
            if spec.frame and (np.abs(second) > 90).any():
                raise ValueError(f"{np.nanmax(np.abs(second)):.6g} degrees in {columns[1]}")
            known = next((name for name in table.colnames if name.upper() in _NAMES), None)
            names = range(len(table)) if known is None else table[known]
    except TargetError:
        raise
    except Exception as error:  # readers of tables raise anything
        raise TargetError(
            f"{path}: got no table that can be read ({' '.join(str(error).split())[:300]}); "
            "expected FITS, VOTable, ECSV or CSV; correct targets.cutouts.catalogue"
        ) from error
    require_count(len(first), path, limits.max_maps)
    return Catalogue(first, second, spec.frame, tuple(str(n).strip() for n in names), path)


_NAMES = ("ID", "NAME", "SOURCE_ID", "OBJID")
_GALACTIC = ("L", "GLON", "GAL_L", "GALACTIC_L")
"""Names that right ascensions never have."""


def _require_frame(spec: CutoutsSpec, path: str) -> None:
    """Refuse galactic longitudes that were given as right ascensions: both are degrees."""
    if spec.ra and spec.ra.upper() in _GALACTIC:
        raise TargetError(
            f"{path}: got the column {spec.ra!r} as right ascensions; expected ICRS; name columns "
            "of galactic coordinates with glon and glat in targets.cutouts"
        )


def _numbers(column: Any, on_sky: bool) -> NDArray[np.float64]:
    """A column as numbers, angles in degrees."""
    unit = getattr(column, "unit", None)
    if on_sky and unit is not None:
        column = column.quantity.to("deg") if hasattr(column, "quantity") else column.to("deg")
    plain = np.ma.asarray(getattr(column, "value", column))
    if plain.dtype.kind not in "biuf":
        first = str(next(iter(plain), ""))[:30]
        raise ValueError(f"{column.name} has {first!r}, no number: give degrees, or a unit")
    values: Any = np.ma.filled(plain.astype(float), np.nan)
    return np.asarray(values, dtype=np.float64)


def positions(catalogue: Catalogue, mosaic: Mosaic, mosaics: int) -> NDArray[np.float64]:
    """Positions as (y, x) in pixels of a mosaic; NaN where the sky does not meet its plane.

    Raises:
        TargetError: a mosaic without celestial coordinates, or pixels in one of several mosaics.
    """
    if catalogue.frame is None:
        if mosaics > 1:
            raise TargetError(
                f"{catalogue.path}: got positions in pixels for {mosaics} mosaics; expected one; "
                "give ra and dec, or one mosaic"
            )
        return np.stack([catalogue.second, catalogue.first], 1)
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(Header.fromstring(mosaic.header, sep="\n")).celestial
            if not wcs.has_celestial:
                raise ValueError("no celestial axes")
            wcs.wcs.set()  # finds which axis is the longitude
            world = _in_frame_of(wcs, catalogue)[:: 1 if wcs.wcs.lng < wcs.wcs.lat else -1]
            x, y = wcs.all_world2pix(*world, 0, quiet=True)
        except Exception as error:  # of WCSLIB: many
            raise TargetError(
                f"{mosaic.stem}: got a header without a usable celestial WCS "
                f"({' '.join(str(error).split())[:200]}); expected one for ra and dec; name pixel "
                "columns with x and y instead"
            ) from error
    return np.stack([y, x], 1)


def _in_frame_of(wcs: Any, catalogue: Catalogue) -> tuple[NDArray[np.float64], ...]:
    """Longitude and latitude in degrees, in the frame of a mosaic.

    Frames of the year 2000 differ by less than 0.1 arc second, and catalogues are often made on the
    mosaic itself: these count as one. A frame that astropy has no name for, such as one of the Sun,
    is that of the catalogue.
    """
    from astropy.coordinates import FK5, ICRS, SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    try:
        frame = wcs_to_celestial_frame(wcs)
    except ValueError:
        return catalogue.first, catalogue.second
    if isinstance(frame, FK5) and frame.equinox.jyear == 2000:
        frame = ICRS()
    if frame.name == catalogue.frame:
        return catalogue.first, catalogue.second
    known = np.isfinite(catalogue.first) & np.isfinite(catalogue.second)
    longitude, latitude = (np.full(len(known), np.nan) for _ in range(2))
    there = SkyCoord(
        catalogue.first[known], catalogue.second[known], unit="deg", frame=catalogue.frame
    ).transform_to(frame)
    longitude[known], latitude[known] = there.spherical.lon.deg, there.spherical.lat.deg
    return longitude, latitude
