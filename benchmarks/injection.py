"""What cut-outs that are laid into fields bring with them, as a Markdown table.

python -m benchmarks.injection --targets examples/hubble.yaml [--picture FILE.png]

Each held-out map is laid into a field of white noise of its own sky's spread, as it is and by
`inject`. Of all pixels of the squares that it covers: the median, in spreads of the field's noise,
and the robust spread (of the median absolute deviation) over that before; of the pixels that
changed, their part; and the light laid over the cut-out's flux above its sky, in its circle, for
the brighter half.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from flows.settings import load_settings
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.objects import above_background, flux, rings
from ood_core.report.pictures import Stretch
from ood_core.synthesis.injection import inject


def spread(values: np.ndarray) -> float:
    """Robust standard deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", required=True)
    parser.add_argument("--picture")
    known = parser.parse_args()
    maps = TargetSet.of(load_settings(Path(known.targets)).targets).held_out
    outside = rings(*maps.shape[-2:]).sum(0).numpy() < 0.5
    noise = [spread(m[0, outside]) for m in maps]
    rng, middle = np.random.default_rng(0), (np.array([maps.shape[-2:]]) - 1) / 2
    rows: dict[str, list[np.ndarray]] = {"field": [], "added as it is": [], "inject": []}
    light = []
    for cutout, sigma in zip(maps, noise, strict=True):
        field = sigma * rng.standard_normal(cutout.shape)
        found = inject(field, cutout[None], middle)
        made = field, field + cutout, found.field
        for row, one in zip(rows.values(), made, strict=True):
            row.append(one / sigma)
        light.append(found.truth["flux"].sum())
    print("| | median | spread | changed |\n|---|---|---|---|")
    before = np.stack(rows["field"])
    for name, row in rows.items():
        values = np.stack(row)
        changed = (np.abs(values - before) > 1e-4).mean()
        noisy = spread(values) / spread(before)
        print(f"| {name} | {np.median(values):.2f} | {noisy:.2f} | {changed:.2f} |")
    whole = flux(above_background(torch.from_numpy(maps)))[:, 0].numpy()
    bright = whole > np.median(whole)
    part = np.array(light)[bright] / whole[bright]
    low, half, high = np.quantile(part, [0.1, 0.5, 0.9])
    print(f"\nlaid over flux: {half:.2f} ({low:.2f} to {high:.2f})")
    if known.picture:
        field = np.median(noise) * rng.standard_normal((1, 192, 192))
        both = field, inject(field, maps[:24], seed=1).field
        figure = Figure(figsize=(8, 4), layout="constrained")
        stretch = Stretch.fit(maps)
        for axes, values in zip(figure.subplots(1, 2), both, strict=True):
            axes.imshow(stretch(values[0]), cmap="inferno", vmin=0, vmax=1)
            axes.set_axis_off()
        figure.savefig(known.picture, dpi=110)


if __name__ == "__main__":
    main()
