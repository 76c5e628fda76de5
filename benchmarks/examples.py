"""Run the examples and write their pages.

python -m benchmarks.examples RUNS [--samples 128]

Each configuration is run into RUNS/NAME, unless a finished run lies there already. Then
`docs/examples.md`, a page of each example and its pictures are written from what the runs stored.
"""

import argparse
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, final

from PIL import Image

from flows.handle import RunHandle, run
from flows.report.inputs import shown_samples
from ood_core.evaluation.results import EvaluationResult
from ood_core.report.figures import LIGHT, histogram, spectrum
from ood_core.report.pictures import contact_sheet
from ood_core.store.files import exists, read_json
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
DATA = PROJECT / "examples" / "targets" / "README.md"


@final
@dataclass(frozen=True, slots=True)
class Example:
    """A configuration and what its page says of it.

    Attributes:
        title: heading.
        shows: what the configuration is an example of.
        data: sections of the page on shipped targets whose source and licence hold.
        about: the maps, and why they are read as they are.
        use: what to do with the run `runs/NAME`: words and commands.
    """

    title: str
    shows: str
    data: tuple[str, ...]
    about: str
    use: str


EXAMPLES = {
    "hubble-fast": Example(
        "Galaxies: cut-outs of the Hubble eXtreme Deep Field",
        "many small sources on a faint sky; eight steps in place of twelve",
        ("hubble.fits",),
        """Each map is centred on a source. Most pixels are sky and few are bright, so the
transform is `asinh`: linear about the sky, logarithmic in the light of galaxies. A survey has
no preferred direction, so flips and quarter turns are declared; positions are not free (every
source is centred), so shifts are not. Fit and held-out maps come from different parts of the
picture.""",
        """Add them where a network learns from few cut-outs, and measure first whether that
helps. Do not measure colours, fluxes or counts on them: the targets themselves are display
levels.

    farfield utility runs/hubble-fast --labels flux
    farfield export runs/hubble-fast galaxies --format webdataset
    farfield export runs/hubble-fast galaxies.fits""",
    ),
    "sun": Example(
        "The Sun: squares of the disc in the extreme ultraviolet",
        "maps from one image, split by place",
        ("sun.fits",),
        """Squares of one image of the whole disc: loops and bright points above the quiet Sun.
Fitted maps come from a band from pole to pole, held-out ones from both sides of it.
Neighbouring squares are alike, which tests and bands allow for: they say how many independent
maps the held-out ones are worth.""",
        """Widen a training set for a detector of bright points, or fill a simulator of an
instrument with scenes. The set knows one day of one Sun: it cannot tell of activity that this
image lacks.

    farfield walk runs/sun --from 0 --to 40
    farfield export runs/sun sun.h5""",
    ),
    "dust": Example(
        "Dust: tiles of one FITS map with its WCS",
        "`targets.tiles` of one large map in celestial coordinates",
        ("dust.fits", "perseus.fits"),
        """One extinction map of the Perseus molecular cloud, cut into tiles that overlap by
half. One end of the cloud is fitted and the other held out, a tile's width apart. The two ends
differ, and few tiles are independent: the page says so in numbers, and bands are wide.""",
        """Make backgrounds for source injection at the true pixel scale. The FITS files carry
`BUNIT`, the pixel scale of the map (`CDELT1`, `CDELT2`) and no position, for there is no such
place on the sky.

    farfield export runs/dust dust.fits
    farfield export runs/dust dust --format fits --per-file 1
    farfield field runs/dust --size 256x256 --out field.fits""",
    ),
    "reionisation": Example(
        "Reionisation: planes of simulated boxes, whose truth can be simulated again",
        "a simulator: any number of true maps can be had to compare with",
        ("reionisation.fits",),
        """Brightness temperature of the 21 cm line where about half of the hydrogen is ionised.
Bubbles are exactly 0 mK, a third of all pixels, so the transform is `linear` and the stored
maps keep that value. No box is in both splits.""",
        """An emulator's test bench: what the evidence says of 320 held-out planes can be
checked on any number of new ones. Fronts of bubbles and values of pixels differ from true
ones here, and quantization moves every value below some 7 mK to 0 mK, so an inference that
rests on them would be wrong.

    farfield export runs/reionisation planes.nc
    farfield extend runs/reionisation --samples 10000""",
    ),
    "terrain": Example(
        "Terrain: tiles of a mosaic of mountains",
        "data that are not astronomical, without any symmetry",
        ("terrain.fits",),
        """Heights in an area of ridges that run from south-west to north-east, cut into tiles
that overlap by half. The western part is fitted, the eastern one held out. No symmetry is
declared: a turned ridge would be another landscape.""",
        """Terrain for a model of run-off or of line of sight that needs many valleys of one
kind. Eastern heights are lower than western ones, which no set made from the west can know.

    farfield inspect examples/terrain.yaml --picture terrain.png
    farfield export runs/terrain heights.zarr""",
    ),
}
"""The examples, by configuration."""
HEAD = """# Examples

Configurations of `examples/`, each run with few samples, and its outcome as its report states it.
Few samples make wide bands: figures of methods are in [results.md](results.md). Data, credits and
licences: [targets of the examples](../examples/targets/README.md). These pages are made by
`python -m benchmarks.examples RUNS`. One of them with its whole report:

    farfield run examples/dust.yaml --out runs/dust

| example | shows | maps: fitted, held out, made | scores inside the band | families that differ |
|---|---|---|---|---|"""
WIDTH, ROWS, COLOURS = 1000, 8, 32
"""Of a picture: pixels, rows of maps, colours of its palette."""


