"""Prefect flows and tasks; with `flows.orchestration.serving` the only importer of prefect.

Prefect says when. Truth about what is done lives in the store alone, so caching and persisted
results are off; parameters and results are plain settings and a summary, never arrays.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from httpx import TransportError
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed
from prefect.tasks import exponential_backoff

from flows.progress import Listener, listener
from flows.runs.lifecycle import extend_run, make_run
from flows.runs.planning import RunPlan, plan_run
from flows.runs.stages import Stage, perform
from flows.settings import RunSettings, parse, parse_recipe
from flows.tools.pretrain import train_base
from ood_core.errors import ConfigError, InUse, RunIncomplete, ServiceLost, StoreUnreachable
from ood_core.report.card import markdown
from ood_core.store.place import link, place_at
from ood_core.store.run import RunStore

ARTIFACT_SECONDS = 3.0
BACKOFF_SECONDS = 10
RETRIES = 4
"""Times that a task is begun again after the store or the network failed, later each time."""


class Artifacts:
    """Shows progress in Prefect (an artifact per stage, a log line at its end), passes it on.

    A server that is gone costs one wait for it; then progress is not reported and the work goes on.
    """

    def __init__(self, outer: Listener, name: str) -> None:
        self._outer, self._name = outer, name
        self._total = self._done = 0
        self._shown_at = 0.0
        self._artifact: Any = None
        self._heard = True

    def begin(self, stage: str, total: int, done: int) -> None:
        """Open the stage's progress artifact."""
        self._total, self._done, self._shown_at = total, done, time.monotonic()
        self._artifact = self._tell(
            create_progress_artifact,
            progress=self._percent(),
            key=artifact_key(self._name, stage),
            description=f"{stage}: {total} rows",
        )
        self._outer.begin(stage, total, done)

    def advance(self, stage: str, rows: int) -> None:
        """Count rows; report to the server at most every few seconds."""
        self._done += rows
        if time.monotonic() - self._shown_at > ARTIFACT_SECONDS:
            self._update(self._percent())
            self._shown_at = time.monotonic()
        self._outer.advance(stage, rows)

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Close the artifact and log one line."""
        self._update(100.0)
        self._artifact = None
        get_run_logger().info("%s: %s (%.1f s)", stage, note, seconds)
        self._outer.end(stage, seconds, note)

    def say(self, text: str) -> None:
        """Log a warning."""
        get_run_logger().warning("%s", text)
        self._outer.say(text)

    def _update(self, percent: float) -> None:
        if self._artifact is not None:
            self._tell(update_progress_artifact, self._artifact, progress=percent)

    def _tell(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if not self._heard:
            return None
        try:
            return call(*arguments, **keywords)
        except TransportError:
            self._heard = False
            return None

    def _percent(self) -> float:
        return 100.0 * self._done / self._total if self._total else 100.0


def artifact_key(name: str, what: str) -> str:
    """Key of an artifact, which gathers the history of one data set alone."""
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    return f"farfield-{plain}-{what}"


@flow(name="pretrain", persist_result=False, validate_parameters=False)
def pretrain(
    recipe: dict[str, Any], work: str, models: str, workers: int = 1, device: str = "auto"
) -> str:
    """Train the base that `recipe` describes; return its folder."""
    token = listener.set(Artifacts(listener.get(), "pretrain"))
    try:
        return str(train_base(parse_recipe(recipe), Path(work), Path(models), workers, device))
    finally:
        listener.reset(token)


@flow(name="synthesise", persist_result=False)
def synthesise(settings: RunSettings, out: str) -> dict[str, Any]:
    """Targets to a validated data set at `out`; run again, it does only what is missing.

    The result is a summary, and the outcome of the gate the name of the flow run's state.

    `{run}` in `out` is replaced by the flow run's name, so that a schedule makes a new set each
    time. A run of a deployment that finds another driver at `out` ends as cancelled, as one that
    falls due while its own deployment is at work: whoever holds the run does the work.
    """
    token = listener.set(Artifacts(listener.get(), settings.name))
    place = out.replace("{run}", folder_name(str(flow_run.name)))
    outcome: dict[str, Any]
    try:
        result = make_run(settings, place, call=_as_task, plan=_plan)
    except RunIncomplete as error:
        _emit("incomplete", settings.name, {"uri": place, "reason": str(error)[:1000]})
        raise
    except InUse as error:
        if not deployment.id:
            raise
        outcome = _cancelled(error)
        return outcome
    finally:
        listener.reset(token)
    outcome = _publish(result, page_link(settings.execution.reports, place, result["uri"]))
    return outcome


def page_link(reports: str, out: str, uri: str) -> str:
    """Address of the report of the run at `uri`, which was made in `out`.

    Args:
        reports: address under which the folder that `out` lies in is served, if it is.
        out: place of the run, or of its versions.
        uri: place of the run.
    """
    page = place_at(uri) / "report" / "index.html"
    if not reports:
        return link(page)
    inside = str(page).removeprefix(str(place_at(out).parent)).strip("/")
    return f"{reports.rstrip('/')}/{quote(inside)}"


def folder_name(name: str) -> str:
    """Return the name of a flow run, which its user may choose, if it can name a folder.

    Raises:
        ConfigError: it would lead elsewhere.
    """
    if not re.fullmatch(r"\w[\w .-]{0,199}", name):
        raise ConfigError(
            f"got a flow run named {name[:100]!r}; expected letters, digits, spaces, `_`, `-` and "
            "`.`, since {run} in --out makes a folder of it: rename the flow run"
        )
    return name


@flow(name="extend", persist_result=False)
def extend(settings: RunSettings, uri: str) -> dict[str, Any]:
    """Grow the run at `uri` to the number of samples in `settings`; run again, it goes on."""
    token = listener.set(Artifacts(listener.get(), settings.name))
    try:
        result = extend_run(RunStore.open(uri), settings, call=_as_task)
    finally:
        listener.reset(token)
    page = page_link(settings.execution.reports, uri, result["uri"])
    outcome: dict[str, Any] = _publish(result, page)
    return outcome


def extend_flow(run: RunStore, settings: RunSettings) -> dict[str, Any]:
    """Grow a run as a flow from settings in memory."""
    result: dict[str, Any] = extend(settings, str(run.root))
    return result


def run_flow(settings: RunSettings, out: str) -> dict[str, Any]:
    """Make a run as a flow from settings in memory; an ephemeral server serves if none is set.

    Raises:
        InputError: `out` carries a credential, which the server would keep.
        ServiceLost: the server is gone; what was stored is kept.
    """
    place_at(out)
    try:
        result: dict[str, Any] = synthesise(settings, out)
    except TransportError as error:
        raise ServiceLost(
            f"the Prefect server cannot be reached any more ({error}); expected it to live as long "
            "as the run. What is stored is kept: run the same command again, or with "
            "`--orchestrator none` for the same bytes without a server"
        ) from error
    return result


def _retried(name: str, work: Callable[..., Any], retries: int = RETRIES) -> Callable[..., Any]:
    """A task that is begun again, later each time, when the store or the network failed."""
    wrapped: Callable[..., Any] = task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=retries,
        retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS),
        retry_condition_fn=_may_pass,
    )(work)
    return wrapped


def _plan(settings: RunSettings, out: str) -> RunPlan:
    """Plan a run; in a deployment, where nobody waits for the answer, as often as it takes."""
    found: RunPlan = _retried("plan", plan_run, RETRIES if deployment.id else 0)(settings, out)
    return found


def _as_task(name: str, stage: Stage, run: RunStore, settings: RunSettings) -> str:
    """Run one stage as a task whose parameters are the run's address and the settings."""

    def run_stage(uri: str, content: dict[str, Any]) -> str:
        return perform(name, stage, RunStore.open(uri), parse(content))

    note: str = _retried(name, run_stage)(str(run.root), settings.model_dump(mode="json"))
    return note


