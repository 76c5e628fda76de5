"""The command line: parse, call, exit code. Heavy libraries are imported inside the commands.

Exit codes: 0 fine, 1 anything else (in use by another driver, not writable), 2 bad input or
configuration, 3 quarantined, 4 undecided, 5 incomplete, 6 identity refused.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.bench import bench_app
from flows.cli.exits import EXIT_OF_STATE
from flows.cli.gallery import gallery
from flows.cli.levels import levels
from flows.cli.models import models_app
from flows.cli.samples import extend, replay
from flows.cli.stored import drill, inspect, report, status, validate, verify
from flows.cli.utility import utility
from flows.cli.walk import walk
from ood_core.errors import FarfieldError, IdentityRefused, InputError, RunIncomplete

if TYPE_CHECKING:
    from flows.settings import RunSettings

app = typer.Typer(
    help="Mass-produce synthetic scientific maps from a few dozen real ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=__doc__.split("\n\n", 1)[1] if __doc__ else None,
)
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")

Config = Annotated[Path, typer.Argument(help="Configuration file (YAML).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: generation.samples=64.")
]
Out = Annotated[
    str, typer.Option(help="Folder of the run or s3://bucket/prefix; the same resumes.")
]
PoolName = Annotated[str | None, typer.Option("--pool", help="ray or inline.")]
Orchestrator = Annotated[str | None, typer.Option(help="prefect or none.")]
Cron = Annotated[str | None, typer.Option(help="Schedule, such as '0 2 * * *'.")]
Interval = Annotated[float | None, typer.Option(help="Schedule: every so many seconds.")]


@app.command()
def demo(
    out: Out = "runs/demo",
    sets: Sets = None,
    pool: PoolName = None,
    orchestrator: Orchestrator = None,
    as_json: AsJson = False,
    show: Annotated[bool, typer.Option(help="Open the report in a browser.")] = True,
) -> None:
    """Run the main job on the shipped base and real Hubble cut-outs, and show the report."""
    from ood_core.maps.paths import SHIPPED

    result = _run(SHIPPED / "examples" / "hubble.yaml", out, sets, pool, orchestrator, as_json)
    if show and sys.stdout.isatty() and "://" not in result["report"]:
        typer.launch(result["report"])
    raise typer.Exit(EXIT_OF_STATE.get(result["state"], 0))


@app.command()
def run(
    config: Config,
    out: Out,
    sets: Sets = None,
    pool: PoolName = None,
    orchestrator: Orchestrator = None,
    as_json: AsJson = False,
) -> None:
    """Run a configuration from targets to report; run it again to resume."""
    result = _run(config, out, sets, pool, orchestrator, as_json)
    raise typer.Exit(EXIT_OF_STATE.get(result["state"], 0))


@app.command()
def plan(config: Config, sets: Sets = None, as_json: AsJson = False) -> None:
    """Show what a run would cost, before paying: a probe of two batches, nothing written."""
    from flows.cli.console import show_fields, show_json
    from flows.runs.cost import estimate_cost
    from flows.settings import load_settings

    cost = estimate_cost(load_settings(config, sets or []))
    show_json(cost) if as_json else show_fields(f"plan of {config}", cost)


@app.command()
def pretrain(
    config: Config,
    work: Annotated[str, typer.Option(help="Folder of checkpoints.")] = "training",
    models: Annotated[str, typer.Option(help="Folder that receives the base.")] = "models",
    sets: Sets = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers that share each batch.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    orchestrator: Orchestrator = None,
) -> None:
    """Train a base on its domains; run again after a kill to go on where it stopped."""
    from dataclasses import asdict

    from flows.cli.console import OUT, bars_shown
    from flows.settings import load_recipe

    recipe = load_recipe(config, sets or [])
    place = str(Path(work) / recipe.name)
    with bars_shown():
        if orchestrator == "none":
            from flows.tools.pretrain import train_base

            folder = str(train_base(recipe, Path(place), Path(models), workers, device))
        else:
            from flows.orchestration.prefect_flows import pretrain as pretrain_flow

            folder = pretrain_flow(asdict(recipe), place, models, workers, device)
    OUT.print(folder)


@app.command()
def serve(
    config: Config,
    out: Out,
    cron: Cron = None,
    interval: Interval = None,
    sets: Sets = None,
    pool: PoolName = None,
) -> None:
    """Run a configuration on a schedule, in this process, until it is stopped.

    `{run}` in --out becomes the name of the flow run: a new set each time.
    """
    from flows.orchestration.serving import serve as serve_deployment

    serve_deployment(_load(config, sets, pool), out, cron, interval)


@app.command()
def deploy(
    config: Config,
    out: Out,
    work_pool: Annotated[str, typer.Option(help="Prefect work pool whose workers run it.")],
    cron: Cron = None,
    interval: Interval = None,
    sets: Sets = None,
    pool: PoolName = None,
) -> None:
    """Register a configuration with a Prefect work pool, on a schedule or to be run on demand."""
    from flows.cli.console import OUT
    from flows.orchestration.serving import deploy as register

    OUT.print(register(_load(config, sets, pool), out, work_pool, cron, interval))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from flows.cli.console import show_json
    from flows.settings import RunSettings

    show_json(RunSettings.model_json_schema())


VERBS = (
    status,
    inspect,
    verify,
    validate,
    report,
    gallery,
    walk,
    levels,
    extend,
    replay,
    drill,
    utility,
)
for verb in VERBS:
    app.command()(verb)


def _run(
    config: Path,
    out: str,
    sets: list[str] | None,
    pool: str | None,
    orchestrator: str | None,
    as_json: bool,
) -> dict[str, Any]:
    from flows.cli.console import bars_shown, show_fields, show_json
    from ood_core.store.place import place_at

    settings = _load(config, sets, pool, orchestrator)
    with bars_shown():
        result = _line(settings, out)
    result["report"] = str(place_at(result["uri"]) / "report" / "index.html")
    show_json(result) if as_json else show_fields(settings.name, result)
    return result


def _line(settings: "RunSettings", out: str) -> dict[str, Any]:
    """Run the line under the orchestrator that the settings name."""
    if settings.execution.orchestrator == "none":
        from flows.runs.lifecycle import run_line

        return run_line(settings, out)
    from flows.orchestration.prefect_flows import run_flow

    return run_flow(settings, out)


def _load(
    config: Path, sets: list[str] | None, pool: str | None, orchestrator: str | None = None
) -> "RunSettings":
    from flows.settings import load_settings

    chosen = [f"execution.pool={pool}"] if pool else []
    chosen += [f"execution.orchestrator={orchestrator}"] if orchestrator else []
    return load_settings(config, [*(sets or []), *chosen])


def main() -> None:
    """Run the command line; errors that users can mend become one message and an exit code."""
    from flows.cli.console import show_error, warnings_shown

    try:
        with warnings_shown():
            app()
    except FarfieldError as error:
        show_error(str(error))
        sys.exit(_exit_code(error))


def _exit_code(error: FarfieldError) -> int:
    match error:
        case InputError():
            return 2
        case RunIncomplete():
            return 5
        case IdentityRefused():
            return 6
        case _:
            return 1


if __name__ == "__main__":
    main()
