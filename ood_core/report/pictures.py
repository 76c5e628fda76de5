"""Maps as pictures: one perceptual colour scale for all, one palette PNG per map.

The scale is `asinh((v - middle) / width)` between two percentiles of the real maps: linear for
values near the median, logarithmic for bright tails, so that a Gaussian field and a star field are
both legible. PNGs are written with the 256 colours of the scale as their palette, so they hold the
quantised field exactly and stay small.

The contact sheet of a run: real targets beside synthetic maps, on one colour scale.

Pictures of a walk between targets: a strip of its maps, and the same as an animation.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from ood_core.errors import InputError
from ood_core.report.figures import LIGHT
from ood_core.report.record import PhysicalMaps

COLOURS = "inferno"
LACKING = "#9a9a9a"
"""Pixels without a value: the scale has no grey."""
CUT = (0.5, 99.8)  # percentiles of the real pixels at the ends of the scale
SMALLEST_SIDE = 256  # pixels of a picture: sharp at twice the size it is shown at
LARGEST_SIDE = 256
KINDS = ("png", "svg", "pdf")
MAP_INCHES = 5.0
TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """Colour scale shared by real and synthetic maps, in physical units."""

    low: float
    high: float
    middle: float
    width: float

    @classmethod
    def fit(cls, values: Float[np.ndarray, "..."]) -> "Stretch":
        """Fit to the finite values of real maps."""
        finite = values[np.isfinite(values)]
        finite = finite if finite.size else np.zeros(1)
        low, quarter, middle, upper, high = np.percentile(finite, [CUT[0], 16, 50, 84, CUT[1]])
        least = 1e-6 * max(abs(middle), 1e-30)
        width = max(upper - quarter, least)
        return cls(float(low), float(max(high, low + width)), float(middle), float(width))

    def __call__(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the position of values on the scale, in [0, 1]."""
        low, high = self._bend(np.array([self.low, self.high]))
        bent = self._bend(np.nan_to_num(values, nan=self.low))
        return np.asarray(np.clip((bent - low) / (high - low), 0, 1))

    def ticks(self) -> list[tuple[float, float]]:
        """Return evenly spread `(place, value)` marks of the colour bar."""
        low, high = self._bend(np.array([self.low, self.high]))
        places = np.linspace(0, 1, TICKS)
        values = self.middle + self.width * np.sinh(low + (high - low) * places)
        return [(float(p), float(v)) for p, v in zip(places, values, strict=True)]

    def _bend(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return np.asarray(np.arcsinh((values.astype(np.float64) - self.middle) / self.width))


def map_png(field: Float[np.ndarray, "y x"], stretch: Stretch) -> bytes:
    """Return one map as PNG, pixels kept square and sharp; large maps are averaged down first."""
    field = shrink(field, LARGEST_SIDE)
    levels = np.round(255 * stretch(field)).astype(np.uint8)
    repeat = max(1, -(-SMALLEST_SIDE // max(field.shape)))
    return _palette_png(levels.repeat(repeat, 0).repeat(repeat, 1))


def picture_kind(name: str) -> str:
    """Return the kind of picture that a file's name ends with: png, svg or pdf.

    Raises:
        InputError: another ending.
    """
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if ending not in KINDS:
        raise InputError(f"{name}: got the ending {ending!r}; expected .png, .svg or .pdf")
    return ending


def map_figure(
    field: Float[np.ndarray, "y x"], stretch: Stretch, unit: str, name: str, kind: str
) -> bytes:
    """Draw one synthetic map with its colour bar, as a PNG, SVG or PDF; its title says what it is.

    Args:
        field: the map, in physical units.
        stretch: colour scale.
        unit: physical unit for the colour bar; '' says that there is none.
        name: what the map is called.
        kind: `png`, `svg` or `pdf`.
    """
    figure = Figure(figsize=(MAP_INCHES, MAP_INCHES * 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        stretch(field), COLOURS, vmin=0, vmax=1, origin="lower", interpolation="nearest"
    )  # fmt: skip
    axes.set_axis_off()
    title = f"{' '.join(name.split())}\nSYNTHETIC map, not an observation"
    figure.suptitle(title, fontsize=10, color=LIGHT.ink, parse_math=False)
    _colour_bar(figure, [axes], stretch, unit)
    return _saved(figure, kind, "SYNTHETIC map, not an observation.")


def _saved(figure: Figure, kind: str, words: str) -> bytes:
    """The figure as a file of a kind, without its date, so that the same maps give the same."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    metadata: dict[str, str | None] = {
        "png": {"Software": None, "Description": words},
        "svg": {"Date": None, "Description": words},
        "pdf": {"CreationDate": None, "Subject": words},
    }[kind]
    with rc_context({"svg.hashsalt": "farfield", "pdf.fonttype": 42}):
        figure.savefig(stream, format=kind, dpi=DOTS, facecolor="white", metadata=metadata)
    return stream.getvalue()


def scale_png() -> bytes:
    """Return the colour scale from low (left) to high (right), one pixel high."""
    return _palette_png(np.arange(256, dtype=np.uint8)[None])


def shrink(field: Float[np.ndarray, "y x"], side: int) -> Float[np.ndarray, "y x"]:
    """Average blocks of pixels until no side is longer; what does not fill a block is cut."""
    factor = -(-max(field.shape) // side)
    height, width = (size // factor * factor for size in field.shape)
    blocks = field[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean((1, 3)))


def _palette_png(levels: UInt8[np.ndarray, "y x"]) -> bytes:
    # Row 0 of an image is its top; maps have their origin at the bottom, as FITS viewers show it.
    image = Image.fromarray(np.ascontiguousarray(levels[::-1])).convert("P")
    palette = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    image.putpalette(np.asarray(palette).tobytes())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


SHEET_COLUMNS = 8  # maps in a row of either half
SHEET_ROWS = 4
MAX_SHEET_ROWS = 40  # beyond, the picture is too tall to be opened
CELL = 1.0  # inches a map
DOTS = 160  # per inch
SHEET_GAP = 0.04  # of a map


def short(value: Any) -> str:
    """Return a number in three significant digits and anything else as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "not finite"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:#.3g}".rstrip(".") if abs(value) < 100 else f"{value:,.0f}"


def even_rows(count: int, most: int) -> list[int]:
    """Return at most `most` rows of `count`, at even steps, first and last included."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


def contact_sheet(
    real: PhysicalMaps,
    samples: PhysicalMaps,
    unit: str,
    name: str,
    rows: int = SHEET_ROWS,
    kind: str = "png",
) -> bytes:
    """Draw the first channel of real and synthetic maps, taken at even steps, as a picture.

    The synthetic half says so in the picture and in the file's text.

    Args:
        real: the fit targets, in physical units; they set the colour scale.
        samples: synthetic maps, in the same units.
        unit: physical unit for the colour bar; '' says that there is none.
        name: name of the run.
        rows: rows of maps; eight maps a row on either side.
        kind: `png`, `svg` or `pdf`.

    Raises:
        InputError: `rows` out of range, or no maps.
    """
    if not 1 <= rows <= MAX_SHEET_ROWS:
        raise InputError(f"got {rows} rows; expected 1 to {MAX_SHEET_ROWS}: change --rows")
    if not (len(real) and len(samples)):
        raise InputError("got no maps on one side; expected real and synthetic ones: run it first")
    stretch = Stretch.fit(real[:, 0])
    figure = Figure(
        figsize=(2 * SHEET_COLUMNS * CELL + 0.6, rows * CELL + 1.4), layout="constrained"
    )
    halves = figure.subplots(1, 2)
    for axes, maps, noun, colour in zip(
        halves,
        (real, samples),
        ("real targets", "SYNTHETIC maps, not observations"),
        (LIGHT.real, LIGHT.samples),
        strict=True,
    ):
        chosen = even_rows(len(maps), rows * SHEET_COLUMNS)
        _tiles(axes, [stretch(shrink(maps[i, 0], LARGEST_SIDE)) for i in chosen], rows)
        axes.set_title(f"{noun} ({len(chosen)} of {len(maps):,})", color=colour, fontsize=11)
    # Names and units come from files: a `$` in them is a dollar, not the start of a formula.
    figure.suptitle(" ".join(name.split()), fontsize=13, color=LIGHT.ink, parse_math=False)
    _colour_bar(figure, list(halves), stretch, unit)
    return _saved(figure, kind, "Left: real targets. Right: SYNTHETIC maps.")


def target_sheet(values: PhysicalMaps, unit: str, name: str, kind: str = "png") -> bytes:
    """Draw the first channel of real maps, taken at even steps, and how their values lie.

    Args:
        values: real maps, in physical units; pixels that are not finite are missing, and grey. So
            is a pixel of a map that was averaged down, if it lacks a part.
        unit: physical unit; '' says that there is none.
        name: of the set.
        kind: `png`, `svg` or `pdf`.
    """
    finite = values[:, 0][np.isfinite(values[:, 0])].astype(np.float64)
    stretch = Stretch.fit(finite)
    width = 2 * SHEET_COLUMNS * CELL + 0.6
    figure = Figure(figsize=(width, SHEET_ROWS * CELL + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    chosen = even_rows(len(values), SHEET_ROWS * SHEET_COLUMNS)
    known = np.where(np.isfinite(values[chosen, 0]), values[chosen, 0], np.nan)
    small = [shrink(field, LARGEST_SIDE) for field in known]
    levels = [np.where(np.isnan(field), np.nan, stretch(field)) for field in small]
    _tiles(left, levels, SHEET_ROWS)
    told = "; grey: no value" if len(finite) < values[:, 0].size else ""
    title = f"{len(chosen)} of {len(values):,} maps{told}"
    left.set_title(title, color=LIGHT.ink, fontsize=11)
    right.hist(stretch(finite), bins=128, color=LIGHT.real)
    right.set_yscale("log")
    places, ticks = zip(*stretch.ticks(), strict=True)
    right.set_xticks(list(places), labels=[short(value) for value in ticks])
    right.set_title("values of all pixels, on the colour scale", color=LIGHT.ink, fontsize=11)
    right.set_xlabel(" ".join(unit.split()) or "no unit", color=LIGHT.ink, parse_math=False)
    right.set_ylabel("pixels", color=LIGHT.ink)
    figure.suptitle(" ".join(name.split()), fontsize=13, color=LIGHT.ink, parse_math=False)
    _colour_bar(figure, [left], stretch, unit)
    return _saved(figure, kind, "Real maps.")


def _tiles(axes: Axes, levels: list[Float[np.ndarray, "y x"]], rows: int) -> None:
    """Show maps in a grid from the top left, each upright: its row 0 at the bottom; NaN is grey."""
    height, width = levels[0].shape
    axes.set_axis_off()
    for number, tile in enumerate(levels):
        row, column = divmod(number, SHEET_COLUMNS)
        box = (column + SHEET_GAP, column + 1 - SHEET_GAP, row + 1 - SHEET_GAP, row + SHEET_GAP)
        axes.imshow(
            tile, colormaps[COLOURS].with_extremes(bad=LACKING), vmin=0, vmax=1, origin="lower",
            extent=box, aspect=height / width, interpolation="nearest",
        )  # fmt: skip
    axes.set(xlim=(0, SHEET_COLUMNS), ylim=(rows, 0))


def _colour_bar(figure: Figure, halves: list[Axes], stretch: Stretch, unit: str) -> None:
    mappable = ScalarMappable(cmap=colormaps[COLOURS])
    mappable.set_clim(0, 1)
    bar = figure.colorbar(
        mappable, ax=halves, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02
    )
    places, values = zip(*stretch.ticks(), strict=True)
    bar.set_ticks(list(places), labels=[short(value) for value in values])
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=LIGHT.ink, labelsize=9)
    bar.ax.set_xlabel(" ".join(unit.split()) or "no unit", color=LIGHT.ink, parse_math=False)


STRIP_COLUMNS = 13  # maps in a row of the strip; of longer walks some are left out
FRAME_MS, END_MS = 120, 700  # an animation rests at both ends
MIN_SIDE = 192  # pixels of a map in an animation
STRIP_GAP = 6  # pixels


@final
@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Maps from one real target on, in physical units; `end` is None where no target is reached."""

    title: str
    start: PhysicalMaps
    maps: PhysicalMaps
    end: PhysicalMaps | None


def strip(paths: Sequence[Path], shares: Sequence[float], stretch: Stretch, title: str) -> bytes:
    """Draw one row per path, real targets at its ends, as a PNG; the first channel is shown.

    Synthetic maps are said to be such in the picture and in the PNG's text.
    """
    columns = np.unique(
        np.linspace(0, len(shares) - 1, min(len(shares), STRIP_COLUMNS)).round()
    ).astype(int)
    width = len(columns) + 2
    height = len(paths) * (CELL + 0.15) + 0.55
    figure = Figure(figsize=(width * (CELL + 0.08) + 0.2, height), layout="constrained")
    rows = figure.subplots(len(paths), width, squeeze=False)
    for row, path in zip(rows, paths, strict=True):
        _show(row[0], path.start, stretch, "real", LIGHT.real)
        row[0].set_ylabel(
            " ".join(path.title.split()), fontsize=8, color=LIGHT.ink, parse_math=False
        )
        for axes, column in zip(row[1:-1], columns, strict=True):
            _show(axes, path.maps[column], stretch, f"{shares[column]:.2f}", LIGHT.samples)
        if path.end is None:
            row[-1].set_axis_off()
        else:
            _show(row[-1], path.end, stretch, "real", LIGHT.real)
    # Names come from files: a `$` in them is a dollar, not the start of a formula.
    heading = f"{' '.join(title.split())}\nbetween the real ones: SYNTHETIC maps, not observations"
    figure.suptitle(heading, fontsize=10, color=LIGHT.ink, parse_math=False)
    return _saved(figure, "png", "Real targets at the ends, SYNTHETIC maps between.")


def animation(paths: Sequence[Path], stretch: Stretch) -> bytes:
    """Return a GIF that goes along all paths and back, side by side, coloured as the strip."""
    count = len(paths[0].maps)
    frames = [_frame([path.maps[i] for path in paths], stretch) for i in range(count)]
    times = [END_MS, *[FRAME_MS] * (count - 2), END_MS] + [FRAME_MS] * (count - 2)
    stream = io.BytesIO()
    first, *rest = frames + frames[-2:0:-1]
    comment = b"SYNTHETIC maps, not observations"
    first.save(
        stream,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=times,
        loop=0,
        comment=comment,
    )
    return stream.getvalue()


def _show(axes: Axes, maps: PhysicalMaps, stretch: Stretch, title: str, colour: str) -> None:
    axes.imshow(
        stretch(shrink(maps[0], LARGEST_SIDE)), COLOURS, vmin=0, vmax=1, origin="lower",
        interpolation="nearest",
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color=colour, pad=2)
    for side in axes.spines.values():
        side.set_color(colour)


def _frame(maps: Sequence[PhysicalMaps], stretch: Stretch) -> Image.Image:
    tiles = []
    for field in maps:
        small = shrink(field[0], LARGEST_SIDE)
        levels = np.round(255 * stretch(small)).astype(np.uint8)[::-1]
        repeat = max(1, -(-MIN_SIDE // max(small.shape)))
        tiles.append(levels.repeat(repeat, 0).repeat(repeat, 1))
        tiles.append(np.zeros((tiles[0].shape[0], STRIP_GAP), np.uint8))
    image = Image.fromarray(np.ascontiguousarray(np.concatenate(tiles[:-1], axis=1))).convert("P")
    palette = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    image.putpalette(np.asarray(palette).tobytes())
    return image
