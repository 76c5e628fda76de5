"""Verbs that put a run on a schedule. Heavy imports are in the verbs."""

from typing import Annotated

import typer

from flows.cli.console import OUT
from flows.cli.options import Config, Cron, Interval, Out, Pool, Sets, load


def serve(
    config: Config,
    out: Out,
    cron: Cron = None,
    interval: Interval = None,
    sets: Sets = None,
    pool: Pool = None,
) -> None:
    """Run a configuration on a schedule, in this process, until it is stopped.

    `{run}` in --out becomes the name of the flow run: a new set each time.
    """
    from flows.orchestration.serving import serve as serve_deployment

    serve_deployment(load(config, sets, pool), out, cron, interval)


def deploy(
    config: Config,
    out: Out,
    work_pool: Annotated[str, typer.Option(help="Prefect work pool whose workers run it.")],
    cron: Cron = None,
    interval: Interval = None,
    sets: Sets = None,
    pool: Pool = None,
) -> None:
    """Register a configuration with a Prefect work pool, on a schedule or to be run on demand."""
    from flows.orchestration.serving import deploy as register

    OUT.print(register(load(config, sets, pool), out, work_pool, cron, interval))
