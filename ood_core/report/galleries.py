"""Which maps a report shows, and what it says under each.

Maps are taken at even steps through their set, never chosen by looks; the exceptions, closest pairs
and least typical samples, are chosen against the run.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import orbit_size, transform
from ood_core.report.pictures import Stretch, even_rows, map_png
from ood_core.report.record import PhysicalMaps, ReportInput

SMALL = 128  # pixels a side: larger maps weigh more, so fewer are shown


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """One inline image."""

    source: str
    alt: str
    label: str = ""


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures to compare, with what connects them."""

    first: Picture
    second: Picture
    caption: str


@final
@dataclass(frozen=True, slots=True)
class Galleries:
    """All pictures of maps, on one colour scale."""

    targets: list[Picture]
    round_trips: list[Pair]
    samples: list[Picture]
    more_samples: list[Picture]
    closest: list[Pair]
    least_typical: list[Picture]
    tells: list[Pair]


def galleries(report: ReportInput, stretch: Stretch) -> Galleries:
    """Choose and draw the maps of a report."""
    small = max(report.fit.shape[-2:]) <= SMALL
    side, wide, few = (16, 24, 8) if small else (12, 0, 4)
    shown = [report.numbers[row] for row in even_rows(len(report.samples), side + wide)]
    # Alternate picks, so that either gallery runs through the whole set.
    beside = shown[:: max(1, len(shown) // side)][:side]
    more = [index for index in shown if index not in set(beside)]
    return Galleries(
        targets=_pictures(report.fit, even_rows(len(report.fit), side), "real target", stretch),
        round_trips=_round_trips(report, stretch, few),
        samples=_samples(report, beside, stretch),
        more_samples=_samples(report, more, stretch),
        closest=_closest(report, stretch, few),
        least_typical=_samples(report, report.result.least_typical[:few], stretch),
        tells=_tells(report, stretch),
    )


def data_uri(png: bytes) -> str:
    """Return a PNG as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _pictures(
    maps: PhysicalMaps, rows: Sequence[int], noun: str, stretch: Stretch
) -> list[Picture]:
    return [
        Picture(data_uri(map_png(maps[row, 0], stretch)), f"{noun} {row}", str(row))
        for row in rows
        if row < len(maps)
    ]


def _samples(report: ReportInput, numbers: Sequence[int], stretch: Stretch) -> list[Picture]:
    """Draw the samples of these numbers that were read."""
    place = {number: row for row, number in enumerate(report.numbers)}
    found = [number for number in numbers if number in place]
    return [
        Picture(
            data_uri(map_png(report.samples[place[n], 0], stretch)), f"synthetic map {n}", str(n)
        )
        for n in found
    ]


def _round_trips(report: ReportInput, stretch: Stretch, most: int) -> list[Pair]:
    rows = even_rows(len(report.round_trips), most) if len(report.round_trips) else []
    before = _pictures(report.round_trip_targets, rows, "real target", stretch)
    after = _pictures(report.round_trips, rows, "round trip of target", stretch)
    captions = [f"{report.psnr[row]:.1f} dB" for row in rows]
    return [Pair(*triple) for triple in zip(before, after, captions, strict=True)]


def _closest(report: ReportInput, stretch: Stretch, most: int) -> list[Pair]:
    typical = float(report.result.nearest_real.double().quantile(0.5))
    pairs = []
    for near in report.result.closest[:most]:
        drawn = _samples(report, [near.sample], stretch)
        if not drawn or near.target >= len(report.fit):
            continue
        field = torch.from_numpy(np.ascontiguousarray(report.fit[near.target : near.target + 1]))
        image = transform(field, near.element, report.symmetries).numpy()
        name = element_name(near.element, report.symmetries)
        alt = f"real target {near.target}, {name}"
        second = Picture(data_uri(map_png(image[0, 0], stretch)), alt, str(near.target))
        share = f"{near.distance / typical:.2f} of the real median" if typical > 0 else ""
        caption = f"sample {near.sample} · target {near.target}, {name} · {share}"
        pairs.append(Pair(drawn[0], second, caption))
    return pairs


def _tells(report: ReportInput, stretch: Stretch) -> list[Pair]:
    """Samples that the network is surest of, each beside where it tells them."""
    network, pairs = report.result.tests.network, []
    tells = () if network is None else network.tells
    scale = Stretch.fit(np.concatenate([[0.0], *(tell.where.flatten() for tell in tells)]))
    for tell in tells:
        drawn = _samples(report, [tell.sample], stretch)
        alt = f"where sample {tell.sample} is told"
        where = Picture(data_uri(map_png(tell.where.numpy(), scale)), alt)
        pairs += [Pair(picture, where, f"sample {tell.sample}") for picture in drawn]
    return pairs


def element_name(element: int, symmetries: Sequence[Symmetry]) -> str:
    """Return the name of a group element of `ood_core.numerics.symmetry.orbit`."""
    turns = 4 if "rotate90" in symmetries else 1
    element %= orbit_size(symmetries)
    parts = []
    if element % turns:
        parts.append(f"turned {90 * (element % turns)}°")
    if element >= turns:
        parts.append("mirrored")
    return " and ".join(parts) or "as it is"
