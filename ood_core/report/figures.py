"""Plots of the report as transparent PNGs, in a light and a dark theme; no global pyplot state.

The data behind each figure of the report as CSV: long tables, one row per point.

Curves are in model range, as the figures are; every column names its unit where it has one.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FixedLocator, NullFormatter
from torch import Tensor

from ood_core.evaluation.downstream import DownstreamResult, TrainingSetScore
from ood_core.evaluation.probes import PROBES
from ood_core.evaluation.results import (
    Band,
    EvaluationResult,
    HistogramCurves,
    Score,
    SpectrumCurves,
)
from ood_core.report.record import ReportInput, TrustMap

SCORES = "scores.csv"
SPECTRUM = "spectrum.csv"
HISTOGRAM = "pixel-values.csv"
NEAREST = "nearest.csv"
ROUND_TRIPS = "round-trips.csv"
TRUST = "trust-map.csv"
DOWNSTREAM = "utility.csv"

Row = tuple[Any, ...]


def series(report: ReportInput) -> dict[str, bytes]:
    """Return the files beside the page, by name; a figure that is not drawn has none."""
    result = report.result
    files = {
        SCORES: _csv(_scores(result.scores.values())),
        SPECTRUM: _csv(_spectrum(result.spectrum)),
        HISTOGRAM: _csv(_histogram(result.histogram)),
        NEAREST: _csv(_nearest(result)),
    }
    if len(report.psnr):
        rows = ((index, float(value)) for index, value in enumerate(report.psnr))
        files[ROUND_TRIPS] = _csv([("fit_target", "psnr_db"), *rows])
    if report.trust is not None:
        files[TRUST] = _csv(_trust(report.trust))
    if report.downstream is not None:
        files[DOWNSTREAM] = _csv(_downstream(report.downstream))
    return files


def _scores(scores: Iterable[Score]) -> Iterator[Row]:
    yield ("name", "title", "synthetic", "real", "real_5_percent", "real_95_percent", "inside")
    for s in scores:
        yield (s.name, s.title, s.value, s.real, s.low, s.high, int(s.inside))


def _spectrum(curves: SpectrumCurves) -> Iterator[Row]:
    yield (
        "channel", "wavenumber_cycles_per_pixel",
        "real_median", "real_16_percent", "real_84_percent",
        "synthetic_median", "synthetic_16_percent", "synthetic_84_percent",
    )  # fmt: skip
    k = curves.k.tolist()
    for channel, (real, samples) in enumerate(
        zip(_band_points(curves.real), _band_points(curves.samples), strict=True)
    ):
        for place, truth, drawn in zip(k, real, samples, strict=True):
            yield (channel, place, *truth, *drawn)


def _histogram(curves: HistogramCurves) -> Iterator[Row]:
    yield (
        "channel", "pixel_value",
        "real_density", "real_5_percent", "real_95_percent", "synthetic_density",
    )  # fmt: skip
    sets = zip(
        curves.centres.tolist(), _band_points(curves.real), curves.samples.tolist(), strict=True
    )
    for channel, (centres, real, samples) in enumerate(sets):
        for place, truth, drawn in zip(centres, real, samples, strict=True):
            yield (channel, place, *truth, drawn)


def _band_points(band: Band) -> Iterator[list[tuple[float, float, float]]]:
    """Yield, per channel, the median, low and high of each bin."""
    for curves in zip(band.median.tolist(), band.low.tolist(), band.high.tolist(), strict=True):
        yield list(zip(*curves, strict=True))


def _nearest(result: EvaluationResult) -> Iterator[Row]:
    yield ("set", "map", "distance_rms_per_pixel")
    for name, values in (("real", result.nearest_real), ("synthetic", result.nearest_samples)):
        for index, value in enumerate(values.tolist()):
            yield (name, index, value)


def _trust(trust: TrustMap) -> Iterator[Row]:
    yield ("noise_to_signal", "wavenumber_cycles_per_pixel", "expert", "weight")
    for ratio, bands in zip(trust.noise_to_signal.tolist(), trust.weights.tolist(), strict=True):
        for band, weights in zip(trust.bands.tolist(), bands, strict=True):
            for expert, weight in zip(trust.experts, weights, strict=True):
                yield (ratio, band, expert, weight)


def _downstream(found: DownstreamResult) -> Iterator[Row]:
    yield (
        "probe", "trained_on", "synthetic_per_real", "maps", "score", "score_2.5_percent",
        "score_97.5_percent", "gain", "gain_2.5_percent", "gain_97.5_percent",
    )  # fmt: skip
    for row in found.training_sets:
        per_real = "" if row.multiple is None else row.multiple
        yield (
            row.probe, row.title, per_real, row.maps, row.score, row.low, row.high,
            row.gain, row.gain_low, row.gain_high,
        )  # fmt: skip


def _csv(rows: Iterable[Row]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


DOTS = 192  # per inch: two device pixels for each of the 96 that a page counts with
WIDTH, HEIGHT = 5.2, 3.7  # inches
BELOW, ABOVE = 0.55, 0.3  # inches of the margins
WAVENUMBERS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # labelled
DECADES = (0.01, 0.1)  # labelled where there is little room
CHANNELS = 3  # plotted side by side; more would be too small to read


@final
@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a plot on a light or on a dark page."""

    ink: str
    faint: str
    samples: str
    real: str


