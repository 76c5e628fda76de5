"""Files in deploy/: they parse, and every name in them exists in the project."""

import json
import re
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import yaml

from flows.runs.stages import summary
from flows.settings import PROJECT, parse
from ood_core.store.files import remove_tree, write_atomic
from ood_core.store.place import place_at
from ood_core.store.run import RunStore

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


def shape(required, optional=""):
    """Schema of an object with these keys and no others."""
    names = {name: {} for name in f"{required} {optional}".split()}
    wanted = required.split()
    return {
        "type": "object",
        "properties": names,
        "required": wanted,
        "additionalProperties": False,
    }


SECURE = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
CLUSTER = shape(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    "enableInTreeAutoscaling autoscalerOptions",
)
HEAD = shape("rayStartParams template")
WORKERS = shape("groupName replicas minReplicas maxReplicas rayStartParams template")
JOB = shape(
    "entrypoint backoffLimit submissionMode submitterConfig rayClusterSpec",
    "shutdownAfterJobFinishes ttlSecondsAfterFinished activeDeadlineSeconds",
)
"""Names of fields by KubeRay's own definitions (v1), which the files were held against once."""


def kuberay(name, *kinds):
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay" / name).read_text()))
    assert [one["kind"] for one in documents] == [*kinds]
    return documents


def assert_pod(spec):
    """Kubernetes would take this pod, and it is as safe as it can be."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    for container in spec["containers"]:
        assert re.fullmatch(r"farfield:\d+\.\d+\.\d+(-cuda)?", container["image"])
        asked = container["resources"]
        assert asked["limits"] == asked["requests"]
        assert container["image"].endswith("-cuda") is ("nvidia.com/gpu" in asked["limits"])


def assert_cluster(spec):
    jsonschema.validate(spec, CLUSTER)
    assert spec["rayVersion"] == version("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    jsonschema.validate(spec["headGroupSpec"], HEAD)
    for group in spec["workerGroupSpecs"]:
        jsonschema.validate(group, WORKERS)
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert_pod(group["template"]["spec"])
        assert group["template"]["spec"]["securityContext"] == SECURE
    assert "nvidia.com/gpu" in str(spec["workerGroupSpecs"])


@pytest.fixture
def rayjob():
    return kuberay("rayjob.yaml", "PersistentVolumeClaim", "RayJob")


def test_rayjob_has_what_kuberay_requires(rayjob):
    volume, job = rayjob
    kubernetes_validate.validate(volume, "1.34", strict=True)
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    jsonschema.validate(spec, JOB)
    assert spec["backoffLimit"] == 2
    assert spec["submitterConfig"]["backoffLimit"] == 0
    cluster = spec["rayClusterSpec"]
    assert_cluster(cluster)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (claim,) = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]]
        assert claim == volume["metadata"]["name"]
        assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/runs"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]


def test_raycluster_has_what_kuberay_requires():
    (cluster,) = kuberay("raycluster.yaml", "RayCluster")
    assert cluster["apiVersion"] == "ray.io/v1"
    assert_cluster(cluster["spec"])
    assert cluster["spec"]["enableInTreeAutoscaling"] is True


def test_the_checks_of_kubernetes_files_can_fail(rayjob):
    """An unknown field, in KubeRay's part and in the pod."""
    cluster = rayjob[1]["spec"]["rayClusterSpec"]
    with pytest.raises(jsonschema.ValidationError):
        assert_cluster({**cluster, "auth": {}})
    pod = cluster["headGroupSpec"]["template"]["spec"]
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_pod({**pod, "securitycontext": {}})


def test_the_worker_of_the_chart_is_a_node_of_the_cluster():
    values = yaml.safe_load((DEPLOY / "helm" / "prefect-worker.yaml").read_text())["worker"]
    (cluster,) = kuberay("raycluster.yaml", "RayCluster")
    name = cluster["metadata"]["name"]
    (node,) = values["extraContainers"]
    assert node["image"] == "{repository}:{prefectTag}".format(**values["image"])
    pod = {"containers": [node], "volumes": values["extraVolumes"]}
    assert_pod({**pod, "securityContext": values["podSecurityContext"]})
    assert values["podSecurityContext"] == SECURE
    assert node["volumeMounts"] == values["extraVolumeMounts"]
    address = {one["name"]: one.get("value") for one in values["extraEnvVars"]}["RAY_ADDRESS"]
    assert address == f"{name}-head-svc:6379" and f"--address={address}" in node["command"]
    (token,) = [o["valueFrom"] for o in values["extraEnvVars"] if o["name"] == "RAY_AUTH_TOKEN"]
    assert token["secretKeyRef"] == {"name": name, "key": "auth_token"}
    assert values["config"] == {"workPool": "farfield", "type": "process"}


def test_compose_is_valid_and_open_to_this_machine_alone():
    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    jsonschema.validate(content, json.loads(schema.read_text()))
    services = content["services"]
    for name, service in services.items():
        assert "healthcheck" in service, name
        assert not re.search(r":latest$|^[^:]+$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert set(service.get("depends_on", ())) <= set(services)
        if service["image"].startswith("farfield:") and name != "prefect":
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
    secrets = re.findall(r"(?:PASSWORD|TOKEN|SECRET_ACCESS_KEY): (.*)", str(yaml.dump(content)))
    assert secrets and all(secret.strip("'").startswith("${") for secret in secrets)


def test_the_bucket_policy_allows_what_a_run_asks_for_and_no_more(finished, bucket, object_server):
    """A run in a bucket, planned and looked at: every kind of request is in the policy."""
    listing, objects = json.loads((DEPLOY / "bucket-policy.json").read_text())["Statement"]
    assert listing["Action"] == ["s3:ListBucket"] and objects["Resource"][0].endswith("/runs/*")
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
    object_server.reset()
    place = place_at(f"{bucket}/runs/tiny")
    for path in [path for path in finished.rglob("*") if path.is_file()]:
        write_atomic(place / str(path.relative_to(finished)), path.read_bytes())
    summary(RunStore.open(str(place)))
    remove_tree(place / "lease")
    seen = set()
    for request in object_server.requests:
        method, _, path = request.partition(" ")
        whole = path.strip("/") == bucket.removeprefix("s3://")
        if method == "POST":
            seen.add("s3:DeleteObject")  # many at once
        else:
            seen.add("s3:ListBucket" if whole else f"s3:{action[method]}")
    assert seen == {*listing["Action"], *objects["Action"]} - {"s3:AbortMultipartUpload"}


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
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    sources = [s for line in lines if line.startswith("COPY") for s in line.split()[1:-1]]
    for source in sources:
        assert (PROJECT / source).exists(), source
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} == {a for a in allowed if a.startswith("!")}
    packages = set(re.findall(r"^include = (.*)$", (PROJECT / "pyproject.toml").read_text(), re.M))
    assert packages == {'["ood_core*", "actors*", "flows*"]'}
    installs = [line for line in lines if "pip install" in line]
    assert all("constraints.txt" in line for line in installs)
    user = next(i for i, x in enumerate(lines) if x.startswith("USER"))
    assert all(re.match("VOLUME|HEALTHCHECK|CMD|#", line) for line in lines[user + 1 :])


def test_the_ten_commands_of_the_runbook_are_ten_and_can_be_given():
    page = (PROJECT / "docs" / "runbook.md").read_text()
    commands = re.findall(r"^\| \d+ \| `([^`]+)`", page, re.M)
    assert len(commands) == 10
    for words in (shlex.split(command) for command in commands):
        assert words[0] in ("farfield", "ray", "prefect")
        if words[0] == "farfield":
            parses_as_farfield(words)


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
