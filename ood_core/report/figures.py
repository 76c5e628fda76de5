"""Plots of the report as transparent PNGs, in a light and a dark theme; no global pyplot state."""

import io
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter
from torch import Tensor

from ood_core.evaluation.atlas import LatentAtlas
from ood_core.evaluation.gains import ArmScore, Utility
from ood_core.evaluation.learners import LEARNERS
from ood_core.evaluation.morphology import Shapes
from ood_core.evaluation.results import HistogramCurves, SpectrumCurves, ValidationReport
from ood_core.report.record import TrustMap

DOTS = 192  # per inch: two device pixels for each of the 96 that a page counts with
WIDTH, HEIGHT = 5.2, 3.7  # inches
WAVENUMBERS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # labelled
DECADES = (0.01, 0.1)  # labelled where there is little room
OUTLYING = 0.01  # membership below which a target is named
NAMED = 12
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
        axes.set_yscale("log", nonpositive="mask")
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
        axes.set_yscale("log", nonpositive="mask")
    _name_x(figure, panels, "pixel value, model range", theme)
    panels[0].set_ylabel("density of pixels")
    _legend(panels[0], theme)
    return _png(figure)


def nearest(report: ValidationReport, theme: Theme) -> bytes:
    """Plot distances to the nearest fit target, samples against held-out maps, with medians."""
    figure, (axes,) = _panels(1, theme)
    sets = (
        (_array(report.nearest_real), theme.real, "real, held out"),
        (_array(report.nearest_samples), theme.samples, "synthetic"),
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


def profiles(found: Shapes, unit: str, theme: Theme) -> bytes:
    """Plot the light of objects over radius with the 16 to 84 % range of single maps."""
    figure, (axes,) = _panels(1, theme)
    radius = _array(found.radius)
    for band, colour, label in (
        (found.real, theme.real, "real, held out"),
        (found.samples, theme.samples, "synthetic"),
    ):
        low, high = _array(band.low[0]), _array(band.high[0])
        axes.fill_between(radius, low, high, color=colour, alpha=0.22, linewidth=0)
        axes.plot(radius, _array(band.median[0]), color=colour, linewidth=1.8, label=label)
    axes.set_xlabel("radius, pixels")
    axes.set_ylabel(f"mean of a ring over background{', ' if unit else ''}{unit}", parse_math=False)
    _legend(axes, theme)
    return _png(figure)


def latents(found: LatentAtlas, psnr: Float[np.ndarray, " targets"], theme: Theme) -> bytes:
    """Plot latents of targets, coloured by their round trip, and those samples began from."""
    figure = Figure(figsize=(WIDTH * 1.5, HEIGHT * 1.35), layout="constrained")
    axes = figure.subplots()
    _dress(axes, theme)
    draws, targets = _array(found.draws), _array(found.targets)
    numbers = found.numbers.numpy()
    for start, end in zip(
        targets, targets[np.searchsorted(numbers, found.neighbour.numpy())], strict=True
    ):
        axes.plot(*zip(start, end, strict=True), color=theme.faint, linewidth=0.8, zorder=1)
    axes.scatter(
        draws[:, 0], draws[:, 1], s=12, facecolors="none", edgecolors=theme.samples,
        linewidths=0.8, zorder=2, label="samples, as drawn",
    )  # fmt: skip
    dots = axes.scatter(
        targets[:, 0], targets[:, 1], s=42, c=psnr[numbers], cmap="viridis",
        edgecolors=theme.ink, linewidths=0.6, zorder=3, label="targets, inverted",
    )  # fmt: skip
    for i in np.flatnonzero(_array(found.membership) < OUTLYING)[:NAMED]:
        axes.annotate(
            str(numbers[i]), targets[i], xytext=(5, 4), textcoords="offset points", color=theme.ink,
            fontsize=8,
        )  # fmt: skip
    bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=30)
    bar.set_label("round trip, PSNR in dB", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=8, length=3)
    bar.outline.set_visible(False)
    axes.set_xlabel(f"first component, {100 * found.explained[0]:.1f} % of the variance")
    axes.set_ylabel(f"second, {100 * found.explained[1]:.1f} %")
    _legend(axes, theme)
    return _png(figure)


