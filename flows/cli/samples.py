"""The verbs of the command line about the samples of one run: more of them, and one of them again.

Heavy libraries are imported inside the commands.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.exits import EXIT_OF_STATE

if TYPE_CHECKING:
    from flows.settings import RunSettings
    from ood_core.store.run import RunStore

Uri = Annotated[str, typer.Argument(help="Folder of a run, or s3://bucket/prefix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override base, gate.KEY or execution.KEY.")
]


def extend(
    uri: Uri,
    samples: Annotated[int, typer.Option(help="Number of samples in all.")],
    sets: Sets = None,
    pool: Annotated[str | None, typer.Option("--pool", help="ray or inline.")] = None,
    orchestrator: Annotated[str | None, typer.Option(help="prefect or none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Grow a run to more samples without touching those it has; run it again to resume."""
    from flows.cli.console import bars_shown, show_fields, show_json
    from flows.runs.extension import stored_settings, with_samples
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    chosen = [f"execution.pool={pool}"] if pool else []
    chosen += [f"execution.orchestrator={orchestrator}"] if orchestrator else []
    settings = with_samples(stored_settings(store, [*(sets or []), *chosen]), samples)
    with bars_shown():
        result = _extended(store, settings)
    show_json(result) if as_json else show_fields(settings.name, result)
    raise typer.Exit(EXIT_OF_STATE.get(result["state"], 0))


def replay(
    uri: Uri,
    sample: Annotated[int, typer.Option(help="Number of the sample, from 0.")],
    alone: Annotated[bool, typer.Option(help="A batch of one: faster, other rounding.")] = False,
    out: Annotated[str | None, typer.Option(help="Write the map to a .npy or .png file.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Recompute one sample from the run's folder and compare it with the stored one."""
    from flows.cli.console import show_fields, show_json
    from flows.runs.extension import stored_settings
    from flows.tools.replay import replay_sample
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    found = replay_sample(store, stored_settings(store, sets or []), sample, alone, out)
    show_json(found) if as_json else show_fields(f"sample {sample} of {uri}", found)
    raise typer.Exit(1 if found["verdict"] == "differs" else 0)


def _extended(store: "RunStore", settings: "RunSettings") -> dict[str, Any]:
    """Grow the run under the orchestrator that the settings name."""
    if settings.execution.orchestrator == "none":
        from flows.runs.extension import extend_run

        return extend_run(store, settings)
    from flows.orchestration.prefect_flows import extend_flow

    return extend_flow(store, settings)
