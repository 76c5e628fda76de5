"""A picture of a finished run: real targets on the left, synthetic maps on the right.

python benchmarks/picture.py runs/demo docs/pictures/demo.png
"""

import sys

import numpy as np
from matplotlib.figure import Figure

from ood_core.report.pictures import Stretch
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets

ROWS, COLUMNS = 8, 8


def tiles(maps: np.ndarray) -> np.ndarray:
    """The first maps, evenly spaced through the set, as one image with thin gaps."""
    chosen = maps[np.linspace(0, len(maps) - 1, ROWS * COLUMNS).astype(int), 0]
    framed = np.pad(chosen, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    side = framed.shape[-1]
    grid = framed.reshape(ROWS, COLUMNS, side, side).swapaxes(1, 2)
    return grid.reshape(ROWS * side, COLUMNS * side)


def main() -> None:
    """Draw both sets on one colour scale."""
    uri, path = sys.argv[1:]
    run = RunStore.open(uri)
    targets = load_targets(run)
    real, made = targets.held_out, run.table("generate").read("maps")
    stretch = Stretch.fit(real[:, 0])
    figure = Figure(figsize=(11, 5.9), layout="constrained")
    sets = (("real, held out", real), ("synthetic", made))
    for axes, (title, maps) in zip(figure.subplots(1, 2), sets, strict=True):
        axes.imshow(stretch(tiles(maps)), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