def _may_pass(_task: Any, _run: Any, state: State) -> bool:
    """Whether a stage failed for a reason that may pass by itself."""
    return isinstance(state.result(raise_on_failure=False), StoreUnreachable)


def _cancelled(error: InUse) -> Any:
    """State of a flow run that ends because another driver is at work on the set."""
    return Cancelled(message=str(error))


def _emit(what: str, name: str, payload: dict[str, Any]) -> None:
    """Tell Prefect's automations what became of a data set."""
    resource = {"prefect.resource.id": artifact_key(name, "set"), "prefect.resource.name": name}
    emit_event(event=f"farfield.{what}", resource=resource, payload=payload)


def _publish(result: dict[str, Any], page: str) -> Any:
    """Show state and report in Prefect; return the state that Prefect ends the flow run with.

    It is named after the outcome; its data are the result, which the flow's caller gets.
    """
    lines = [
        f"- **{key}**: {markdown(result[key])}"
        for key in ("state", "samples_done", "identity", "uri")
    ]
    create_markdown_artifact("\n".join(lines), key=artifact_key(result["name"], "summary"))
    create_link_artifact(page, link_text="report", key=artifact_key(result["name"], "report"))
    _emit(result["state"], result["name"], {"uri": result["uri"], "identity": result["identity"]})
    return Completed(name=result["state"].capitalize(), data=result)
