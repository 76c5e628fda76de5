"""Verbs that put a run on a schedule, or on a cluster. Heavy imports are in the verbs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import ERR, OUT, shown
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


def submit(
    config: Config,
    out: Annotated[str, typer.Option(help="s3://bucket/prefix, or a folder that all nodes see.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder that is sent, with the configuration in it.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="Wheel of farfield that is sent.")] = None,
    runtime_env: Annotated[Path | None, typer.Option(help="Ray's runtime_env (YAML).")] = None,
    sets: Sets = None,
) -> None:
    """Run a configuration inside a Ray cluster, and follow its log; the same command resumes.

    The job goes on when this command ends: the same command finds it again.
    """
    from flows.tools.submit import submit_run

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    code = submit_run(
        config,
        out,
        address,
        sets=sets or (),
        working_dir=working_dir,
        wheel=wheel,
        runtime_env=runtime_env,
        write=write,
        say=lambda text: ERR.print(shown(text)),
    )
    raise typer.Exit(code)
