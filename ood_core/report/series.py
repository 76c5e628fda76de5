"""The data behind each figure of the report as CSV: long tables, one row per point.

Curves are in model range, as the figures are; every column names its unit where it has one.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from ood_core.evaluation.downstream import DownstreamResult
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
        zip(_points(curves.real), _points(curves.samples), strict=True)
    ):
        for place, truth, drawn in zip(k, real, samples, strict=True):
            yield (channel, place, *truth, *drawn)


def _histogram(curves: HistogramCurves) -> Iterator[Row]:
    yield (
        "channel", "pixel_value",
        "real_density", "real_5_percent", "real_95_percent", "synthetic_density",
    )  # fmt: skip
    sets = zip(curves.centres.tolist(), _points(curves.real), curves.samples.tolist(), strict=True)
    for channel, (centres, real, samples) in enumerate(sets):
        for place, truth, drawn in zip(centres, real, samples, strict=True):
            yield (channel, place, *truth, drawn)


def _points(band: Band) -> Iterator[list[tuple[float, float, float]]]:
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
    for level, bands in zip(trust.noise_to_signal.tolist(), trust.weights.tolist(), strict=True):
        for band, weights in zip(trust.bands.tolist(), bands, strict=True):
            for expert, weight in zip(trust.experts, weights, strict=True):
                yield (level, band, expert, weight)


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
