"""The data behind each figure of the report as CSV: long tables, one row per point.

Curves are in model range, as the figures are; every column names its unit where it has one.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from ood_core.evaluation.atlas import LatentAtlas
from ood_core.evaluation.gains import Utility
from ood_core.evaluation.morphology import Shapes
from ood_core.evaluation.results import (
    Band,
    HistogramCurves,
    Score,
    SpectrumCurves,
    ValidationReport,
)
from ood_core.report.record import ReportInput, TrustMap

SCORES = "scores.csv"
SPECTRUM = "spectrum.csv"
HISTOGRAM = "pixel-values.csv"
NEAREST = "nearest.csv"
ROUND_TRIPS = "round-trips.csv"
TRUST = "trust-map.csv"
UTILITY = "utility.csv"
ATLAS = "latents.csv"
PROFILES = "profiles.csv"

Row = tuple[Any, ...]


def series(report: ReportInput) -> dict[str, bytes]:
    """Return the files beside the page, by name; a figure that is not drawn has none."""
    checked = report.validation
    files = {
        SCORES: _csv(_scores(checked.scores)),
        SPECTRUM: _csv(_spectrum(checked.spectrum)),
        HISTOGRAM: _csv(_histogram(checked.histogram)),
        NEAREST: _csv(_nearest(checked)),
    }
    if len(report.psnr):
        rows = ((index, float(value)) for index, value in enumerate(report.psnr))
        files[ROUND_TRIPS] = _csv([("fit_target", "psnr_db"), *rows])
    if report.trust is not None:
        files[TRUST] = _csv(_trust(report.trust))
    if report.shapes is not None:
        files[PROFILES] = _csv(_profiles(report.shapes))
    if report.atlas is not None:
        files[ATLAS] = _csv(_atlas(report.atlas, report.psnr.tolist()))
    if report.utility is not None:
        files[UTILITY] = _csv(_utility(report.utility))
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


def _nearest(report: ValidationReport) -> Iterator[Row]:
    yield ("set", "map", "distance_rms_per_pixel")
    for name, values in (("real", report.nearest_real), ("synthetic", report.nearest_samples)):
        for index, value in enumerate(values.tolist()):
            yield (name, index, value)


def _trust(trust: TrustMap) -> Iterator[Row]:
    yield ("noise_to_signal", "wavenumber_cycles_per_pixel", "expert", "weight")
    for level, bands in zip(trust.noise_to_signal.tolist(), trust.weights.tolist(), strict=True):
        for band, weights in zip(trust.bands.tolist(), bands, strict=True):
            for expert, weight in zip(trust.experts, weights, strict=True):
                yield (level, band, expert, weight)


def _profiles(found: Shapes) -> Iterator[Row]:
    yield (
        "radius_pixels", "real_median", "real_16_percent", "real_84_percent",
        "synthetic_median", "synthetic_16_percent", "synthetic_84_percent",
    )  # fmt: skip
    (real,), (samples,) = _points(found.real), _points(found.samples)
    for radius, truth, drawn in zip(found.radius.tolist(), real, samples, strict=True):
        yield (radius, *truth, *drawn)


def _atlas(found: LatentAtlas, psnr: list[float]) -> Iterator[Row]:
    yield (
        "set", "number", "first_axis", "second_axis", "psnr_db", "nearest_target",
        "distance_own_units", "log_density_nats_per_dimension", "prior_membership",
    )  # fmt: skip
    columns = found.neighbour, found.distance, found.log_density, found.membership
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for i, place, words in zip(found.numbers.tolist(), found.targets.tolist(), rows, strict=True):
        yield ("target", i, *place, psnr[i], *words)
    for i, place in enumerate(found.draws.tolist()):
        yield ("sample", i, *place, "", "", "", "", "")


def _utility(found: Utility) -> Iterator[Row]:
    yield (
        "learner", "trained_on", "synthetic_per_real", "maps", "score", "score_2.5_percent",
        "score_97.5_percent", "gain", "gain_2.5_percent", "gain_97.5_percent",
    )  # fmt: skip
    for arm in found.arms:
        per_real = "" if arm.multiple is None else arm.multiple
        yield (
            arm.learner, arm.title, per_real, arm.maps, arm.score, arm.low, arm.high,
            arm.gain, arm.gain_low, arm.gain_high,
        )  # fmt: skip


def _csv(rows: Iterable[Row]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()