def main() -> None:
    """Make what is not there, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--samples", type=int, default=128, help="of each example")
    arguments = parser.parse_args()
    rows = []
    for name, example in EXAMPLES.items():
        out = (arguments.runs / name).absolute()
        handle = RunHandle(out)
        if not exists(handle.page):
            run(
                f"examples/{name}.yaml",
                out,
                generation={"samples": arguments.samples},
                execution={"pool": "inline", "orchestrator": "none"},
            )
        _pictures(name, handle)
        (DOCS / page(name)).write_text(_page(name, example, handle), "utf-8")
        rows.append(_row(name, example, handle))
    (DOCS / "examples.md").write_text("\n".join([HEAD, *rows, ""]), "utf-8")


def page(name: str) -> str:
    """Return the file name of an example's page."""
    return f"example_{name.replace('-', '_')}.md"


def sources(section: str) -> list[str]:
    """Return source, credit and licence of a shipped file, as rows of a table.

    Raises:
        LookupError: the page on shipped targets has no such section.
    """
    found = re.search(
        rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", DATA.read_text("utf-8"), re.M | re.S
    )
    if found is None:
        raise LookupError(f"{DATA} has no section {section}")
    return re.findall(r"^(\| (?:Source|Credit|Licence) \| .*)$", found[1], re.MULTILINE)


