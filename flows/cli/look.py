"""Verbs that look at a stored run: where it stands, what it holds.

Heavy imports are in the verbs.
"""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.console import OUT, show, show_fields, show_json, show_rows
from flows.cli.options import AsJson, Uri
from ood_core.errors import RunIncomplete, TargetWarning


def status(uri: Uri, as_json: AsJson = False) -> None:
    """Say where a run stands, from its store alone."""
    from flows.runs.stages import summary
    from ood_core.store.run import RunStore

    found = summary(RunStore.open(uri))
    if as_json:
        show_json(found)
        return
    failures = found.pop("failures")
    show_fields(f"run at {uri}", found)
    if failures:
        header = ("stage", "shard", "tried", "error", "targets")
        show_rows("failed", header, [[row[key] for key in header] for row in failures])


def inspect(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT", help="A run, or targets: a file, folder, pattern or configuration."
        ),
    ],
    array: Annotated[str | None, typer.Option(help="targets.array.")] = None,
    axes: Annotated[str | None, typer.Option(help="targets.axes, such as nyxc.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Configuration to write, ready to run.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG, SVG or PDF to draw: maps and their values.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what targets hold and what suits them, or what a run's tables hold."""
    from flows.report.inspection import describe
    from ood_core.errors import ConfigError
    from ood_core.store.run import RunStore

    what, *others = words
    if others:
        raise ConfigError(
            f"inspect: got {len(words)} paths; expected one; name their folder, or put a pattern "
            "in quotes so that the shell leaves it as it is: 'clouds/*.fits'"
        )
    run = None if what.endswith((".yaml", ".yml")) else RunStore.at(what)
    if run is None or not run.exists:
        _inspect_targets(what, {"array": array, "axes": axes}, write, picture, as_json)
        return
    found = describe(RunStore.open(what))
    if as_json:
        show_json(found)
        return
    header = ("array", "shape", "type", "units", "min", "mean", "max")
    rows = [[row[key] for key in header] for row in found["arrays"]]
    show_rows(f"arrays of {what}", header, rows)
    show_fields("run", {k: v for k, v in found.items() if k != "arrays"})


def _inspect_targets(
    what: str, chosen: dict[str, Any], write: Path | None, picture: Path | None, as_json: bool
) -> None:
    from flows.tools.targets_inspection import (
        inspect_targets,
        spec_of,
        write_configuration,
        write_picture,
    )

    spec = spec_of(what, {name: value for name, value in chosen.items() if value})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TargetWarning)  # they are in the description
        found, maps = inspect_targets(spec)
    if picture:
        write_picture(picture, maps)
    if write:
        write_configuration(write, spec, found)
    if as_json:
        show_json(found)
        return
    _show_targets(what, found, bool(write))
    if write:
        show_fields("", {"written": f"{write}; next: farfield run {write} --out runs/NAME"})


def _show_targets(what: str, found: dict[str, Any], written: bool) -> None:
    """Print a description; what a run would refuse, but for settings that were written."""
    tables = ("values", "transform", "symmetries", "base", "notes", "refused", "quantization")
    needed = found["missing"].pop("advice")
    show_fields(f"targets {what}", {k: v for k, v in found.items() if k not in tables})
    if needed:
        show_fields("targets.missing", needed)
    for number, row in enumerate(found["values"]):
        show_fields(f"values of channel {number}, {found['unit'] or 'no unit'}", row)
    for part in ("transform", "base"):
        show_fields(part, found.get(part, {}))
    tests = [[name, *test.values()] for name, test in found.get("symmetries", {}).items()]
    header = ("symmetry", "p", "effect", "about (y, x)", "outcome")
    show_rows("symmetries, as the maps show them", header, tests)
    told = {"note": found["notes"], "quantization": found.get("quantization", [])}
    for name, lines in told.items():
        for line in lines:
            show_fields("", {name: line})
    if found["refused"] and not (written and needed):
        without = " without targets.missing" if needed else ""
        show_fields("", {f"a run would refuse these targets{without}": found["refused"]})


def report(uri: Uri, as_json: AsJson = False) -> None:
    """Write the report anew from the scores that are stored; nothing is computed again."""
    from flows.runs.lease_guard import hold_lease
    from flows.runs.lifecycle import stored_settings
    from flows.runs.stages import rewrite_report, summary
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    if store.state in ("planned", "incomplete", "running"):
        raise RunIncomplete(f"{uri} is {store.state}; finish it with `farfield run` first")
    with hold_lease(store):
        sentence = rewrite_report(store, stored_settings(store))
    found = {"summary": sentence, "page": str(store.root / "report" / "index.html")}
    show_json({**summary(store), **found}) if as_json else OUT.print(f"{sentence}\n{found['page']}")


def gallery(
    uri: Uri,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG, SVG or PDF to write; else report/gallery.png."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of maps, eight a row on either side.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Draw real targets beside synthetic maps on one colour scale, as a picture."""
    from flows.report.publishing import write_gallery
    from ood_core.store.run import RunStore

    place = str(write_gallery(RunStore.open(uri), out, rows))
    show_json({"picture": place}) if as_json else OUT.print(place)


def verify(uri: Uri, as_json: AsJson = False) -> None:
    """Read every finished shard back and compare it with its receipt."""
    from flows.report.inspection import verify_run
    from ood_core.store.files import writing
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    with writing(store.root):
        found = verify_run(store)
    show(f"verified {uri}", found, as_json)
    raise typer.Exit(5 if found["damaged"] else 0)
