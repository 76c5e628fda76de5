"""Files in deploy/: they parse, and every name in them exists in the project."""

import json
import re
import shlex
import subprocess
from importlib.metadata import version

import pytest
import yaml

from flows.settings import PROJECT, parse

DEPLOY = PROJECT / "deploy"


def parses_as_farfield(words):
    """Whether the command line accepts these arguments; nothing is run."""
    import typer

    from flows.cli.main import app

    assert words[0] == "farfield"
    command = typer.main.get_command(app)
    name, verb, rest = command.resolve_command(command.make_context("f", ["schema"]), words[1:])
    return verb.make_context(name, list(rest)).params


def test_the_entrypoint_of_prefect_yaml_is_a_flow():
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint

    (deployment,) = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())["deployments"]
    path, _, name = deployment["entrypoint"].partition(":")
    flow = load_flow_from_entrypoint(f"{PROJECT / path}:{name}")
    assert isinstance(flow, Flow)
    assert flow.name == "synthesise"
    assert set(deployment["parameters"]) == set(flow.parameters.required)
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_the_settings_of_prefect_yaml_are_those_of_the_example():
    (deployment,) = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())["deployments"]
    asked = parse(deployment["parameters"]["settings"])
    example = parse(yaml.safe_load((PROJECT / "examples" / "hubble.yaml").read_text()))
    assert asked == example.model_copy(update={"execution": asked.execution})


def test_prefect_yaml_names_the_pinned_release():
    content = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())
    pins = (PROJECT / "constraints.txt").read_text()
    assert f"prefect=={content['prefect-version']}\n" in pins


@pytest.fixture
def rayjob():
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay" / "rayjob.yaml").read_text()))
    assert [d["kind"] for d in documents] == ["PersistentVolumeClaim", "RayJob"]
    return documents


def test_rayjob_has_what_kuberay_requires(rayjob):
    volume, job = rayjob
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    assert spec["backoffLimit"] == 2
    assert spec["submitterConfig"]["backoffLimit"] == 0
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
        (claim,) = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]]
        assert claim == volume["metadata"]["name"]
        for container in pod["containers"]:
            assert container["name"]
            assert re.fullmatch(r"farfield:\d+\.\d+\.\d+", container["image"])
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert container["volumeMounts"][0]["mountPath"] == "/runs"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]


def test_rayjob_runs_our_command_on_as_many_workers_as_have_room(rayjob):
    spec = rayjob[1]["spec"]
    found = parses_as_farfield(shlex.split(spec["entrypoint"]))
    assert not found["sets"]
    assert found["out"].startswith("/runs/")
    assert str(found["config"]).replace("/farfield", str(PROJECT), 1) == str(
        PROJECT / "examples" / "hubble.yaml"
    )


def test_dockerfile_is_pinned_and_copies_what_exists():
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert re.fullmatch(r"python:3\.11-slim-\w+", base)
    sources = [s for line in lines if line.startswith("COPY") for s in line.split()[1:-1]]
    for source in sources:
        assert (PROJECT / source).exists(), source
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} == {a for a in allowed if a.startswith("!")}
    packages = set(re.findall(r"^include = (.*)$", (PROJECT / "pyproject.toml").read_text(), re.M))
    assert packages == {'["ood_core*", "actors*", "flows*"]'}
    installs = [line for line in lines if "pip install" in line]
    assert all("constraints.txt" in line for line in installs)
    assert next(i for i, x in enumerate(lines) if x.startswith("USER")) > len(lines) - 5


def test_slurm_script_is_bash_and_runs_our_command():
    script = DEPLOY / "slurm" / "farfield.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text().replace("\\\n", " ")
    (line,) = re.findall(r'bin/(farfield" run .*)$', text, re.M)
    words = shlex.split(
        line.replace('"', "").replace("$((", "").replace("))", "").replace(" * ", "")
    )
    found = parses_as_farfield(words)
    assert (found["pool"], found["orchestrator"]) == ("ray", "none")
    assert "RAY_AUTH_MODE=token" in text
    assert text.index("export RAY_AUTH_TOKEN") < text.index("start --head")


def test_the_dashboard_asks_for_metrics_that_are_made():
    """Each by the name and the labels under which Ray exports it; counters end in `_total`."""
    source = (PROJECT / "actors" / "ray_metrics.py").read_text()
    made = re.findall(r'(Counter|Gauge)\("(\w+)"', source)
    names = {f"ray_{name}" + "_total" * (kind == "Counter") for kind, name in made}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for one in asked for name in re.findall(r"ray_\w+", one)} == names
    labels = {label for one in asked for label in re.findall(r'(\w+)[!=~]+"', one)}
    assert labels <= {"run", "stage", "part"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
