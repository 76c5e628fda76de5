"""The targets of a run: real maps, split and ranged, with everything that is known of them.

A `TargetSet` is made once, from files or from arrays. It refuses what the method cannot take, and
measures the transform to model range on the fit split, here and nowhere else.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.arrays import Maps, row_major
from ood_core.config.targets import (
    CutoutsSpec,
    Duplicates,
    MissingSpec,
    Symmetry,
    TargetsSpec,
    TilesSpec,
    TransformChoice,
)
from ood_core.errors import TargetError, TargetWarning
from ood_core.limits import USUAL
from ood_core.maps.advice import chosen_transform
from ood_core.maps.centre import on_pixel
from ood_core.maps.checks import (
    find_identical,
    require_known,
    require_pixels,
    require_split,
    without_copies,
)
from ood_core.maps.mapset import MapSet, as_stack, numbered_ids
from ood_core.maps.memory import from_memory
from ood_core.maps.missing import drawn, filled
from ood_core.maps.notes import coarse_steps, mixed_scales, order_of_files
from ood_core.maps.quantization import Quantization
from ood_core.maps.readers import read_maps
from ood_core.maps.tiles import cut_maps
from ood_core.maps.transforms import RangeTransform
from ood_core.numerics.tents import lowered

MIN_SIDE = 16
"""Pixels of a side, or codes of one, at least: symmetries and wavelets need them."""

NOTHING = MissingSpec()
"""Maps with missing pixels are refused."""

Values = NDArray[np.float32]


@final
@dataclass(frozen=True, eq=False)
class TargetSet:
    """Real maps of one kind, the fit split first and the held-out split after it.

    Make one with `read`, `from_arrays` or `of`; these measure the transform and check the maps.

    Attributes:
        values: all maps, float32, shape (n, c, y, x), in `unit`.
        ids: one name per map, all different.
        unit: physical unit, '' when the files state none.
        header: FITS header cards as text, as in `MapSet`; '' when there are none.
        source: where the maps came from, for messages.
        transform: physical values to model range and back, measured on the fit split.
        symmetries: changes that leave the maps' distribution as it is, as the user declared them;
            with `centred` where the maps say so (`ood_core.maps.centre`).
        fit_count: number of maps of the fit split.
        model_range: all maps in model range, float32, shape (n, c, y, x); missing pixels are drawn
            given the others, however they are filled in `values` (`ood_core.maps.missing`).
        codes: codes of all maps, for a model with an autoencoder; else None.
        notes: what a user should know of these maps; also given as `TargetWarning`.
        missing: which pixels the files lacked, shape (n, c, y, x); None where they lacked none.
        places: where each map lies: number of the file, first row and first column, shape (n, 3);
            None where that is not known.
    """

    values: Values
    ids: tuple[str, ...]
    unit: str
    header: str
    source: str
    transform: RangeTransform
    symmetries: tuple[Symmetry, ...]
    fit_count: int
    model_range: Maps
    codes: Maps | None = None
    notes: tuple[str, ...] = ()
    missing: NDArray[np.bool_] | None = None
    places: NDArray[np.int64] | None = None

    @classmethod
    def read(
        cls,
        path: str,
        *,
        array: str | None = None,
        axes: str | None = None,
        transform: TransformChoice = "linear",
        per_channel: bool = False,
        symmetries: Sequence[Symmetry] = (),
        held_out: float = 0.5,
        duplicates: Duplicates = "refuse",
        missing: MissingSpec = NOTHING,
        tiles: TilesSpec | None = None,
        cutouts: CutoutsSpec | None = None,
        max_bytes: int = USUAL.max_bytes,
        max_maps: int = USUAL.max_maps,
    ) -> Self:
        """Read maps from files.

        Args:
            path: a FITS, NumPy, Zarr or HDF5 file or folder, a folder of such files, or a pattern
                of them. `$NAME` and `~` are replaced. Files are read in natural order of their
                names.
            array: which HDU, member or array holds the maps, where a file has several.
            axes: what each axis of the array is, such as `nyxc`, where the order is another than
                (n, c, y, x).
            transform: how values are stretched on their way to model range; `auto` takes
                the advice of `ood_core.maps.advice`.
            per_channel: whether it is measured for every channel by itself.
            symmetries: changes that leave the maps' distribution as it is.
            held_out: fraction of the maps, or number of them from 1 upwards, that is never fitted
                to; the last ones in order.
            duplicates: `refuse` held-out maps that are nearly fit targets, or `leave_out` these.
            missing: pixels without a value, and how they are filled.
            tiles: cuts the files into tiles.
            cutouts: cuts maps around the positions of a catalogue.
            max_bytes: most bytes of all maps together, as stored and as float32.
            max_maps: most maps, and files or parts of files that they lie in.

        Raises:
            ConfigError: an impossible argument.
            TargetError: files that cannot be read, or maps that the method cannot take.
        """
        spec = TargetsSpec(
            path=str(path),
            array=array,
            axes=axes,
            transform=transform,
            per_channel=per_channel,
            symmetries=tuple(symmetries),
            held_out=held_out,
            duplicates=duplicates,
            missing=missing,
            tiles=tiles,
            cutouts=cutouts,
            max_bytes=max_bytes,
            max_maps=max_maps,
        )
        return cls.of(spec)

    @classmethod
    def from_arrays(
        cls,
        values: Any,
        *,
        unit: str = "",
        ids: Sequence[str] | None = None,
        header: str = "",
        source: str = "arrays",
        transform: TransformChoice = "linear",
        per_channel: bool = False,
        symmetries: Sequence[Symmetry] = (),
        held_out: float = 0.5,
        duplicates: Duplicates = "refuse",
        missing: MissingSpec = NOTHING,
    ) -> Self:
        """Take maps from memory.

        Args:
            values: real numbers, shape (n, y, x) or (n, c, y, x), in `unit`; masks and units of
                masked arrays, `Quantity`, `NDData` and xarray are kept.
            unit: physical unit; '' takes that of the values.
            ids: one name per map; None numbers them.
            header: FITS header cards as text, one per line.
            source: where the maps came from, for messages.
            transform: how values are stretched on their way to model range; `auto` takes
                the advice of `ood_core.maps.advice`.
            per_channel: whether it is measured for every channel by itself.
            symmetries: changes that leave the maps' distribution as it is.
            held_out: as in `read`.
            duplicates: `refuse` held-out maps that are nearly fit targets, or `leave_out` these.
            missing: how NaN is filled.

        Raises:
            ConfigError: an impossible argument.
            TargetError: maps that the method cannot take.
        """
        numbers, unit = from_memory(values, unit, source)
        stack = as_stack(numbers, source)
        names = tuple(ids) if ids is not None else numbered_ids("map", len(stack))
        spec = TargetsSpec(
            path=source,
            transform=transform,
            per_channel=per_channel,
            symmetries=tuple(symmetries),
            held_out=held_out,
            duplicates=duplicates,
            missing=missing,
        )
        return cls._measured(MapSet(stack, names, unit, header, source), spec)

    @classmethod
    def of(cls, spec: TargetsSpec) -> Self:
        """Read the maps that a configuration names, as `read` does."""
        if spec.tiles or spec.cutouts:
            return cls._measured(*cut_maps(spec))
        return cls._measured(
            read_maps(spec.path, spec.array, spec.limits, spec.axes, spec.missing), spec
        )

    @classmethod
    def _measured(cls, maps: MapSet, spec: TargetsSpec) -> Self:
        """Check maps, measure the transform on the fit split, and bring all to model range."""
        require_known(spec)
        fit = spec.fit_count(len(maps))
        require_split(maps, fit)
        values, missing, told = filled(maps.values, maps.ids, fit, spec.missing, maps.source)
        known, maps = maps.values[:fit], replace(maps, values=values)
        require_pixels(maps)
        maps, missing = without_copies(maps, missing, fit, spec)
        notes = (*maps.notes, *told, *order_of_files(spec.path, maps, fit))
        notes += (*find_identical(maps, fit), *coarse_steps(maps), *mixed_scales(maps))
        kind, reasons = chosen_transform(spec.transform, known)
        notes += tuple(f"{maps.source}: {reason}" for reason in reasons)
        constant = _constant_channels(known)
        notes += tuple(
            f"{maps.source}: channel {channel} is {value:.6g} in all fitted maps: samples get that "
            "value exactly; it says nothing of how good they are"
            for channel, value in constant.items()
        )
        for note in notes:
            warnings.warn(note, TargetWarning, stacklevel=4)
        try:
            transform = (
                RangeTransform.measure_each(kind, known)
                if spec.per_channel
                else RangeTransform.measure(kind, known[~np.isnan(known)])
            )
            whole = maps.values if missing is None else drawn(maps.values, missing, maps.ids, fit)
            ranged = torch.from_numpy(transform.forward(whole))
        except TargetError as error:
            raise TargetError(f"{maps.source}: {error}") from error
        symmetries = tuple(spec.symmetries)
        if on_pixel(ranged[:fit], symmetries):
            symmetries += ("centred",)
        return cls(
            values=maps.values,
            ids=maps.ids,
            unit=maps.unit,
            header=maps.header,
            source=maps.source,
            transform=transform,
            symmetries=symmetries,
            fit_count=fit,
            model_range=ranged,
            notes=notes,
            missing=missing,
            places=maps.places,
        )

    def __len__(self) -> int:
        """Number of maps."""
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a map."""
        channels, height, width = self.values.shape[1:]
        return channels, height, width

    @property
    def fit(self) -> Values:
        """The maps that are fitted to, in `unit`."""
        return self.values[: self.fit_count]

    @property
    def held_out(self) -> Values:
        """The maps that are never fitted to, in `unit`."""
        return self.values[self.fit_count :]

    @property
    def fit_ranged(self) -> Maps:
        """The maps that are fitted to, in model range."""
        return self.model_range[: self.fit_count]

    @property
    def held_out_ranged(self) -> Maps:
        """The maps that are never fitted to, in model range."""
        return self.model_range[self.fit_count :]

    @property
    def sides(self) -> NDArray[np.float64] | None:
        """Where maps lie: file, and row and column in sides of a map."""
        if self.places is None:
            return None
        sides: NDArray[np.float64] = self.places / [1, *self.shape[1:]]
        return sides

    @property
    def fit_seen(self) -> Maps:
        """The fit split as the model sees it: codes where it has an autoencoder, else maps."""
        return self.fit_ranged if self.codes is None else self.codes[: self.fit_count]

    @cached_property
    def quantization(self) -> Quantization:
        """How the numbers of the fit split are rounded and cut off."""
        return Quantization.measure(self.known[: self.fit_count])

    @property
    def known(self) -> Values:
        """All maps, NaN where the files lacked a pixel."""
        return self.values if self.missing is None else np.where(self.missing, np.nan, self.values)

    @cached_property
    def constant_channels(self) -> dict[int, np.float32]:
        """Channels that have one value in the whole fit split, and that value, in `unit`."""
        return _constant_channels(self.known[: self.fit_count])

    def physical(self, maps: Maps | Values) -> Values:
        """Bring maps from model range to `unit`; constant channels get their value exactly."""
        values = self.transform.inverse(np.asarray(maps))
        for channel, value in self.constant_channels.items():
            values[..., channel, :, :] = value
        return values

    def ranged(self, values: NDArray[Any]) -> Maps:
        """Bring maps from `unit` to model range."""
        return torch.from_numpy(self.transform.forward(values))

    def encoded(self, encode: Callable[[Maps], Maps] | None) -> Self:
        """Return the set with the codes that a model's autoencoder makes, if it has one."""
        return self if encode is None else replace(self, codes=row_major(encode(self.model_range)))

    def coarsened(self, factor: int) -> Self:
        """Return the set of coarse maps of those in model range (`ood_core.numerics.tents`)."""
        values = lowered(self.model_range.double(), factor).float().numpy()
        transform = RangeTransform.measure("linear", values[: self.fit_count])
        ranged = torch.from_numpy(transform.forward(values))
        source = f"{self.source}, {factor} times as coarse"
        return replace(
            self, values=values, unit="", header="", source=source, transform=transform,
            model_range=ranged, codes=None, notes=(), missing=None, places=None,
            symmetries=tuple(name for name in self.symmetries if name != "centred"),
        )  # fmt: skip

    def linear(self, maps: Maps) -> Maps:
        """Bring maps on any device from model range to `unit`, for a set of `coarsened`."""
        low, high = self.transform.low, self.transform.high
        if self.transform.kind != "linear" or isinstance(low, tuple) or isinstance(high, tuple):
            raise ValueError(f"got {self.transform}; expected one linear transform")
        return low + (maps + 1) * ((high - low) / 2)

    def framed(self, frame: "TargetSet") -> Self:
        """Return the set with the transform of another, and with what that has of the same maps.

        Raises:
            TargetError: the transform cannot take these maps.
        """
        whole = self.values
        if self.missing is not None:
            whole = drawn(whole, self.missing, self.ids, self.fit_count)
        ranged = torch.from_numpy(frame.transform.forward(whole))
        rows = {name: row for row, name in enumerate(self.ids)}
        for name, there in zip(frame.ids, frame.model_range, strict=True):
            if name in rows:
                ranged[rows[name]] = there
        return replace(
            self, transform=frame.transform, model_range=ranged, symmetries=frame.symmetries
        )

    def digest(self) -> str:
        """SHA-256 of shape, values, missing pixels, unit, ids and header, as 64 hexadecimal digits.

        What can be declared otherwise for the same maps does not enter: symmetries, transform and
        split are parts of a run's identity of their own.
        """
        whole = MapSet(self.values, self.ids, self.unit, self.header, self.source).digest()
        if self.missing is None:
            return whole
        return hashlib.sha256(whole.encode() + np.packbits(self.missing).tobytes()).hexdigest()

    def record(self) -> dict[str, Any]:
        """What of the set changes results: part of a run's identity."""
        return {
            "digest": self.digest(),
            "transform": self.transform.kind + " per channel" * self.transform.each,
            "symmetries": sorted(self.symmetries),
            "fit_count": self.fit_count,
        }

    def check(self, pixels_per_code: int = 1) -> None:
        """Refuse maps that are too small for the wavelets, or oblong ones that may be turned.

        Raises:
            TargetError: that is so.
        """
        _, height, width = self.shape
        least = MIN_SIDE * pixels_per_code
        if min(height, width) < least or ("rotate90" in self.symmetries and height != width):
            raise TargetError(
                f"{self.source}: got maps of {height} x {width} px; expected at least {least} px a "
                "side, as the wavelets need, and squares where the symmetry rotate90 is declared: "
                "cut the maps, or declare flip alone"
            )


def _constant_channels(fit: Values) -> dict[int, np.float32]:
    low, high = (edge(fit, axis=(0, 2, 3)) for edge in (np.nanmin, np.nanmax))
    return {int(channel): low[channel] for channel in np.flatnonzero(low == high)}


def common_transform(sets: Sequence[TargetSet]) -> RangeTransform:
    """Measure one transform, of the first set's kind, on the fit splits of several sets."""
    pooled = np.concatenate([targets.fit for targets in sets])
    first = sets[0].transform
    return (RangeTransform.measure_each if first.each else RangeTransform.measure)(
        first.kind, pooled
    )
