"""Every example has its page, with its configuration, its source, its pictures and its commands."""

import re

import pytest
from PIL import Image

from benchmarks.examples import DOCS, EXAMPLES, PROJECT, WIDTH, page, sources
from flows.cli.main import VERBS

MAX_BYTES = 150_000


def test_the_table_leads_to_every_page():
    text = (DOCS / "examples.md").read_text("utf-8")
    assert re.findall(r"^\| \[.*?\]\((\S+)\) \|", text, re.MULTILINE) == [page(n) for n in EXAMPLES]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_shows_what_goes_in_and_what_came_out(name):
    text = (DOCS / page(name)).read_text("utf-8")
    assert text.startswith(f"# {EXAMPLES[name].title}\n")
    assert (PROJECT / "examples" / f"{name}.yaml").read_text("utf-8") in text
    for section in EXAMPLES[name].data:
        assert all(row in text for row in sources(section))
    assert "| Licence | " in text
    pictures = re.findall(r"\(pictures/(\S+)\)", text)
    assert pictures == [f"example-{name}-maps.png", f"example-{name}-curves.png"]
    for picture in pictures:
        path = DOCS / "pictures" / picture
        assert path.stat().st_size < MAX_BYTES
        with Image.open(path) as image:
            assert image.width == WIDTH


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_names_verbs_that_there_are(name):
    verbs = {verb for group in VERBS.values() for verb in group}
    found = re.findall(r"^    farfield (\S+)", (DOCS / page(name)).read_text("utf-8"), re.MULTILINE)
    assert found[0] == "run"
    assert set(found) <= verbs


def test_a_file_without_a_source_is_an_error():
    with pytest.raises(LookupError, match="nowhere"):
        sources("nowhere.fits")
