"""The contact sheet of a run: real targets beside synthetic maps, on one colour scale."""

import io

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from ood_core.errors import InputError
from ood_core.report.figures import LIGHT
from ood_core.report.galleries import even_rows
from ood_core.report.page import short
from ood_core.report.pictures import COLOURS, LARGEST_SIDE, Stretch, shrink
from ood_core.report.record import PhysicalMaps

COLUMNS = 6  # maps in a row of either half
ROWS = 4
MAX_ROWS = 40  # beyond, the picture is too tall to be opened
CELL = 1.0  # inches a map
DOTS = 160  # per inch
GAP = 0.04  # of a map


def contact_sheet(
    real: PhysicalMaps, samples: PhysicalMaps, unit: str, name: str, rows: int = ROWS
) -> bytes:
    """Draw the first channel of real and synthetic maps, taken at even steps, as a PNG.

    The synthetic half says so in the picture and in the PNG's text.

    Args:
        real: the fit targets, in physical units; they set the colour scale.
        samples: synthetic maps, in the same units.
        unit: physical unit for the colour bar; '' says that there is none.
        name: name of the run.
        rows: rows of maps; six maps a row on either side.

    Raises:
        InputError: `rows` out of range, or no maps.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise InputError(f"got {rows} rows; expected 1 to {MAX_ROWS}: change --rows")
    if not (len(real) and len(samples)):
        raise InputError("got no maps on one side; expected real and synthetic ones: run it first")
    stretch = Stretch.fit(real[:, 0])
    figure = Figure(figsize=(2 * COLUMNS * CELL + 0.6, rows * CELL + 1.4), layout="constrained")
    halves = figure.subplots(1, 2)
    for axes, maps, noun, colour in zip(
        halves,
        (real, samples),
        ("real targets", "SYNTHETIC maps, not observations"),
        (LIGHT.real, LIGHT.samples),
        strict=True,
    ):
        chosen = even_rows(len(maps), rows * COLUMNS)
        _tiles(axes, [stretch(shrink(maps[i, 0], LARGEST_SIDE)) for i in chosen], rows)
        axes.set_title(f"{noun} ({len(chosen)} of {len(maps):,})", color=colour, fontsize=11)
    # Names and units come from files: a `$` in them is a dollar, not the start of a formula.
    figure.suptitle(" ".join(name.split()), fontsize=13, color=LIGHT.ink, parse_math=False)
    _colour_bar(figure, list(halves), stretch, unit)
    return _png(figure)


def _tiles(axes: Axes, levels: list[Float[np.ndarray, "y x"]], rows: int) -> None:
    """Show maps in a grid from the top left, each upright: its row 0 at the bottom."""
    height, width = levels[0].shape
    axes.set_axis_off()
    for number, tile in enumerate(levels):
        row, column = divmod(number, COLUMNS)
        box = (column + GAP, column + 1 - GAP, row + 1 - GAP, row + GAP)
        axes.imshow(
            tile, COLOURS, vmin=0, vmax=1, origin="lower", extent=box, aspect=height / width,
            interpolation="nearest",
        )  # fmt: skip
    axes.set(xlim=(0, COLUMNS), ylim=(rows, 0))


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


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    words = {"Software": None, "Description": "Left: real targets. Right: SYNTHETIC maps."}
    figure.savefig(stream, format="png", dpi=DOTS, facecolor="white", metadata=words)
    return stream.getvalue()
