"""What fields larger than their targets are like, as a Markdown table, with a picture if asked.

python -m benchmarks.fields --targets examples/lognormal.yaml --sides 128 256 [--picture FILE.png]
python -m benchmarks.fields --set lognormal --window 64 --sides 1024     # of `benchmarks.sizes`

One row per side, in the model's values. Of all windows of a field, half a window apart:

- spectrum: their mean power over that of the fit targets, per octave of waves per window, under a
  Hann taper;
- borders: the mean step from pixel to pixel across the borders that windows have at the last noise
  level, over the mean step of all;
- streaks: of steps from pixel to pixel, means over 8 along the line between the pixels: what one
  in 1,000 of them exceeds, over the spread of steps; in brackets that of the targets;
- spread: standard deviation of all pixels over that of the targets;
- CPU seconds and MiB: of the process while the field is made, and at its peak.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from benchmarks.sizes import BASE, SETS, shrink, target_set
from flows.settings import load_settings
from ood_core.denoising.windowed import offset
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import load_model
from ood_core.report.pictures import Stretch
from ood_core.synthesis.synthesizer import Synthesizer


def powers(maps: np.ndarray) -> np.ndarray:
    """Mean power per octave of waves per window, of maps `(n, y, x)`."""
    side = maps.shape[-1]
    taper = np.hanning(side)[:, None] * np.hanning(side)
    power = (np.abs(np.fft.fft2((maps - maps.mean()) * taper)) ** 2).mean(axis=0)
    waves = side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    octaves = 2.0 ** np.arange(int(np.log2(side)))
    rings = [power[(waves >= k) & (waves < 2 * k)] for k in octaves]
    return np.array([ring.mean() for ring in rings])


def streaks(maps: np.ndarray) -> float:
    """How far straight edges of 8 px along rows or columns stand out of maps `(n, y, x)`."""
    found = []
    for turned in (maps, np.swapaxes(maps, -1, -2)):
        steps = np.diff(turned, axis=-1)
        along = ndimage.uniform_filter1d(steps, 8, axis=-2)[:, 4:-4]
        found.append(np.quantile(np.abs(along), 0.999) / np.sqrt((steps**2).mean()))
    return float(np.mean(found))


def borders(field: np.ndarray, window: int, t: int) -> float:
    """Mean step across borders of the windows of time index `t`, over the mean step."""
    found = []
    for turned, at in zip((field.T, field), offset(t, (window, window)), strict=True):
        steps = np.abs(np.diff(turned, axis=1)).mean(axis=0)
        found.append(steps[(at - 1) % (window // 2) :: window // 2].mean() / steps.mean())
    return float(np.mean(found))


def row(synth: Synthesizer, targets: TargetSet, side: int) -> tuple[list[str], np.ndarray]:
    """The cells of one side, and the field."""
    began = time.process_time()
    field = synth.field(side, side)
    spent = time.process_time() - began
    ranged = targets.ranged(field[None])[0, 0].numpy()
    real, window = targets.fit_ranged[:, 0].numpy(), targets.shape[-1]
    views = sliding_window_view(ranged, (window, window))[:: window // 2, :: window // 2]
    ratio = powers(views.reshape(-1, window, window)) / powers(real)
    last = (synth.method.timesteps or [synth.method.ends[0]])[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"{side}",
        " / ".join(f"{r:.2f}" for r in ratio),
        f"{borders(ranged, window, last):.2f}",
        f"{streaks(ranged[None]):.2f} ({streaks(real):.2f})",
        f"{ranged.std() / real.std():.2f}",
        f"{spent:.0f}",
        f"{peak:.0f}",
    ], field[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", help="a configuration")
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--window", type=int, default=32, help="side of the maps of a set")
    parser.add_argument("--image", help="the image of the Sun")
    parser.add_argument("--sides", nargs="+", type=int, required=True)
    parser.add_argument("--picture", type=Path)
    known = parser.parse_args()
    torch.set_num_threads(1)
    if known.set:
        make, transform = SETS[known.set]
        targets = target_set(make(known.window, known.image), transform)
        synth = Synthesizer(load_model(BASE), batch=16)
    else:
        settings = load_settings(Path(known.targets))
        targets = TargetSet.of(settings.targets)
        synth = Synthesizer(load_model(settings.base), settings.method)
    synth.fit(targets, progress=False)
    header = ["side", "spectrum", "borders", "streaks", "spread", "CPU s", "MiB"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for side in known.sides:
        cells, field = row(synth, targets, side)
        print("| " + " | ".join(cells) + " |", flush=True)
    if known.picture:
        stretch, window = Stretch.fit(targets.fit[:, 0]), targets.shape[-1]
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        real = targets.fit[: (len(field) // window) ** 2, 0]
        count = int(len(real) ** 0.5)
        tiled = np.block([list(real[i * count : (i + 1) * count]) for i in range(count)])
        sets = (("targets side by side", tiled), ("one field", field))
        for axes, (title, image) in zip(figure.subplots(1, 2), sets, strict=True):
            axes.imshow(stretch(image), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title)
            axes.set_axis_off()
        figure.savefig(known.picture, dpi=120)
        shrink(known.picture)


if __name__ == "__main__":
    main()
