"""The data-set card and its twins: true to the record, escaped, valid by outside readers."""

import json
from dataclasses import replace

import mlcroissant
import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from rocrate.rocrate import ROCrate

from ood_core.evaluation.results import (
    Band,
    EvaluationResult,
    HistogramCurves,
    Score,
    SpectrumCurves,
    TwoSampleTests,
)
from ood_core.report.card import (
    ArrayRow,
    CardInput,
    bibtex,
    citation,
    markdown,
    one_line,
    read_credit,
    render_card,
    size_category,
)
from ood_core.report.linked_data import crate, croissant
from ood_core.report.record import ReportInput

HOSTILE = '<script>alert("x")</script> `a` | b ![i](x) **c**\n---\n# d\r\n```\n1. e & {f} \\ $g$ %h'
COMMENTS = """\
OBJECT  = 'Hubble XDF'         / in Fornax
COMMENT Real data. Source: elsewhere
COMMENT Credit: NASA; ESA; G. Illingworth (University
COMMENT of California, Santa Cruz).
COMMENT Licence: {}
COMMENT Values: display levels.
HISTORY Licence: MIT"""


def some_card() -> CardInput:
    curve = torch.ones(1, 3)
    band = Band(curve, curve, curve)
    maps = np.ones((2, 1, 4, 4), np.float32)
    scores = [
        Score("c2st", "classifier test", 0.734, 0.492, 0.46, 0.551, "half", "|a| of b"),
        Score("nearest_ratio", "nearest-target ratio", 1.01, 1.0, 0.98, 1.02, "one", "c"),
    ]
    result = EvaluationResult(
        scores={score.name: score for score in scores},
        spectrum=SpectrumCurves(curve[0], band, band),
        histogram=HistogramCurves(curve, curve, band),
        nearest_samples=torch.ones(2),
        nearest_real=torch.ones(2),
        closest=(),
        least_typical=(),
        count=2,
        tests=TwoSampleTests(2, 2, (), 0.5, None, ()),
        summary="Outside the band: classifier test.",
    )
    report = ReportInput(
        name="gamma",
        identity="0123456789abcdef" * 4,
        state="published",
        unit="mK",
        fit=maps,
        held_out=maps,
        samples=maps,
        round_trips=maps[:0],
        round_trip_targets=maps[:0],
        psnr=np.zeros(0),
        result=result,
        symmetries=("flip",),
        settings={"prior": "isotropic", "steering": None, "targets": {"path": "/a/secret/b.fits"}},
        versions={"farfield": "0.1.0"},
        timings=(),
        base={"source": "/a/secret/dead-leaves", "digest": "ab" * 32},
    )
    arrays = (
        ArrayRow("maps", ("sample", "c", "y", "x"), (1024, 1, 4, 4), "float32", "mK", "map"),
        ArrayRow("sample", ("sample",), (1024,), "int64", "1", "number"),
    )
    return CardInput(
        report=report,
        arrays=arrays,
        digest="cd" * 32,
        day="2026-01-02",
        source="b.fits",
        header=COMMENTS.format("CC BY 4.0"),
        seed=7,
        reasons=("c2st is 0.734, asked at most 0.8: met",),
    )


def hostile_card() -> CardInput:
    card = some_card()
    report = replace(
        card.report,
        name=HOSTILE,
        unit=HOSTILE,
        state=HOSTILE,
        settings={HOSTILE: HOSTILE},
        base={"source": HOSTILE, "digest": HOSTILE},
        versions={"farfield": HOSTILE},
    )
    arrays = tuple(replace(row, unit=HOSTILE, meaning=HOSTILE) for row in card.arrays)
    return replace(
        card,
        report=report,
        arrays=arrays,
        source=HOSTILE,
        header=COMMENTS.format(" ".join(HOSTILE.split())),
        reasons=(HOSTILE,),
    )


def shape(text: str) -> list[str]:
    """The block structure of a card: kinds of tokens, without what they say."""
    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inner = [child.type for token in tokens for child in token.children or []]
    return [token.type for token in tokens] + [kind for kind in inner if kind != "text"]


def front(text: str) -> dict:
    opening, block, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(block)


def test_the_card_says_what_the_record_says():
    card = some_card()
    text = render_card(card)
    assert front(text) == {
        "license": "cc-by-4.0",
        "pretty_name": "gamma (synthetic)",
        "tags": ["synthetic", "scientific-maps", "farfield", "zarr"],
        "size_categories": ["1K<n<10K"],
    }
    body = text.split("\n---\n", 1)[1]
    said_first = body.index("These maps are synthetic. They are not observations.")
    assert said_first < body.index(card.report.result.summary) < body.index("## ")
    for word in (card.report.identity, "ab" * 32, "| seed | 7 |", "xr.open_zarr", "0.734", "met"):
        assert word in text
    assert "report/gallery.png" in text and citation(card) in text
    assert "secret" not in text + json.dumps(croissant(card)) + json.dumps(crate(card, ()))
    assert "steered" not in text
    steered = replace(card, report=replace(card.report, settings={"steering": {"steps": 1}}))
    assert "steered" in render_card(steered)