def utility(found: Utility, theme: Theme) -> bytes:
    """Plot the augmentation curve of every learner with its 95 % interval, beside other sets."""
    learners = list(dict.fromkeys(arm.learner for arm in found.arms))
    figure = Figure(figsize=(WIDTH * 1.9, HEIGHT), layout="constrained")
    panels = list(figure.subplots(1, len(learners), squeeze=False, sharey=True)[0])
    for axes, learner in zip(panels, learners, strict=True):
        _dress(axes, theme)
        title = LEARNERS[learner][0]
        axes.set_title(title, fontsize=10, color=theme.ink, loc="left")
        arms = [arm for arm in found.arms if arm.learner == learner]
        curve = [arm for arm in arms if arm.arm == "real" or arm.arm.startswith("real+")]
        words = [str(arm.multiple or 0) for arm in curve]
        _points(axes, words, curve, theme.samples, "real + k × synthetic", joined=True)
        axes.axhline(curve[0].score, color=theme.samples, linewidth=1, linestyle=(0, (2, 3)))
        others = [arm for arm in arms if arm not in curve]
        names = {"flips": "flips", "fields": "Gaussian\nfields", "synthetic": "synthetic\nalone"}
        _points(axes, [names[a.arm] for a in others], others, theme.real, "", joined=False)
        axes.axhline(found.chance, color=theme.ink, linewidth=0.8, linestyle=(0, (1, 2)))
    panels[0].set_ylabel(found.measure)
    figure.supxlabel("synthetic maps per real one, and other sets", fontsize=9.5, color=theme.ink)
    return _png(figure)


def _points(
    axes: Axes, words: list[str], arms: list[ArmScore], colour: str, label: str, joined: bool
) -> None:
    score = np.array([arm.score for arm in arms])
    below = np.array([max(arm.score - arm.low, 0) for arm in arms])
    above = np.array([max(arm.high - arm.score, 0) for arm in arms])
    axes.errorbar(
        words, score, yerr=np.stack([below, above]), fmt="o-" if joined else "s", color=colour,
        markersize=5, linewidth=1.5, capsize=3, label=label,
    )  # fmt: skip


def trust(trust_map: TrustMap, theme: Theme) -> bytes:
    """Plot the weight of each expert over wavenumber and noise-to-signal ratio, on one scale."""
    count = len(trust_map.experts)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns + 0.9, 2.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    low, high = min(0.0, float(trust_map.weights.min())), max(1.0, float(trust_map.weights.max()))
    order = np.argsort(trust_map.noise_to_signal)
    levels = trust_map.noise_to_signal[order]
    for index, axes in enumerate(panels):
        if index >= count:
            axes.set_axis_off()
            continue
        weights = trust_map.weights[order][:, :, index]
        mesh = axes.pcolormesh(
            trust_map.bands, levels, weights, cmap="inferno", vmin=low, vmax=high, shading="nearest"
        )
        axes.set_title(trust_map.experts[index], fontsize=10, color=theme.ink, loc="left")
        axes.set_yscale("log")
        _dress(axes, theme)
        axes.grid(False)
    figure.supxlabel("wavenumber, cycles per pixel", fontsize=9, color=theme.ink)
    figure.supylabel("noise to signal, σ/α", fontsize=9, color=theme.ink)
    bar = figure.colorbar(mesh, ax=panels.tolist(), pad=0.02, aspect=30)
    bar.set_label("weight", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=8, length=3)
    bar.outline.set_visible(False)
    return _png(figure)


def _panels(count: int, theme: Theme) -> tuple[Figure, list[Axes]]:
    shown = min(count, CHANNELS)
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = list(figure.subplots(1, shown, squeeze=False)[0])
    for number, axes in enumerate(panels):
        _dress(axes, theme)
        if shown > 1:
            axes.set_title(f"channel {number + 1}", fontsize=10, color=theme.ink, loc="left")
    return figure, panels


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