LIGHT = Theme(ink="#2b2a2f", faint="#d9d5cd", samples="#c2412d", real="#2a6f97")
DARK = Theme(ink="#dcd8d0", faint="#3a3944", samples="#ff8a6b", real="#7cc4e8")


def spectrum(curves: SpectrumCurves, theme: Theme) -> bytes:
    """Plot median power over wavenumber with the 16 to 84 % range of single maps."""
    figure, panels = _panels(len(curves.real.median), theme)
    k = _array(curves.k)
    for c, axes in enumerate(panels):
        for band, colour, label in (
            (curves.real, theme.real, "real, held out"),
            (curves.samples, theme.samples, "synthetic"),
        ):
            low, high = _array(band.low[c]), _array(band.high[c])
            axes.fill_between(k, low, high, color=colour, alpha=0.22, linewidth=0)
            axes.plot(k, _array(band.median[c]), color=colour, linewidth=1.8, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(WAVENUMBERS if len(panels) == 1 else DECADES))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yscale("log", nonpositive="clip")
    _name_x(figure, panels, "wavenumber, cycles per pixel", theme)
    panels[0].set_ylabel("power per mode, model range²")
    _legend(panels[0], theme)
    return _png(figure)


def histogram(curves: HistogramCurves, theme: Theme) -> bytes:
    """Plot pixel densities on a logarithmic scale, with the range of random real halves."""
    figure, panels = _panels(len(curves.centres), theme)
    for c, axes in enumerate(panels):
        v = _array(curves.centres[c])
        low, high = _array(curves.real.low[c]), _array(curves.real.high[c])
        axes.fill_between(v, low, high, color=theme.real, alpha=0.3, linewidth=0, step="mid")
        real, synthetic = _array(curves.real.median[c]), _array(curves.samples[c])
        axes.step(v, real, where="mid", color=theme.real, linewidth=1.6, label="real, held out")
        axes.step(v, synthetic, where="mid", color=theme.samples, linewidth=1.6, label="synthetic")
        axes.set_yscale("log", nonpositive="clip")
    _name_x(figure, panels, "pixel value, model range", theme)
    panels[0].set_ylabel("density of pixels")
    _legend(panels[0], theme)
    return _png(figure)


