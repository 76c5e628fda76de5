"""Run the examples and write the page about them.

python -m benchmarks.examples RUNS [--samples 128]

Each configuration is run into RUNS/NAME, unless a finished run lies there already. Then
`docs/examples.md` and its pictures are written from what the runs stored.
"""

import argparse
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from flows.handle import RunHandle, run
from ood_core.store.files import exists, read_bytes, read_json

EXAMPLES = {
    "hubble-fast": "Galaxies: cut-outs of the Hubble eXtreme Deep Field",
    "sun": "The Sun: squares of the disc in the extreme ultraviolet",
    "dust": "Dust: tiles of one FITS map with its WCS",
    "reionisation": "Reionisation: planes of simulated boxes, whose truth can be simulated again",
    "terrain": "Terrain: tiles of a mosaic of mountains",
}
"""Configurations, by name, and what each shows."""
DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Examples

Configurations of `examples/`, each run with few samples, and its outcome as its report states it.
Left half of a picture: targets that were fitted to. Right half: synthetic maps. Data, credits and
licences: [targets of the examples](../examples/targets/README.md). Few samples make wide bands:
figures of methods are in [results.md](results.md).

This page is made by `python -m benchmarks.examples RUNS`. One of them with its whole report:

    farfield run examples/dust.yaml --out runs/dust
"""
WIDTH = 1200
"""Pixels of a picture."""


def main() -> None:
    """Make what is not there, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--samples", type=int, default=128, help="of each example")
    arguments = parser.parse_args()
    sections = []
    for name, title in EXAMPLES.items():
        handle = RunHandle((arguments.runs / name).absolute())
        if not exists(handle.page):
            run(
                f"examples/{name}.yaml",
                handle.path,
                generation={"samples": arguments.samples},
                execution={"pool": "inline", "orchestrator": "none"},
            )
        _picture(handle, DOCS / "pictures" / f"example-{name}.png")
        sections.append(_section(name, title, handle))
    (DOCS / "examples.md").write_text("\n".join([HEAD, *sections]), "utf-8")


def _picture(handle: RunHandle, path: Path) -> None:
    """The gallery of the report, smaller."""
    with Image.open(BytesIO(read_bytes(handle.page.parent / "gallery.png"))) as sheet:
        small = sheet.convert("RGB").resize((WIDTH, sheet.height * WIDTH // sheet.width))
    small.quantize(128).save(path, optimize=True)


def _section(name: str, title: str, handle: RunHandle) -> str:
    """One example: what goes in, the picture, the scores beside those of real maps."""
    record: dict[str, Any] = read_json(handle.page.parent / "report.json")
    result, targets, maps = handle.result(), record["settings"]["targets"], record["maps"]
    cut = targets["tiles"]
    given = [
        f"{maps['fit']} fitted and {maps['held_out']} held-out maps of "
        f"{' x '.join(map(str, record['shape']))} (channel, y, x) in {record['unit'] or 'no unit'}",
        f"tiles at a stride of {cut['stride']} px" if cut else "",
        f"transform `{targets['transform']}`",
        f"symmetries: {', '.join(targets['symmetries']) or 'none'}",
        f"{maps['samples']} samples",
    ]
    rows = [
        f"| {score.title} | {score.value:.3g} | {score.low:.3g} to {score.high:.3g} |"
        for score in result.scores.values()
    ]
    lines = [
        f"## {title}",
        "",
        f"`examples/{name}.yaml`: {'; '.join(filter(None, given))}. State: *{record['state']}*.",
        "",
        f"![Real targets and synthetic maps of {name}](pictures/example-{name}.png)",
        "",
        "| score | samples | real maps, 95 % |",
        "|---|---|---|",
        *rows,
        "",
        result.summary,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
