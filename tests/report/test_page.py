"""The report: self-contained, escaped, faithful to its numbers."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ood_core.errors import InputError
from ood_core.evaluation.downstream import (
    OTHERS,
    DownstreamResult,
    TrainingSetScore,
    summarize_gain,
)
from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.evaluation.probes import PROBES
from ood_core.evaluation.results import Score
from ood_core.numerics.random import Root
from ood_core.report.figures import series
from ood_core.report.galleries import element_name
from ood_core.report.page import flatten, numbers, render, score_strip
from ood_core.report.pictures import Stretch, map_png, short
from ood_core.report.record import ReportInput, TimingRow, TrustMap, WalkStrip

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
HOSTILE = '<script>alert("x")</script>'


def maps(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=(n, 1, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def report() -> ReportInput:
    fit, held_out, samples = maps(12, 0), maps(12, 1), maps(40, 2)
    inputs = tuple(torch.from_numpy(values / 5 - 1) for values in (samples, fit, held_out))
    levels, bands = np.array([0.1, 1.0, 10.0]), np.array([0.1, 0.3])
    return ReportInput(
        name="gamma noise",
        identity="0123456789abcdef",
        state="published",
        unit="Jy / beam",
        fit=fit,
        held_out=held_out,
        samples=samples,
        round_trips=fit,
        round_trip_targets=fit,
        psnr=np.linspace(30, 40, 12),
        result=evaluate_maps(inputs[0], inputs[1], inputs[2], ("flip",), Root(1)),
        symmetries=("flip",),
        settings={"method": {"preset": "calibrated", "steps": 18}, "symmetries": ["flip"]},
        versions={"torch": "2"},
        timings=(TimingRow("decode", 2, 40, 720, 3.5), TimingRow("invert", 1, 12, 100, 1.5)),
        base={"model": "dead leaves"},
        trust=TrustMap(levels, bands, np.full((3, 2, 2), 0.5), ("base", "Gaussian")),
    )


@pytest.fixture(scope="module")
def page(report: ReportInput) -> str:
    return render(report)


class Tags(HTMLParser):
    """Collects start tags with their attributes and checks that they close in order."""

    void = frozenset({"meta", "img", "source", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    assert not parser.open
    yield from parser.found


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    for tag, attributes in tags(page):
        assert tag not in {"script", "link", "iframe"}
        if "href" in attributes:
            continue  # data beside the page, not part of it
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:image/png").startswith("data:image/png")
    assert "http" not in page and len(page) < 6_000_000


def test_every_picture_has_a_text_alternative(page: str) -> None:
    images = [attributes for tag, attributes in tags(page) if tag == "img"]
    assert len(images) > 60
    assert all("alt" in attributes for attributes in images)
    assert sum(not attributes["alt"] for attributes in images) == 1  # the bar, labelled round it


def test_every_figure_links_to_its_data(report: ReportInput, page: str) -> None:
    linked = [attributes["href"] for tag, attributes in tags(page) if tag == "a"]
    assert sorted(linked, key=str) == sorted(series(report))
    assert len(linked) == page.count("<picture>") + 1  # and the strips of the scores


def test_the_data_are_those_of_the_figures(report: ReportInput) -> None:
    tables = {
        name: list(csv.DictReader(io.StringIO(text.decode())))
        for name, text in series(report).items()
    }
    result = report.result
    spectrum = tables["spectrum.csv"]
    assert [float(row["wavenumber_cycles_per_pixel"]) for row in spectrum] == (
        result.spectrum.k.tolist()
    )
    assert [float(row["real_16_percent"]) for row in spectrum] == (
        result.spectrum.real.low[0].tolist()
    )
    assert [float(row["synthetic_median"]) for row in spectrum] == (
        result.spectrum.samples.median[0].tolist()
    )
    pixels = tables["pixel-values.csv"]
    assert [float(row["real_95_percent"]) for row in pixels] == (
        result.histogram.real.high[0].tolist()
    )
    assert [float(row["synthetic_density"]) for row in pixels] == (
        result.histogram.samples[0].tolist()
    )
    synthetic = [
        float(row["distance_rms_per_pixel"])
        for row in tables["nearest.csv"]
        if row["set"] == "synthetic"
    ]
    assert synthetic == result.nearest_samples.tolist()
    assert [float(row["psnr_db"]) for row in tables["round-trips.csv"]] == report.psnr.tolist()
    assert len(tables["trust-map.csv"]) == 3 * 2 * 2
    assert [row["title"] for row in tables["scores.csv"]] == [
        s.title for s in result.scores.values()
    ]


def test_a_hostile_name_is_text(report: ReportInput) -> None:
    hostile = replace(
        report,
        name=HOSTILE,
        unit=HOSTILE,
        state=HOSTILE,
        settings={HOSTILE: HOSTILE},
        base={"a": HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    page = render(hostile)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page


def test_the_summary_comes_before_the_first_picture(report: ReportInput, page: str) -> None:
    assert page.index(report.result.summary[:40]) < page.index("data:image")


def test_the_numbers_are_those_of_the_validation(report: ReportInput) -> None:
    record = json.loads(json.dumps(numbers(report), allow_nan=False))
    assert record["evaluation"] == report.result.to_json()
    assert record["maps"] == {
        "fit": 12, "held_out": 12, "samples": 40, "subsample": 40, "shown": 40,
    }  # fmt: skip
    assert record["values"]["samples"]["mean"] == pytest.approx(
        float(report.samples.mean()), rel=1e-5
    )
    assert record["trust"]["weights"][0][0] == [0.5, 0.5]
    assert record["timings"][0]["nfe"] == 720


def test_the_page_shows_each_score_and_the_total_cost(report: ReportInput, page: str) -> None:
    for score in report.result.scores.values():
        assert page.count(short(score.value)) >= 2
    assert "820" in page and "5.0" in page


def test_the_page_shows_what_unsteered_statistics_say(report: ReportInput, page: str) -> None:
    tests = report.result.tests
    start = page.index("Tests of what was not steered")
    table = page[start : page.index("Numbers</h2>")]
    for test in tests.families:
        assert f"{test.title}" in table and f">{short(test.p_value)}<" in table
        assert f">{short(test.detectable_shift)}" in table
    assert table.count("steered, for reference") == 1
    assert all(row.title in table for row in tests.variety) and len(tests.variety) == 5
    unsteered = sum(not test.steered for test in tests.families)
    assert table.count("no difference shown") == unsteered and "too few maps" not in table


def test_too_few_maps_are_said_to_tell_nothing(report: ReportInput) -> None:
    result = report.result
    few = replace(result.tests, attainable_p=0.3, variety=(), classifier=None)
    page = render(replace(report, result=replace(result, tests=few)))
    assert "too few maps: p cannot fall below 0.300" in page
    assert "no difference shown</td>" not in page and "linear classifier, all" not in page


def test_the_trust_map_says_who_is_asked_how_often(report: ReportInput) -> None:
    weights = np.full((3, 2, 2), 0.5)
    weights[:2, :, 0] = 0
    weights[2, 0, 0] = 0  # one band of one level is left
    assert report.trust is not None
    page = render(replace(report, trust=replace(report.trust, weights=weights)))
    assert "of 3 timesteps, base at 1, Gaussian at 3." in page


def test_a_report_without_round_trips_and_trust_renders(report: ReportInput) -> None:
    none = report.fit[:0]
    bare = replace(
        report, round_trips=none, round_trip_targets=none, psnr=np.zeros(0), trust=None, timings=()
    )
    page = render(bare)
    assert "Round trips" not in page and "Trust map" not in page
    assert numbers(bare)["trust"] is None
    assert {"round-trips.csv", "trust-map.csv"}.isdisjoint(series(bare))
    assert "round-trips.csv" not in page and "trust-map.csv" not in page


def test_gain_and_walks_are_shown_where_they_were_measured(report: ReportInput) -> None:
    row = TrainingSetScore(
        "linear", "real", "real maps alone", None, 12, 0.6, 0.5, 0.7, 0.0, 0.0, 0.0
    )
    rows = tuple(
        replace(row, probe=probe, name=name, multiple=k)
        for probe in PROBES
        for name, k in (("real", None), *((name, None) for name in OTHERS), ("real+1", 1),
                        ("synthetic", 1))
    )  # fmt: skip
    gain = DownstreamResult(HOSTILE, ("a", "b"), 0.5, 12, 12, 40, 40, 1, 4, rows, "")
    gain = replace(gain, summary=summarize_gain(gain))
    walks = (WalkStrip(HOSTILE, base64.b64decode(PIXEL), "../walks/a-to-b/walk.csv"),)
    whole = replace(report, downstream=gain, walks=walks)
    page, files = render(whole), series(whole)
    linked = [attributes["href"] for tag, attributes in tags(page) if tag == "a"]
    assert sorted(linked, key=str) == sorted([*files, walks[0].data])
    assert {"utility.csv"} == files.keys() - series(report).keys()
    assert "do not help a linear model on statistics" in page and "<script" not in page
    record = json.loads(json.dumps(numbers(whole), allow_nan=False))
    assert record["downstream"]["summary"] == gain.summary


def test_counts_that_disagree_are_refused(report: ReportInput) -> None:
    with pytest.raises(InputError):
        replace(report, psnr=np.zeros(3))
    with pytest.raises(InputError):
        TrustMap(np.ones(2), np.ones(2), np.ones((2, 2, 1)), ("a", "b"))


def test_a_picture_holds_the_field_upright_on_the_shared_scale(page: str) -> None:
    field = np.arange(12.0).reshape(3, 4)
    stretch = Stretch.fit(field)
    with Image.open(io.BytesIO(map_png(field, stretch))) as image:
        indices = np.asarray(image)
    assert indices.shape == (192, 256)
    seen = indices[32::64, 32::64][::-1]  # the first row lies at the bottom
    np.testing.assert_array_equal(seen, np.round(255 * stretch(field)))
    first = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert first and base64.b64decode(first[1])[:4] == b"\x89PNG"


def test_the_scale_is_monotone_and_its_ticks_lie_on_it() -> None:
    stretch = Stretch.fit(np.random.default_rng(0).lognormal(size=1000))
    places = stretch(np.linspace(stretch.low, stretch.high, 50))
    assert (np.diff(places) > 0).all() and places[0] == 0 and places[-1] == 1
    for place, value in stretch.ticks():
        assert float(stretch(np.array([value]))[0]) == pytest.approx(place, abs=1e-9)
    constant = Stretch.fit(np.full(10, 3.0))(np.array([3.0, np.nan]))
    assert np.isfinite(constant).all()


def test_a_score_inside_its_band_is_drawn_inside_it() -> None:
    strip = score_strip(Score("fsd", "FSD", 9.0, 8.0, 6.0, 10.0, "lower", ""))
    assert strip.band_left < strip.real < strip.value < strip.band_left + strip.band_width
    copied = score_strip(Score("n", "n", float("inf"), 1.0, 0.9, 1.1, "one", ""))
    assert 0 <= copied.value <= 100


def test_words_and_numbers() -> None:
    assert [element_name(e, ("flip", "rotate90")) for e in (0, 3, 4, 6)] == [
        "as it is",
        "turned 270°",
        "mirrored",
        "turned 180° and mirrored",
    ]
    assert element_name(1, ("flip",)) == "mirrored"
    assert [short(v) for v in (1.0, 0.08501, 12345, 1234.6, 2e-7, float("inf"), "a")] == [
        "1.00", "0.0850", "12,345", "1,235", "2.00e-07", "∞", "a"
    ]  # fmt: skip
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert dict(flatten(tree)) == {"a.b": "1", "a.c": "1, 2", "d": "none"}