def test_hostile_text_changes_no_structure():
    """Tokens that an independent Markdown parser finds: the same as with harmless words."""
    card = some_card()
    plain = replace(card, report=replace(card.report, settings={"a": "b"}))
    text = render_card(hostile_card())
    assert shape(text) == shape(render_card(plain))
    html = MarkdownIt("commonmark").enable("table").render(text.split("\n---\n", 1)[1])
    assert "<script" not in html and html.count("<img") == 1
    assert html.count("&lt;script&gt;") >= 8
    assert front(text)["pretty_name"] == f"{one_line(HOSTILE)} (synthetic)"
    assert front(text)["license"] == "other"


def test_unescaped_text_would_change_the_structure():
    """The check above can fail: the same words, let through, are markup."""
    text = render_card(some_card())
    assert shape(text) != shape(text.replace("(b.fits)", f"({HOSTILE})"))


@pytest.mark.parametrize(
    "text",
    ["---", "===", "- a", "+ a", "1. a", "12) a", "# a", "> a", "| a |", "```", "* * *", "~~~"],
)
def test_a_value_alone_on_a_line_is_a_paragraph_of_its_text(text):
    page = MarkdownIt("commonmark").enable("table")
    assert [t.type for t in page.parse(f"a\n\n{markdown(text)}\n")][3:] == [
        "paragraph_open", "inline", "paragraph_close"
    ]  # fmt: skip
    inline = page.parse(f"{markdown(text)}\n")[1]
    assert "".join(child.content for child in inline.children or []) == text


def test_bibtex_keeps_its_braces_and_its_lines():
    text = bibtex(HOSTILE)
    bare = text.replace("\\{", "").replace("\\}", "").replace("\\textbackslash{}", "")
    assert "{" not in bare and "}" not in bare and "\n" not in text and "`" not in text
    assert len(citation(hostile_card()).splitlines()) == 6


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CC BY 4.0, see the page", "cc-by-4.0"),
        ("CC-BY-SA-4.0", "cc-by-sa-4.0"),
        ("MIT, that of astrodendro", "mit"),
        ("mitigated", "other"),
        ("not MIT", "other"),
        ("CC BY 3.0", "other"),
        ("public domain", "other"),
    ],
)
def test_a_licence_is_named_only_where_the_header_names_it(statement, name):
    found = read_credit(COMMENTS.format(statement))
    assert (found.licence, found.statement) == (name, statement)
    assert found.credit == "NASA; ESA; G. Illingworth (University of California, Santa Cruz)"


def test_headers_without_words_name_nothing():
    assert read_credit("").licence == "other"
    assert read_credit("LICENSE = 'Apache-2.0'         / of the maps").licence == "apache-2.0"
    found = read_credit("COMMENT nothing here")
    assert (found.licence, found.statement, found.credit) == ("other", "", "")


def test_sizes_have_the_names_of_the_hub():
    assert [size_category(n) for n in (1, 999, 1000, 99_999, 10**6, 10**9)] == [
        "n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M", "n>10M"
    ]  # fmt: skip


@pytest.mark.parametrize("make", [some_card, hostile_card])
def test_croissant_is_valid_by_its_own_library(make):
    card = make()
    found = mlcroissant.Dataset(croissant(card)).metadata
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings
    (samples,) = found.record_sets
    maps = samples.fields[0]
    assert (maps.id, maps.array_shape_tuple) == ("samples/maps", (1, 4, 4))
    assert str(maps.data_types[0]).endswith("Float32")


def test_the_library_refuses_a_broken_croissant():
    broken = croissant(some_card())
    broken["recordSet"][0]["field"][0]["source"]["fileSet"] = {"@id": "no-such-set"}
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(broken)


@pytest.mark.parametrize("make", [some_card, hostile_card])
def test_the_crate_is_read_by_its_own_library(make, tmp_path):
    record = crate(make(), ("scores.csv",))
    (tmp_path / "ro-crate-metadata.json").write_text(json.dumps(record))
    found = ROCrate(tmp_path)
    assert found.version == "1.1" and found.root_dataset["datePublished"] == "2026-01-02"
    action = found.dereference("#run")
    assert action["instrument"]["name"] == "Farfield"
    assert action["result"] is found.dereference("dataset.zarr/")
    assert {"report/scores.csv", "README.md"} <= {part.id for part in found.root_dataset["hasPart"]}
    names = {entity["@id"] for entity in record["@graph"]}
    assert references(record["@graph"]) <= names | {"https://w3id.org/ro/crate/1.1"}


def references(value: object) -> set[str]:
    """All entities that a graph points to."""
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            return {value["@id"]}
        return set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()
