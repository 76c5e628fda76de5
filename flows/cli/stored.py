"""The verbs of the command line that look at a stored run: where it stands, what it holds.

Heavy libraries are imported inside the commands.
"""

from pathlib import Path
from typing import Annotated

import typer

from ood_core.errors import RunIncomplete

Uri = Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def status(uri: Uri, as_json: AsJson = False) -> None:
    """Say where a run stands, from its store alone."""
    from flows.cli.console import show_fields, show_json, show_rows
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
    from flows.cli.console import show_fields, show_json, show_rows
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


def verify(uri: Uri, as_json: AsJson = False) -> None:
    """Read every finished shard back and compare it with its receipt."""
    from flows.cli.console import show_fields, show_json
    from flows.report.inspection import verify_run
    from ood_core.store.files import writing
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    with writing(store.root):
        found = verify_run(store)
    show_json(found) if as_json else show_fields(f"verified {uri}", found)
    raise typer.Exit(5 if found["damaged"] else 0)


def validate(
    uri: Uri,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="Ask something else: c2st=0.6; null asks nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the stored samples again, decide the gate, and write its outcome and the report."""
    from flows.cli.console import show_fields, show_json
    from flows.cli.exits import EXIT_OF_STATE
    from flows.runs.extension import stored_settings
    from flows.runs.lease_guard import holding
    from flows.runs.stages import perform, summary, validate_set
    from ood_core.store.files import read_json
    from ood_core.store.run import GATE, RunStore

    store = RunStore.open(uri)
    settings = stored_settings(store, [f"gate.{condition}" for condition in gate or []])
    missing = len(store.receipts("generate").missing(store.plan("generate")))
    if missing:
        raise RunIncomplete(
            f"{uri}: {missing} shards of samples are missing; finish it with `farfield run` first"
        )
    with holding(store):
        sentence = perform("validate", validate_set, store, settings)
    reasons = read_json(store.root / GATE)["reasons"]
    found = {**summary(store), "summary": sentence, "reasons": reasons}
    show_json(found) if as_json else show_fields(f"validated {uri}", found)
    raise typer.Exit(EXIT_OF_STATE.get(found["state"], 0))


def report(uri: Uri, as_json: AsJson = False) -> None:
    """Write the report anew from the scores that are stored; nothing is computed again."""
    from flows.cli.console import OUT, show_json
    from flows.runs.extension import stored_settings
    from flows.runs.lease_guard import holding
    from flows.runs.stages import rewrite_report, summary
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    if store.state in ("planned", "incomplete", "running"):
        raise RunIncomplete(f"{uri} is {store.state}; finish it with `farfield run` first")
    with holding(store):
        sentence = rewrite_report(store, stored_settings(store))
    found = {"summary": sentence, "page": str(store.root / "report" / "index.html")}
    show_json({**summary(store), **found}) if as_json else OUT.print(f"{sentence}\n{found['page']}")


def drill(
    uri: Uri,
    work: Annotated[
        Path | None, typer.Option(help="Folder for the copy; else beside the run.")
    ] = None,
    pool: Annotated[str, typer.Option(help="ray kills a worker as well.")] = "inline",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override base or execution.KEY.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hurt a copy of a finished run with real faults and see whether it survives them."""
    from dataclasses import asdict

    from flows.cli.console import bars_shown, show_json, show_rows
    from flows.drill import drill as hurt
    from flows.runs.extension import stored_settings
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    ray = stored_settings(store, [*(sets or ()), f"execution.pool={pool}"]).execution.pool == "ray"
    with bars_shown():
        found = hurt(store, work, ray, sets or ())
    survived = all(outcome.survived is not False for outcome in found)
    if as_json:
        show_json({"survived": survived, "faults": [asdict(outcome) for outcome in found]})
    else:
        header = ("fault", "injected", "survived", "seconds lost", "samples redone", "note")
        show_rows(f"drill of {uri}", header, [outcome.row for outcome in found])
    raise typer.Exit(0 if survived else 1)
