"""The same run under Prefect, and deployments, against one real server on loopback."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.exceptions import PrefectHTTPStatusError

from flows.settings import PROJECT
from ood_core.store.run import RunStore
from tests.contracts.store import answers, assert_equal

pytestmark = [pytest.mark.flows, pytest.mark.usefixtures("prefect_api")]


async def ask(method, *arguments, **keywords):
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        return await getattr(client, method)(*arguments, **keywords)


def read(method, *arguments, **keywords):
    return asyncio.run(ask(method, *arguments, **keywords))


def discovery(**more):
    method = {"preset": "discovery", "steps": 1, "t_max": 300}
    return {"method": {**method, "calibration": None, "steering": None}, **more}


@pytest.fixture(scope="module")
def flow_run(prefect_api, local_ray, tiny, tmp_path_factory):
    """The finished tiny run once more, as a Prefect flow over Ray actors."""
    from flows.orchestration.prefect_flows import synthesise

    root = tmp_path_factory.mktemp("flow") / "run"
    settings = tiny(execution={"pool": "ray", "orchestrator": "prefect", "workers": 2})
    state = synthesise(settings.model_dump(mode="json"), str(root), return_state=True)
    return root, state


def test_prefect_over_ray_gives_the_same_bytes_as_plain_python(flow_run, unbroken):
    root, state = flow_run
    assert state.is_completed()
    assert state.name == "Complete"  # as the gate that asks for nothing says
    assert_equal(root, unbroken)
    assert RunStore(root).state == "complete"


def test_the_flow_returns_a_summary_and_the_server_keeps_none(flow_run):
    root, state = flow_run
    summary = state.data.result
    assert summary["uri"] == str(root)
    assert summary["samples_done"] == 10
    kept = read("read_flow_run", state.state_details.flow_run_id).state.data
    assert "samples" not in json.dumps(kept, default=str)


def test_no_arrays_in_parameters(flow_run):
    _, state = flow_run
    found = read("read_flow_run", state.state_details.flow_run_id)
    text = json.dumps(found.parameters)
    assert set(found.parameters) == {"settings", "out"}
    assert len(text) < 10_000
    tasks = read("read_task_runs")
    mine = [task for task in tasks if task.flow_run_id == found.id]
    assert {task.name.rpartition("-")[0] for task in mine} == {
        "plan", "calibrate", "invert", "fit", "generate", "validate"
    }  # fmt: skip
    assert all(task.state.is_completed() for task in mine)


def test_a_run_extended_under_prefect_has_the_bytes_of_plain_python(finished, tiny, tmp_path):
    from flows.orchestration.prefect_flows import extend_flow
    from flows.runs.lifecycle import make_run, stored_settings, with_samples

    run = RunStore(finished)
    found = extend_flow(run, with_samples(stored_settings(run), 13))
    assert (found["state"], found["samples_done"]) == ("complete", 13)
    make_run(tiny(generation={"samples": 13}), str(tmp_path / "plain"))
    assert_equal(finished, tmp_path / "plain")


def test_artifacts_tell_progress_outcome_and_report(flow_run):
    root, state = flow_run
    artifacts = read("read_artifacts")
    mine = [a for a in artifacts if a.flow_run_id == state.state_details.flow_run_id]
    by_key = {a.key: a for a in mine}
    stages = {f"farfield-tiny-{stage}" for stage in ("calibrate", "invert", "generate")}
    assert stages | {"farfield-tiny-summary", "farfield-tiny-report"} <= by_key.keys()
    assert {by_key[key].data for key in stages} == {100.0}
    assert "complete" in by_key["farfield-tiny-summary"].data
    assert (root / "report" / "index.html").as_uri() in by_key["farfield-tiny-report"].data


def test_automations_hear_what_became_of_a_set(flow_run):
    """The event is named after the outcome, and names the data set."""
    from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter

    root, state = flow_run
    mine = EventRelatedFilter(id=[f"prefect.flow-run.{state.state_details.flow_run_id}"])
    wanted = EventFilter(event=EventNameFilter(name=["farfield.complete"]), related=mine)
    end = time.monotonic() + 200
    while not (found := read("read_events", wanted, limit=10).events):
        assert time.monotonic() < end
        time.sleep(0.5)
    (event,) = found
    assert event.resource.id == "farfield-tiny-set"
    assert event.payload["uri"] == str(root)


def test_the_server_takes_the_documented_automation(prefect_api):
    """As it stands in the runbook, but for the number of the block that sends."""
    from prefect.events.schemas.automations import AutomationCore

    page = (PROJECT / "docs" / "runbook.md").read_text()
    (found,) = re.findall(r"^((?:    .*\n)*    trigger: .*\n(?:    .*\n)*)", page, re.M)
    block = str(uuid4())
    content = yaml.safe_load(found.replace("block_document_id: ID", f"block_document_id: {block}"))
    number = read("create_automation", AutomationCore.model_validate(content))
    kept = read("read_automation", number)
    assert kept.enabled
    assert kept.trigger.expect == {"farfield.quarantined", "farfield.incomplete"}
    assert [(one.type, str(one.block_document_id)) for one in kept.actions] == [
        ("send-notification", block)
    ]


def test_a_stage_is_begun_again_when_the_store_is_back(prefect_api, finished, tiny, monkeypatch):
    from prefect import flow

    from flows.orchestration import prefect_flows
    from ood_core.errors import IdentityRefused, StoreUnreachable

    monkeypatch.setattr(prefect_flows, "BACKOFF_SECONDS", 0.1)
    calls = []

    def failing(error, times):
        def stage(run, settings):
            calls.append(error)
            if calls.count(error) <= times:
                raise error("gone")
            return "done"

        return flow(prefect_flows._as_task)("fit", stage, RunStore(finished), tiny())

    assert failing(StoreUnreachable, 2) == "done"
    with pytest.raises(IdentityRefused):
        failing(IdentityRefused, 1)
    assert len(calls) == 4


@pytest.fixture
def deployed(monkeypatch):
    """This process counts as one that runs a deployment."""
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))


@pytest.mark.usefixtures("deployed")
def test_a_deployment_whose_store_is_down_plans_again(tiny, monkeypatch):
    from prefect import flow

    from flows.orchestration import prefect_flows
    from ood_core.errors import StoreUnreachable

    monkeypatch.setattr(prefect_flows, "BACKOFF_SECONDS", 0.1)
    calls = []

    def plan(settings, out):
        calls.append(out)
        if len(calls) < 3:
            raise StoreUnreachable("gone")
        return "planned"

    monkeypatch.setattr(prefect_flows, "plan_run", plan)
    planning = flow(prefect_flows._plan, validate_parameters=False)
    assert planning(tiny(), "there") == "planned"
    assert calls == ["there"] * 3
    monkeypatch.delenv("PREFECT__RUNTIME__DEPLOYMENT__ID")
    calls.clear()
    with pytest.raises(StoreUnreachable):  # somebody waits for the answer
        planning(tiny(), "there")


def test_of_two_deployments_of_one_place_the_second_is_cancelled(finished, tiny, monkeypatch):
    from flows.orchestration.prefect_flows import synthesise
    from flows.runs.lease_guard import hold_lease
    from ood_core.errors import InUse

    with hold_lease(RunStore(finished), every=0.2):
        with pytest.raises(InUse):
            synthesise(tiny(), str(finished))
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
        state = synthesise(tiny(), str(finished), return_state=True)
    assert state.is_cancelled()
    assert "in use by process" in state.message


def test_a_scheduled_run_on_a_finished_set_calls_no_stage(finished, tiny, monkeypatch):
    """It plans, which is one task, and tells what there is; no worker, and no Ray, is asked for."""
    from flows.orchestration.prefect_flows import synthesise
    from flows.runs import lifecycle

    monkeypatch.setattr(lifecycle, "shared_pool", None)
    monkeypatch.setattr(lifecycle, "require_workers", None)
    state = synthesise(tiny(), str(finished), return_state=True)
    assert state.name == "Complete"
    tasks = read("read_task_runs")
    mine = [t.name for t in tasks if t.flow_run_id == state.state_details.flow_run_id]
    assert [name.rpartition("-")[0] for name in mine] == ["plan"]


@pytest.mark.parametrize(
    ("out", "uri", "address"),
    [
        ("/runs/a b", "/runs/a b", "http://host:8000/x/a%20b/report/index.html"),
        ("/runs/a", "/runs/a/v0002", "http://host:8000/x/a/v0002/report/index.html"),
        ("s3://maps/runs/a", "s3://maps/runs/a", "http://host:8000/x/a/report/index.html"),
    ],
)
def test_links_lead_to_where_reports_are_served(out, uri, address):
    from flows.orchestration.prefect_flows import page_link

    assert page_link("http://host:8000/x/", out, uri) == address


def test_a_pool_of_containers_needs_what_this_command_has_not(farfield, config, tmp_path):
    from prefect.client.schemas.actions import WorkPoolCreate

    read("create_work_pool", WorkPoolCreate(name="cluster", type="kubernetes"))
    answer = farfield("deploy", config(), "--out", tmp_path / "x", "--work-pool", "cluster")
    assert answer.code == 2
    assert "an image with the code, job variables" in answer.err


def test_a_refusal_reaches_the_caller_through_prefect(farfield, config, unbroken):
    path = config(generation={"seed": 9})
    answer = farfield("run", path, "--out", unbroken, "--orchestrator", "prefect")
    assert answer.code == 6
    assert "generation.seed: 0 -> 9" in answer.err


def test_deploy_registers_with_a_work_pool(farfield, config, tmp_path):
    from prefect.client.schemas.actions import WorkPoolCreate

    path = config(**discovery(name="pooled"))
    arguments = ("deploy", path, "--out", tmp_path / "{run}", "--work-pool", "farfield")
    answer = farfield(*arguments)
    assert answer.code == 2
    assert "prefect work-pool create farfield" in answer.err
    read("create_work_pool", WorkPoolCreate(name="farfield", type="process"))
    answer = farfield(*arguments, "--cron", "0 2 * * *")
    assert answer.code == 0
    assert "synthesise/pooled" in answer.out
    found = read("read_deployment_by_name", "synthesise/pooled")
    assert found.entrypoint == "flows.orchestration.prefect_flows.synthesise"
    assert found.work_pool_name == "farfield"
    assert found.schedules[0].schedule.cron == "0 2 * * *"
    assert_one_at_a_time(found)
    assert found.parameters["out"] == str(tmp_path / "{run}")
    assert found.parameters["settings"]["generation"]["samples"] == 10
    form = found.parameter_openapi_schema["definitions"]
    assert form["GenerationSpec"]["properties"]["samples"]["type"] == "integer"
    wrong = {**found.parameters["settings"], "generation": {"sample": 3}}
    with pytest.raises(PrefectHTTPStatusError, match=r"'sample' was unexpected"):
        read("create_flow_run_from_deployment", found.id, parameters={"settings": wrong})


def assert_one_at_a_time(deployment):
    assert deployment.global_concurrency_limit.limit == 1
    assert deployment.concurrency_options.collision_strategy == "CANCEL_NEW"


def test_prefect_yaml_deploys_as_its_header_says(tmp_path):
    """`prefect deploy` with the shipped file, from the project's folder."""
    environment = {**os.environ, "FARFIELD_HOME": str(PROJECT), "FARFIELD_RUNS": str(tmp_path)}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    done = subprocess.run(
        [*prefect, "deploy", "--prefect-file", "deploy/prefect.yaml", "--all"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = read("read_deployment_by_name", "synthesise/hubble-nightly")
    assert_one_at_a_time(found)
    assert found.schedules[0].schedule.cron == "0 2 * * *"
    assert found.parameters["out"] == f"{tmp_path}/hubble-{{run}}"
    step = found.pull_steps[0]["prefect.deployments.steps.set_working_directory"]
    assert step["directory"] == str(PROJECT)


@pytest.mark.timeout(900)
def test_a_served_schedule_fires_by_itself(tmp_path, tiny_dict):
    """`farfield serve --interval`: nobody starts the run, and its data set is complete."""
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(**discovery(name="served"))))
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "serve", str(path),
             "--out", str(tmp_path / "sets" / "{run}"), "--interval", "10"],
            stdout=log, stderr=log, start_new_session=True, cwd=PROJECT,
        )  # fmt: skip
    try:
        run = first_completed(server, tmp_path / "serve.log")
        assert run.auto_scheduled
        assert run.created_by.type == "SCHEDULE"
        root = tmp_path / "sets" / run.name
        assert RunStore(root).state == "complete"
        assert len(answers(root)) == 1 + 3
        deployment = read("read_deployment_by_name", "synthesise/served")
        assert_one_at_a_time(deployment)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=120)
        finally:
            with suppress(ProcessLookupError):  # the next run may have begun
                os.killpg(server.pid, signal.SIGKILL)
    shutil.rmtree(tmp_path / "sets")
    assert read("read_deployment_by_name", "synthesise/served").paused


def first_completed(server: "subprocess.Popen[bytes]", log: Path):
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    of_deployment = DeploymentFilter(name=DeploymentFilterName(any_=["served"]))
    done = FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED, StateType.CRASHED])
    ended = FlowRunFilter(state=FlowRunFilterState(type=done))
    end = time.monotonic() + 600
    while time.monotonic() < end and server.poll() is None:
        runs = read("read_flow_runs", flow_run_filter=ended, deployment_filter=of_deployment)
        if runs:
            assert [run.state.type for run in runs] == [StateType.COMPLETED] * len(runs)
            return runs[0]
        time.sleep(0.5)
    return pytest.fail(f"no run was fired:\n{log.read_text()[-3000:]}")