def _pictures(name: str, handle: RunHandle) -> None:
    """Real beside synthetic maps, and spectrum beside values."""
    stored, result = RunStore.open(str(handle.path)), handle.result()
    targets = load_targets(stored)
    sheet = contact_sheet(targets.fit, shown_samples(stored)[0], targets.unit, name, ROWS)
    curves = [spectrum(result.spectrum, LIGHT), histogram(result.histogram, LIGHT)]
    for kind, parts in (("maps", [sheet]), ("curves", curves)):
        images = [Image.open(BytesIO(part)).convert("RGBA") for part in parts]
        whole = Image.new("RGB", (sum(i.width for i in images), images[0].height), "white")
        left = 0
        for image in images:
            whole.paste(image, (left, 0), image)
            left += image.width
        small = whole.resize((WIDTH, whole.height * WIDTH // whole.width))
        path = DOCS / "pictures" / f"example-{name}-{kind}.png"
        small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def _row(name: str, example: Example, handle: RunHandle) -> str:
    """One example in the table of all."""
    result, maps = handle.result(), _record(handle)["maps"]
    inside = sum(score.inside for score in result.scores.values())
    families = [family for family in _families(result) if not family.steered]
    return (
        f"| [{example.title}]({page(name)}) | {example.shows} "
        f"| {maps['fit']}, {maps['held_out']}, {maps['samples']} "
        f"| {inside} of {len(result.scores)} "
        f"| {sum(family.rejected for family in families)} of {len(families)} |"
    )


def _page(name: str, example: Example, handle: RunHandle) -> str:
    """What it is, its data, its configuration, its picture, its evidence, its use."""
    record, result = _record(handle), handle.result()
    targets, maps = record["settings"]["targets"], record["maps"]
    cut = targets["tiles"]
    given = [
        f"{maps['fit']} fitted and {maps['held_out']} held-out maps of "
        f"{' x '.join(map(str, record['shape']))} (channel, y, x) in {record['unit'] or 'no unit'}",
        f"tiles at a stride of {cut['stride']} px" if cut else "",
        f"transform `{targets['transform']}`",
        f"symmetries: {', '.join(targets['symmetries']) or 'none'}",
    ]
    scores = [
        f"| {score.title} | {score.value:.3g} | {score.low:.3g} to {score.high:.3g} "
        f"| {'inside' if score.inside else 'outside'} |"
        for score in result.scores.values()
    ]
    tests = [
        f"| {family.title} | {family.distance:.3g} | {family.detectable_distance:.3g} "
        f"| {'steered' if family.adjusted is None else f'{family.adjusted:.3g}'} |"
        for family in _families(result)
    ]
    rows = dict.fromkeys(row for section in example.data for row in sources(section))
    return "\n".join(
        [
            f"# {example.title}\n",
            f"{example.about}\n",
            "## Data\n",
            "| | |\n|---|---|",
            *rows,
            f"\n{'; '.join(filter(None, given))}. More on the file:"
            " [shipped targets](../examples/targets/README.md).\n",
            "## Configuration\n",
            f"`examples/{name}.yaml`\n",
            "```yaml",
            (PROJECT / "examples" / f"{name}.yaml").read_text("utf-8").rstrip(),
            "```\n",
            "## Real and synthetic\n",
            "Left: fitted targets. Right: samples. Both at even steps, on one colour scale.\n",
            f"![Real targets and synthetic maps of {name}](pictures/example-{name}-maps.png)\n",
            "## Evidence\n",
            f"State: *{record['state']}* ({_reasons(record)}). Real maps are held-out ones.\n",
            f"{result.summary}\n",
            "| score | samples | real maps, 90 % | |\n|---|---|---|---|",
            *scores,
            "\nPower spectrum, and values of pixels, in model range (after the transform):\n",
            f"![Spectra and values of {name}](pictures/example-{name}-curves.png)\n",
            "Tests of families of statistics, against held-out maps: an energy distance in spreads"
            " of the targets (0 for equal laws), the one that would be found with 80 % power, and"
            " the p-value adjusted for all families. No p-value counts of one that is steered.\n",
            "| family | distance | detectable | adjusted p |\n|---|---|---|---|",
            *tests,
            "\n## What to do with it\n",
            f"    farfield run examples/{name}.yaml --out runs/{name}\n",
            f"{example.use}\n",
        ]
    )


def _families(result: EvaluationResult) -> list[Any]:
    return list(result.tests.families) if result.tests else []


def _reasons(record: dict[str, Any]) -> str:
    return "; ".join(record["settings"]["gate"]) or "all that the gate asks holds"


def _record(handle: RunHandle) -> dict[str, Any]:
    found: dict[str, Any] = read_json(handle.page.parent / "report.json")
    return found


if __name__ == "__main__":
    main()
