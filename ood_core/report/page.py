"""Renders a report as one self-contained HTML page, and its numbers as a JSON-ready record."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ood_core.evaluation.results import ALPHA, EvaluationResult, Score
from ood_core.report import figures
from ood_core.report.figures import DARK, LIGHT, Theme
from ood_core.report.galleries import data_uri, galleries
from ood_core.report.pictures import Stretch, scale_png, short
from ood_core.report.record import PhysicalMaps, ReportInput

TEMPLATE = "page.html.jinja"
LEVELS = (1, 16, 50, 84, 99)  # percentiles in the table of pixel values


@final
@dataclass(frozen=True, slots=True)
class Strip:
    """A score on its own axis: places in per cent of the width."""

    band_left: float
    band_width: float
    real: float
    value: float
    best: float


@final
@dataclass(frozen=True, slots=True)
class Plot:
    """One plot in both themes, and the name of the file with its data."""

    title: str
    light: str
    dark: str
    alt: str
    caption: str
    data: str


def render(report: ReportInput) -> str:
    """Return the whole page; text that came from files or settings is escaped."""
    environment = Environment(
        loader=PackageLoader("ood_core", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    stretch = Stretch.fit(np.concatenate([report.fit[:, 0], report.held_out[:, 0]]))
    return environment.get_template(TEMPLATE).render(
        report=report,
        result=report.result,
        scores=[(score, score_strip(score)) for score in report.result.scores.values()],
        tests=report.result.tests,
        subsample_note=subsample_note(report.result),
        alpha=ALPHA,
        galleries=galleries(report, stretch),
        scale=data_uri(scale_png()),
        ticks=[(100 * place, value) for place, value in stretch.ticks()],
        plots=_plots(report),
        trust=_trust(report),
        downstream=_downstream(report),
        walks=[(walk, data_uri(walk.picture)) for walk in report.walks],
        scores_data=figures.SCORES,
        values=[(name, _summary(maps)) for name, maps in _sets(report)],
        levels=LEVELS,
        settings=list(flatten(report.settings)),
        apart=told_apart(report.result),
        steered=bool(report.settings.get("steering")),
        base=list(flatten(report.base)),
        total=_total(report),
    )


def subsample_note(result: EvaluationResult) -> str:
    """Say how many samples the scores are of."""
    near = "copies and sums are of all samples"
    if result.subsample == result.count:
        return f"scores and tests draw from all {result.count:,} samples; {near}"
    return f"scores and tests draw from {result.subsample:,} samples taken at random; {near}"


def told_apart(result: EvaluationResult) -> str:
    """Name what tells samples from held-out maps; empty where nothing does."""
    tests = result.tests
    found = [test.title for test in tests.families if test.rejected]
    if tests.classifier is not None and tests.classifier.p_value <= ALPHA:
        found.append(f"a linear classifier (accuracy {tests.classifier.accuracy:.2f})")
    if tests.network is not None and tests.network.p_value <= ALPHA:
        found.append(f"a network (accuracy {tests.network.accuracy:.2f})")
    return ", ".join(found)


def numbers(report: ReportInput) -> dict[str, Any]:
    """Return the numbers of the page, JSON-ready; what is not finite becomes None."""
    record = {
        "name": report.name,
        "identity": report.identity,
        "state": report.state,
        "unit": report.unit,
        "shape": list(report.fit.shape[1:]),
        "maps": {
            "fit": len(report.fit),
            "held_out": len(report.held_out),
            "samples": report.result.count,
            "subsample": report.result.subsample,
            "shown": len(report.samples),
        },
        "values": {name: _summary(maps) for name, maps in _sets(report)},
        "round_trip_psnr": report.psnr,
        "symmetries": list(report.symmetries),
        "evaluation": report.result.to_json(),
        "settings": report.settings,
        "versions": report.versions,
        "timings": [asdict(row) for row in report.timings],
        "base": report.base,
        "trust": asdict(report.trust) if report.trust else None,
        "downstream": report.downstream.to_json() if report.downstream else None,
        **({"wishes": report.wishes.to_json()} if report.wishes else {}),
    }
    return {key: _plain(value) for key, value in record.items()}


def score_strip(score: Score) -> Strip:
    """Lay a score and its real band on an axis that starts at a sensible zero."""
    value = min(score.value, 1e30)
    left, right = {
        "lower": (0.0, 1.12 * max(score.high, value, 1e-30)),
        "half": (min(0.4, score.low, value), 1.0),
        "one": (0.0, 1.12 * max(1.6, score.high, value)),
    }[score.better]
    best = {"lower": 0.0, "half": 0.5, "one": 1.0}[score.better]

    def place(number: float) -> float:
        return round(100 * min(max((number - left) / (right - left), 0.0), 1.0), 2)

    low, high = place(score.low), place(score.high)
    width = max(round(high - low, 2), 0.8)  # a hair at least, so that the band is seen
    return Strip(low, width, place(score.real), place(value), place(best))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield `(dotted.key, text)` of a nested mapping, in its own order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value) or "none"
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)


def _plots(report: ReportInput) -> list[Plot]:
    result = report.result
    plots = [
        _plot(
            "Power spectrum",
            lambda theme: figures.spectrum(result.spectrum, theme),
            "Median over maps; the shade holds 16 to 84 % of single maps.",
            figures.SPECTRUM,
        ),
        _plot(
            "Pixel values",
            lambda theme: figures.histogram(result.histogram, theme),
            "Pooled over maps; the shade is the 5 to 95 % range of random real halves.",
            figures.HISTOGRAM,
        ),
        _plot(
            "Distance to the nearest target",
            lambda theme: figures.nearest(result, theme),
            "Over the declared symmetries; dashed: medians. Copies would pile up at zero.",
            figures.NEAREST,
        ),
    ]
    if len(report.psnr):
        caption = f"Median {np.median(report.psnr):.1f} dB, worst {np.min(report.psnr):.1f} dB."
        draw = partial(figures.psnr, report.psnr)
        plots.append(_plot("Round trips of the targets", draw, caption, figures.ROUND_TRIPS))
    return plots


def _trust(report: ReportInput) -> Plot | None:
    trust = report.trust
    if trust is None:
        return None
    timesteps = len(trust.noise_to_signal)
    evaluated = ", ".join(
        f"{name} at {count}" for name, count in zip(trust.experts, trust.evaluations, strict=True)
    )
    caption = (
        "Weight of each expert in the calibrated denoiser, found by regression on noised targets:"
        " where the base can be trusted, and where the targets' own statistics take over."
        " An expert that the others can do without has no weight and is not evaluated:"
        f" of {timesteps} timesteps, {evaluated}."
    )
    return _plot("Trust map", partial(figures.trust, trust), caption, figures.TRUST)


def _downstream(report: ReportInput) -> Plot | None:
    found = report.downstream
    if found is None:
        return None
    caption = (
        f"{found.metric.capitalize()} on {found.held_out} held-out real maps; bars hold 95 % of a"
        " bootstrap over maps and seeds, the dotted line is chance."
    )
    return _plot(
        "Gain of training with them",
        partial(figures.downstream, found),
        caption,
        figures.DOWNSTREAM,
    )


def _plot(title: str, draw: Callable[[Theme], bytes], caption: str, data: str) -> Plot:
    light, dark = data_uri(draw(LIGHT)), data_uri(draw(DARK))
    return Plot(title, light, dark, f"Plot: {title}. {caption}", caption, data)


def _sets(report: ReportInput) -> list[tuple[str, PhysicalMaps]]:
    return [("fit", report.fit), ("held_out", report.held_out), ("samples", report.samples)]


def _summary(maps: PhysicalMaps) -> dict[str, float]:
    """Return mean, spread and percentiles of all pixels, in physical units."""
    named = {
        f"p{level}": float(value)
        for level, value in zip(LEVELS, np.percentile(maps, LEVELS), strict=True)
    }
    return {"mean": float(maps.mean(dtype=float)), "spread": float(maps.std(dtype=float)), **named}


def _total(report: ReportInput) -> tuple[int, float]:
    return sum(row.nfe for row in report.timings), sum((row.seconds for row in report.timings), 0.0)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
