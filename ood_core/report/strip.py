"""Pictures of a walk between targets: a strip of its maps, and the same as an animation."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ood_core.report.figures import LIGHT
from ood_core.report.pictures import COLOURS, LARGEST_SIDE, Stretch, shrink
from ood_core.report.record import PhysicalMaps

CELL = 1.0  # inches a map
DOTS = 160  # per inch
COLUMNS = 13  # maps in a row of the strip; of longer walks some are left out
FRAME_MS, END_MS = 120, 700  # an animation rests at both ends
MIN_SIDE = 192  # pixels of a map in an animation
GAP = 6  # pixels


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
    columns = np.unique(np.linspace(0, len(shares) - 1, min(len(shares), COLUMNS)).round()).astype(
        int
    )
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
    return _png(figure)


def animation(paths: Sequence[Path], stretch: Stretch) -> bytes:
    """Return a GIF that goes along all paths and back, side by side, coloured as the strip."""
    count = len(paths[0].maps)
    frames = [_frame([path.maps[i] for path in paths], stretch) for i in range(count)]
    times = [END_MS, *[FRAME_MS] * (count - 2), END_MS] + [FRAME_MS] * (count - 2)
    stream = io.BytesIO()
    first, *rest = frames + frames[-2:0:-1]
    words = b"SYNTHETIC maps, not observations"
    first.save(
        stream,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=times,
        loop=0,
        comment=words,
    )
    return stream.getvalue()


def _show(axes: Axes, maps: PhysicalMaps, stretch: Stretch, words: str, colour: str) -> None:
    axes.imshow(
        stretch(shrink(maps[0], LARGEST_SIDE)), COLOURS, vmin=0, vmax=1, origin="lower",
        interpolation="nearest",
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_title(words, fontsize=8, color=colour, pad=2)
    for side in axes.spines.values():
        side.set_color(colour)


def _frame(maps: Sequence[PhysicalMaps], stretch: Stretch) -> Image.Image:
    tiles = []
    for field in maps:
        small = shrink(field[0], LARGEST_SIDE)
        levels = np.round(255 * stretch(small)).astype(np.uint8)[::-1]
        repeat = max(1, -(-MIN_SIDE // max(small.shape)))
        tiles.append(levels.repeat(repeat, 0).repeat(repeat, 1))
        tiles.append(np.zeros((tiles[0].shape[0], GAP), np.uint8))
    image = Image.fromarray(np.ascontiguousarray(np.concatenate(tiles[:-1], axis=1))).convert("P")
    palette = colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    image.putpalette(np.asarray(palette).tobytes())
    return image


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    words = {"Software": None, "Description": "Real targets at the ends, SYNTHETIC maps between."}
    figure.savefig(stream, format="png", dpi=DOTS, facecolor="white", metadata=words)
    return stream.getvalue()
