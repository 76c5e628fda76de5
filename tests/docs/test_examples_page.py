"""The page of examples shows every example that its command makes, by its own picture."""

import re
from pathlib import Path

from PIL import Image

from benchmarks.examples import DOCS, EXAMPLES, WIDTH
from flows.settings import load_settings


def test_every_example_has_its_configuration_section_and_picture() -> None:
    text = (DOCS / "examples.md").read_text("utf-8")
    assert re.findall(r"`examples/(\S+)\.yaml`", text) == list(EXAMPLES)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(EXAMPLES.values())
    for name in EXAMPLES:
        assert Path(load_settings(DOCS.parent / "examples" / f"{name}.yaml").targets.path).exists()
        with Image.open(DOCS / "pictures" / f"example-{name}.png") as picture:
            assert picture.width == WIDTH
