"""Verbs that make something: a run, more samples of it, a base. Heavy imports are in the verbs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import OUT, interruptible, show
from flows.cli.options import (
    AsJson,
    Config,
    OpenSets,
    Orchestrator,
    Out,
    Pool,
    Sets,
    Uri,
    exit_of_state,
    load,
    overrides,
)
from flows.progress import bars_shown

if TYPE_CHECKING:
    from flows.settings import RunSettings
    from ood_core.store.run import RunStore


def demo(
    out: Out = "runs/demo",
    sets: Sets = None,
    pool: Pool = None,
    orchestrator: Orchestrator = None,
    as_json: AsJson = False,
    show: Annotated[bool, typer.Option(help="Open the report in a browser.")] = True,
) -> None:
    """Run the example of Hubble cut-outs on the shipped base, and show the report."""
    from ood_core.maps.paths import SHIPPED

    settings = load(SHIPPED / "examples" / "hubble.yaml", sets, pool, orchestrator)
    result = _run_and_show(settings, out, as_json)
    if show and sys.stdout.isatty() and "://" not in result["report"]:
        typer.launch(result["report"])
    raise typer.Exit(exit_of_state(result["state"]))


def plan(config: Config, sets: Sets = None, as_json: AsJson = False) -> None:
    """Show what a run would cost, before paying; nothing is written.

    Three noise levels are calibrated and one batch is tried, on the device of the run.
    """
    from flows.runs.cost import estimate_cost

    cost = estimate_cost(load(config, sets, None))
    show(f"plan of {config}", cost, as_json)


def run(
    config: Config,
    out: Out,
    sets: Sets = None,
    pool: Pool = None,
    orchestrator: Orchestrator = None,
    as_json: AsJson = False,
) -> None:
    """Run a configuration from targets to report; run it again to resume."""
    result = _run_and_show(load(config, sets, pool, orchestrator), out, as_json)
    raise typer.Exit(exit_of_state(result["state"]))


def extend(
    uri: Uri,
    samples: Annotated[int, typer.Option(help="Number of samples in all.")],
    sets: OpenSets = None,
    pool: Pool = None,
    orchestrator: Orchestrator = None,
    as_json: AsJson = False,
) -> None:
    """Grow a run to more samples without touching those it has; run it again to resume."""
    from flows.runs.lifecycle import stored_settings, with_samples
    from ood_core.store.run import RunStore

    store = RunStore.open(uri)
    settings = stored_settings(store, overrides(sets, pool, orchestrator))
    with bars_shown(), interruptible():
        result = _extend(store, with_samples(settings, samples))
    show(settings.name, result, as_json)
    raise typer.Exit(exit_of_state(result["state"]))


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


def _run_and_show(settings: "RunSettings", out: str, as_json: bool) -> dict[str, Any]:
    from flows.handle import make
    from ood_core.store.place import place_at

    with bars_shown(), interruptible():
        result = make(settings, out)
    result["report"] = str(place_at(result["uri"]) / "report" / "index.html")
    show(settings.name, result, as_json)
    return result


def _extend(store: "RunStore", settings: "RunSettings") -> dict[str, Any]:
    """Grow the run under the orchestrator that the settings name."""
    if settings.execution.orchestrator == "none":
        from flows.runs.lifecycle import extend_run

        return extend_run(store, settings)
    from flows.orchestration.service import require_prefect

    require_prefect()
    from flows.orchestration.prefect_flows import extend_flow

    return extend_flow(store, settings)
