"""Verbs that look at a stored run: where it stands, what it holds.

Heavy imports are in the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import OUT, show, show_fields, show_json, show_rows
from flows.cli.options import AsJson, Uri
from ood_core.errors import RunIncomplete


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


def inspect(uri: Uri, as_json: AsJson = False) -> None:
    """Show what a run's tables hold: axes, types, ranges, round trips, settings."""
    from flows.report.inspection import describe
    from ood_core.store.run import RunStore

    found = describe(RunStore.open(uri))
    if as_json:
        show_json(found)
        return
    header = ("array", "shape", "type", "units", "min", "mean", "max")
    rows = [[row[key] for key in header] for row in found["arrays"]]
    show_rows(f"arrays of {uri}", header, rows)
    show_fields("run", {k: v for k, v in found.items() if k != "arrays"})


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
    rows: Annotated[int, typer.Option(help="Rows of maps, six a row on either side.")] = 4,
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
