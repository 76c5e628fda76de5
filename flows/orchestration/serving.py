"""Deployments: runs on a schedule, served by this process or handed to a work pool.

Both run the flow `synthesise` by its module path, so they need the installed package and no source
tree. Two runs of one deployment never overlap: the limit is one run, and a run that falls due while
another is at work is cancelled, because the next one finds the same store and the same work.
"""

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.deployments.runner import deploy as apply_to_pool
from prefect.exceptions import ObjectNotFound
from prefect.flows import serve as serve_here
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from flows.orchestration.prefect_flows import synthesise
from flows.settings import RunSettings
from ood_core.errors import ConfigError
from ood_core.store.place import place_at

ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)


def serve(
    settings: RunSettings, out: str, cron: str | None = None, interval: float | None = None
) -> None:
    """Register a deployment and run what falls due, in this process, until it is stopped.

    The schedule is paused when the process ends.

    Raises:
        ConfigError: no Prefect API is configured, or the schedule is not one.
    """
    _require_api()
    serve_here(deployment(settings, out, cron, interval), limit=1)


def deploy(
    settings: RunSettings,
    out: str,
    work_pool: str,
    cron: str | None = None,
    interval: float | None = None,
) -> str:
    """Register a deployment with a work pool, whose workers run it; return its full name.

    Raises:
        ConfigError: no Prefect API is configured, no such work pool, or the schedule is not one.
    """
    _require_api()
    wanted = deployment(settings, out, cron, interval)
    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(work_pool).type
        except ObjectNotFound as error:
            raise ConfigError(
                f"--work-pool {work_pool}: no such work pool at {PREFECT_API_URL.value()}; make "
                f"it with `prefect work-pool create {work_pool} --type process`"
            ) from error
    if kind != "process":
        raise ConfigError(
            f"--work-pool {work_pool}: got a pool of type {kind}, whose workers need an image "
            "with the code, job variables (volumes, resources, credentials) and paths as they are "
            "inside it, none of which this command has; expected a pool of type process, or "
            "`prefect deploy` with a file such as deploy/prefect.yaml that names them"
        )
    apply_to_pool(
        wanted, work_pool_name=work_pool, print_next_steps_message=False, ignore_warnings=True
    )
    return f"{wanted.flow_name}/{wanted.name}"


def deployment(
    settings: RunSettings, out: str, cron: str | None = None, interval: float | None = None
) -> RunnerDeployment:
    """The deployment of one configuration; without a schedule it runs on demand.

    Raises:
        ConfigError: both kinds of schedule, or one that cannot be read.
    """
    if cron is not None and interval is not None:
        raise ConfigError("got both --cron and --interval; expected one schedule")
    if interval is not None and not interval > 0:
        raise ConfigError(f"--interval {interval}: expected a positive number of seconds")
    parameters: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "out": str(place_at(out)),
    }
    try:
        return RunnerDeployment.from_flow(
            synthesise,
            name=settings.name,
            cron=cron,
            interval=interval,
            parameters=parameters,
            concurrency_limit=ONE_AT_A_TIME,
            description=f"Synthetic maps of {settings.name}.",
            tags=["farfield"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"--cron {cron!r}, --interval {interval}: not a schedule ({error}); expected five cron "
            "fields such as '0 2 * * *', or seconds"
        ) from error


def _require_api() -> None:
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "no Prefect API is configured, and only a running server fires schedules: run "
            "`prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
