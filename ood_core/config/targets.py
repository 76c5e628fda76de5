"""Which target maps are read, and how; part of the configuration file."""

from dataclasses import dataclass
from typing import Literal, final

from ood_core.errors import require
from ood_core.limits import USUAL, Limits

Symmetry = Literal["flip", "rotate90", "translate", "centred"]
TransformKind = Literal["linear", "log", "asinh"]
Duplicates = Literal["refuse", "leave_out"]
Split = Literal["regions", "order"]
TransformChoice = Literal["linear", "log", "asinh", "auto"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MissingSpec:
    """Pixels without a value: which they are beside NaN, and what becomes of them.

    Attributes:
        mask: name of a plane, as for `array`, whose pixels are missing where it is not zero.
        weights: name of a plane whose pixels are missing where it is zero.
        fill: `nearest` pixel, `gaussian` (the mean given the other pixels, by the spectrum of the
            fitted maps) or `constant`; null refuses maps with missing pixels.
        value: of `constant`.
        limit: largest share of a map's pixels that may be missing.
    """

    mask: str | None = None
    weights: str | None = None
    fill: Literal["nearest", "gaussian", "constant"] | None = None
    value: float = 0.0
    limit: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.limit < 1, f"limit: got {self.limit}; expected 0 or more, below 1")
        require(self.value - self.value == 0, f"value: got {self.value}; expected a finite number")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TilesSpec:
    """Tiles of a grid that are cut from larger maps.

    Attributes:
        size: pixels of a side.
        stride: pixels from one tile to the next; null is `size`.
        min_coverage: least share of a tile's pixels that must not be missing.
        split: `regions` holds out one end of the mosaic, with a gap of one size; `order` takes the
            last tiles, row by row.
    """

    size: int
    stride: int | None = None
    min_coverage: float = 1.0
    split: Split = "regions"

    def __post_init__(self) -> None:
        require(self.size >= 1, f"size: got {self.size}; expected 1 or more")
        require(self.stride is None or self.stride >= 1, f"stride: got {self.stride}; expected 1")
        fine = 0 < self.min_coverage <= 1
        require(fine, f"min_coverage: got {self.min_coverage}; expected more than 0, at most 1")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CutoutsSpec:
    """Cut-outs around the positions of a catalogue.

    Attributes:
        catalogue: a table: FITS, VOTable, ECSV or CSV.
        size: pixels of a side.
        ra: column of right ascensions (ICRS), in its unit or in degrees.
        dec: column of declinations.
        glon: column of galactic longitudes; instead of `ra`.
        glat: column of galactic latitudes; instead of `dec`.
        x: column of pixels along x, 0 being the centre of the first; instead of `ra`.
        y: column of pixels along y; instead of `dec`.
        split: as of tiles; `order` is that of the catalogue.
    """

    catalogue: str
    size: int
    ra: str | None = None
    dec: str | None = None
    glon: str | None = None
    glat: str | None = None
    x: str | None = None
    y: str | None = None
    split: Split = "regions"

    def __post_init__(self) -> None:
        require(self.size >= 1, f"size: got {self.size}; expected 1 or more")
        names = ("ra", "dec", "glon", "glat", "x", "y")
        given = [name for name in names if getattr(self, name)]
        require(
            given in (["ra", "dec"], ["glon", "glat"], ["x", "y"]),
            "expected ra and dec, or glon and glat, or x and y",
        )

    @property
    def frame(self) -> Literal["icrs", "galactic"] | None:
        """Of positions on the sky; None of pixels."""
        return "icrs" if self.ra else "galactic" if self.glon else None

    @property
    def columns(self) -> tuple[str, str]:
        """Columns of the first and the second coordinate."""
        return (self.ra or self.glon or self.x or "", self.dec or self.glat or self.y or "")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsSpec:
    """Which files hold the targets, and how they are read and split.

    Attributes:
        path: a file, a folder or a pattern such as `clouds/*.fits`; formats are in
            `docs/targets.md`.
        array: the HDU, the `.npz` member, or the Zarr or HDF5 array, where there is a choice.
        axes: what each axis of the array is, such as `nyxc`, where they are not (n, c, y, x); in
            `docs/targets.md`.
        transform: how values are brought to model range; measured on the fit targets, recorded,
            invertible. `auto` takes the kind that `farfield inspect` advises.
        per_channel: measure the transform for every channel by itself, as channels of different
            units or brightness need; else one for all, which keeps their ratios.
        symmetries: changes that leave the targets' distribution as it is, as you declare. Flips
            and turns are about the middle; with `centred`, which is added where the fit targets
            say so, of even sides about pixel `side // 2`.
        held_out: a fraction below 1, or a number of maps. The last maps in file order are held
            out, so that a file in order of position keeps both splits apart.
        duplicates: what becomes of held-out maps that are nearly a fit target, over symmetries,
            shifts and contrast: `refuse` the targets, or `leave_out` these maps.
        missing: pixels without a value, and how they are filled.
        tiles: cuts the files into tiles.
        cutouts: cuts maps around positions out of the files.
        grow: other files than before make a new version of the data set, in a folder of its own
            under `--out`; of new files alone the maps are inverted.
        max_bytes: most bytes of all maps, as stored and as float32.
        max_maps: most maps, and most files, HDUs or members that they lie in.
        max_header_bytes: most bytes of one file that are no pixels.
    """

    path: str
    array: str | None = None
    axes: str | None = None
    transform: TransformChoice = "linear"
    per_channel: bool = False
    symmetries: tuple[Symmetry, ...] = ()
    held_out: float = 0.5
    duplicates: Duplicates = "refuse"
    missing: MissingSpec = MissingSpec()
    tiles: TilesSpec | None = None
    cutouts: CutoutsSpec | None = None
    grow: bool = False
    max_bytes: int = USUAL.max_bytes
    max_maps: int = USUAL.max_maps
    max_header_bytes: int = USUAL.max_header_bytes

    def __post_init__(self) -> None:
        require("\0" not in self.path, "path: got a NUL character; correct the path")
        for name in ("max_bytes", "max_maps", "max_header_bytes"):
            require(getattr(self, name) >= 1, f"{name}: expected 1 or more")
        require(not (self.tiles and self.cutouts), "tiles and cutouts: expected one of them")
        if self.axes is not None:
            kept = self.axes.replace("1", "")
            fine = set("yx") <= set(kept) <= set("ncyx") and len(set(kept)) == len(kept)
            require(fine, f"axes: got {self.axes!r}; expected y and x, and n, c or 1, each once")
        require(self.held_out > 0, f"held_out: got {self.held_out}; expected more than 0")
        require(
            self.held_out < 1 or float(self.held_out).is_integer(),
            f"held_out: got {self.held_out}; expected a fraction below 1 or a whole number of maps",
        )
        require(len(set(self.symmetries)) == len(self.symmetries), "symmetries: named twice")
        about = {"flip", "rotate90"} & set(self.symmetries) and "translate" not in self.symmetries
        require(
            "centred" not in self.symmetries or bool(about),
            "symmetries: got centred; expected it with flip or rotate90, and without translate",
        )

    @property
    def limits(self) -> Limits:
        """Most that is read of the files."""
        return Limits(
            max_bytes=self.max_bytes,
            max_maps=self.max_maps,
            max_header_bytes=self.max_header_bytes,
        )

    def fit_count(self, maps: int) -> int:
        """Number of maps, counted from the first, that are fitted to; the others are held out."""
        held = self.held_out if self.held_out >= 1 else round(maps * self.held_out)
        return max(0, maps - int(held))