def nearest(result: EvaluationResult, theme: Theme) -> bytes:
    """Plot distances to the nearest fit target, samples against held-out maps, with medians."""
    figure, (axes,) = _panels(1, theme)
    sets = (
        (_array(result.nearest_real), theme.real, "real, held out"),
        (_array(result.nearest_samples), theme.samples, "synthetic"),
    )
    top = max(float(values.max()) for values, _, _ in sets)
    edges = np.linspace(0, max(top, 1e-12) * 1.02, 49)
    for values, colour, label in sets:
        density = np.histogram(values, edges)[0] / len(values)
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.22)
        axes.stairs(density, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(float(np.median(values)), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("distance to the nearest target, RMS per pixel, model range")
    axes.set_ylabel("fraction of maps")
    _legend(axes, theme)
    return _png(figure)


def psnr(values: Float[np.ndarray, " targets"], theme: Theme) -> bytes:
    """Plot how well targets come back from their latents, best to worst."""
    figure, (axes,) = _panels(1, theme)
    ordered = np.sort(values)[::-1]
    axes.plot(np.arange(1, len(ordered) + 1), ordered, color=theme.real, linewidth=1.4)
    axes.plot(np.arange(1, len(ordered) + 1), ordered, ".", color=theme.real, markersize=5)
    axes.set_xlabel("targets, best to worst")
    axes.set_ylabel("round trip, PSNR in dB")
    return _png(figure)


SETS = {"fields": "Gaussian\nfields", "synthetic": "synthetic\nalone"}
"""Sets beside the curve whose names are not said as they are."""


def downstream(found: DownstreamResult, theme: Theme) -> bytes:
    """Plot the augmentation curve of every probe with its 95 % interval, beside other sets."""
    probes = list(dict.fromkeys(row.probe for row in found.training_sets))
    figure, grid = _grid(WIDTH * 1.9, HEIGHT, 1, len(probes), wspace=0.06)
    panels = list(grid.subplots(squeeze=False, sharey=True)[0])
    for axes, probe in zip(panels, probes, strict=True):
        _dress(axes, theme)
        title = PROBES[probe][0]
        axes.set_title(title, fontsize=10, color=theme.ink, loc="left")
        rows = [row for row in found.training_sets if row.probe == probe]
        curve = [row for row in rows if row.name == "real" or row.name.startswith("real+")]
        labels = [str(row.multiple or 0) for row in curve]
        _points(axes, labels, curve, theme.samples, "real + k × synthetic", joined=True)
        axes.axhline(curve[0].score, color=theme.samples, linewidth=1, linestyle=(0, (2, 3)))
        others = [row for row in rows if row not in curve]
        names = [SETS.get(row.name, row.name) for row in others]
        _points(axes, names, others, theme.real, "", joined=False)
        axes.axhline(found.chance, color=theme.ink, linewidth=0.8, linestyle=(0, (1, 2)))
    panels[0].set_ylabel(found.metric)
    figure.supxlabel("synthetic maps per real one, and other sets", fontsize=9.5, color=theme.ink)
    return _png(figure)


def _points(
    axes: Axes,
    labels: list[str],
    rows: list[TrainingSetScore],
    colour: str,
    label: str,
    joined: bool,
) -> None:
    score = np.array([row.score for row in rows])
    under = np.array([max(row.score - row.low, 0) for row in rows])
    over = np.array([max(row.high - row.score, 0) for row in rows])
    axes.errorbar(
        labels, score, yerr=np.stack([under, over]), fmt="o-" if joined else "s", color=colour,
        markersize=5, linewidth=1.5, capsize=3, label=label,
    )  # fmt: skip


def trust(trust_map: TrustMap, theme: Theme) -> bytes:
    """Plot the weight of each expert over wavenumber and noise-to-signal ratio, on one scale."""
    count = len(trust_map.experts)
    columns = min(count, 3)
    rows = -(-count // columns)
    width, height = 3.2 * columns + 1.2, 2.7 * rows + 0.5
    figure, grid = _grid(width, height, rows, columns, right=0.95, wspace=0.08, hspace=0.2)
    panels = grid.subplots(squeeze=False, sharex=True, sharey=True).flatten()
    low, high = min(0.0, float(trust_map.weights.min())), max(1.0, float(trust_map.weights.max()))
    order = np.argsort(trust_map.noise_to_signal)
    ratios = trust_map.noise_to_signal[order]
    for index, axes in enumerate(panels):
        if index >= count:
            axes.set_axis_off()
            continue
        weights = trust_map.weights[order][:, :, index]
        mesh = axes.pcolormesh(
            trust_map.bands, ratios, weights, cmap="inferno", vmin=low, vmax=high, shading="nearest"
        )
        axes.set_title(trust_map.experts[index], fontsize=10, color=theme.ink, loc="left")
        axes.set_yscale("log")
        _dress(axes, theme)
        axes.grid(False)
    figure.supxlabel("wavenumber, cycles per pixel", fontsize=9, color=theme.ink)
    figure.supylabel("noise to signal, σ/α", fontsize=9, color=theme.ink)
    place = (1 - 0.8 / width, BELOW / height, 0.12 / width, 1 - (BELOW + ABOVE) / height)
    bar = figure.colorbar(mesh, cax=figure.add_axes(place))
    bar.set_label("weight", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=8, length=3)
    bar.outline.set_visible(False)
    return _png(figure)


def _panels(count: int, theme: Theme) -> tuple[Figure, list[Axes]]:
    shown = min(count, CHANNELS)
    figure, grid = _grid(WIDTH, HEIGHT, 1, shown, wspace=0.4)
    panels = list(grid.subplots(squeeze=False)[0])
    for number, axes in enumerate(panels):
        _dress(axes, theme)
        if shown > 1:
            axes.set_title(f"channel {number + 1}", fontsize=10, color=theme.ink, loc="left")
    return figure, panels


def _grid(
    width: float, height: float, rows: int, columns: int, *, right: float = 0.1, **space: float
) -> tuple[Figure, GridSpec]:
    """A figure with room for labels, in inches: a layout that is fitted takes most of a drawing."""
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows, columns, left=0.8 / width, right=1 - right / width, bottom=BELOW / height,
        top=1 - ABOVE / height, **space,
    )  # fmt: skip
    return figure, grid


def _name_x(figure: Figure, panels: list[Axes], label: str, theme: Theme) -> None:
    if len(panels) == 1:
        panels[0].set_xlabel(label)
    else:
        figure.supxlabel(label, fontsize=9.5, color=theme.ink)


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=9, length=3, which="both", width=0.6)
    axes.tick_params(which="minor", length=0)
    axes.grid(color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.xaxis.label.set(color=theme.ink, size=9.5)
    axes.yaxis.label.set(color=theme.ink, size=9.5)


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, handlelength=1.4)


def _array(values: Tensor) -> Float[np.ndarray, "..."]:
    return np.asarray(values.detach().double().numpy())


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure)  # binds the figure to Agg, whatever backend the process prefers
    figure.savefig(stream, format="png", dpi=DOTS, transparent=True, metadata={"Software": None})
    return stream.getvalue()
