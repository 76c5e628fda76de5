"""The command line: exit codes, JSON, colours, and what it costs to ask for help."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from flows.runs.lease_guard import hold_lease
from ood_core.store.arrays import ShardWriter
from ood_core.store.run import RunStore

HEAVY = ("torch", "ray", "prefect", "diffusers", "zarr", "astropy")
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7])[0-9;]*m")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def parsed(text: str) -> dict:
    return json.loads(text, parse_constant=refuse)


def everything(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['farfield', '--help']\nfrom flows.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\nassert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verbs = ("run", "plan", "status", "verify", "validate", "report", "gallery", "extend", "replay")
    for verb in (*verbs, "serve", "deploy", "submit", "schema"):
        assert re.search(rf"\b{verb}\b", done.stdout)


@pytest.mark.parametrize("colour", [False, True])
def test_no_color_is_honoured(colour):
    """Help on a terminal has colours, and none where NO_COLOR is set."""
    environment = {**os.environ, "TERM": "xterm-256color"}
    if not colour:
        environment["NO_COLOR"] = "1"
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "--help"], stdout=theirs, env=environment
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # the terminal is gone when its last process is
        pass
    os.close(ours)
    assert child.wait(timeout=60) == 0
    assert bool(COLOUR.search(text.decode())) == colour


def test_nothing_but_text_goes_into_a_pipe(farfield, unbroken, tmp_path):
    for answer in (farfield("status", unbroken), farfield("status", tmp_path / "none")):
        assert "\x1b" not in answer.out + answer.err


def test_run_ends_with_zero_and_resumes(farfield, config, finished):
    answer = farfield("run", config(), "--out", finished, "--json")
    assert answer.code == 0
    found = parsed(answer.out)
    assert found["state"] == "complete"
    assert found["report"] == str(finished / "report" / "index.html")


@pytest.mark.parametrize(
    ("gate", "code", "state"),
    [
        ({"min_held_out": 2, "spectrum_error": 0.0}, 3, "quarantined"),
        ({"spectrum_error": 0.0}, 4, "undecided"),
        # Whether quadrants of so small maps are seen depends on rounding: kinds that surely are.
        ({"min_held_out": 2, "spectrum_error": 1e9, "copy_kinds": ["verbatim"]}, 0, "published"),
    ],
)
def test_the_gate_sets_the_exit_code(farfield, config, finished, gate, code, state):
    answer = farfield("run", config(gate=gate), "--out", finished, "--json")
    assert answer.code == code
    assert parsed(answer.out)["state"] == state
    assert RunStore(finished).state == state


def test_another_identity_exits_with_six(farfield, config, unbroken):
    before = everything(unbroken)
    answer = farfield("run", config(generation={"seed": 9}), "--out", unbroken)
    assert answer.code == 6
    assert "generation.seed: 0 -> 9" in answer.err
    assert everything(unbroken) == before


def test_failed_shards_exit_with_five(farfield, config, ready):
    (ready / "dataset.zarr" / "maps" / "c" / "0" / "0" / "0" / "0" / "x").mkdir(parents=True)
    answer = farfield("run", config(), "--out", ready)
    assert answer.code == 5
    assert "shard 0: " in answer.err
    assert "Traceback" not in answer.err


def test_a_run_that_is_stopped_says_that_it_goes_on(farfield, config, ready, monkeypatch):
    """By Ctrl-C, when its second shard of samples is about to be stored."""
    write = ShardWriter.write

    def interrupted(self, shard, rows):
        if shard.index == 1:
            signal.raise_signal(signal.SIGINT)
        return write(self, shard, rows)

    # a shell's background jobs ignore the signal, and so would what they start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", interrupted)
        answer = farfield("run", config(), "--out", ready)
    signal.signal(signal.SIGINT, before)
    assert answer.code == 130
    assert "stopped; what is stored is kept: the same command goes on" in answer.err
    assert "Traceback" not in answer.err
    run = RunStore(ready)
    assert [shard.index for shard in run.ledger("generate").missing(run.plan("generate"))] == [1, 2]
    assert run.state == "incomplete"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "none.yaml", "--out", "x"),
        ("run",),
        ("nonsense",),
        ("status", "no/such/run"),
        ("inspect", "no/such/run"),
        ("verify", "no/such/run"),
        ("report", "no/such/run"),
        ("gallery", "no/such/run"),
        ("plan", "none.yaml"),
        ("models", "show", "no/such/model/here"),
        ("models", "import", "none.ckpt", "--out", "x"),
        ("serve", "none.yaml", "--out", "x"),
    ],
)
def test_bad_input_exits_with_two(farfield, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    answer = farfield(*arguments)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_unknown_keys_and_pools_exit_with_two(farfield, config, tmp_path):
    out = tmp_path / "out"
    assert farfield("run", config(nonsense=1), "--out", out).code == 2
    assert farfield("run", config(), "--out", out, "--pool", "dask").code == 2
    assert farfield("run", config(), "--out", out, "--orchestrator", "cron").code == 2
    assert farfield("run", config(), "--out", out, "--set", "a=[").code == 2
    assert not out.exists()


def test_status_has_the_promised_fields(farfield, finished):
    found = parsed(farfield("status", finished, "--json").out)
    assert found["state"] == "complete"
    assert found["samples_planned"] == found["samples_done"] == 10
    assert found["shards_missing"] == []
    assert found["identity"] == RunStore(finished).record["identity"]
    RunStore(finished).ledger("generate").revoke(RunStore(finished).plan("generate")[2])
    found = parsed(farfield("status", finished, "--json").out)
    assert found["state"] == "incomplete"
    assert found["samples_done"] == 8
    assert found["shards_missing"] == [2]


def test_plan_counts_what_the_run_counts_and_writes_nothing(farfield, config, tmp_path, unbroken):
    path = config()
    before = everything(tmp_path)
    answer = farfield("plan", path, "--json")
    assert answer.code == 0
    assert everything(tmp_path) == before
    found, run = parsed(answer.out), RunStore(unbroken)
    for stage, asked in found["network_evaluations_at_most"].items():
        assert asked == sum(r.nfe for r in run.ledger(stage).all(run.plan(stage)))
        assert found["shards"][stage] == len(run.plan(stage))
    assert found["dataset_bytes"] == run.table("generate").read("maps").nbytes
    assert farfield("plan", path).code == 0


def test_verify_passes_a_whole_run(farfield, unbroken):
    answer = farfield("verify", unbroken, "--json")
    assert answer.code == 0
    assert parsed(answer.out)["damaged"] == []


def test_inspect_shows_every_array(farfield, unbroken, ready):
    found = parsed(farfield("inspect", unbroken, "--json").out)
    names = {row["array"] for row in found["arrays"]}
    assert {"dataset/maps", "latents/latents", "targets/held_out"} <= names
    assert found["fit_targets"] == found["held_out_targets"] == 7
    assert "dataset/maps" in farfield("inspect", unbroken).out
    unwritten = parsed(farfield("inspect", ready, "--json").out)  # NaN is no JSON
    rows = {row["array"]: row for row in unwritten["arrays"]}
    assert rows["dataset/maps"]["mean"] is None


def test_report_is_made_anew_and_only_for_finished_runs(farfield, finished, ready):
    page = finished / "report" / "index.html"
    page.unlink()
    answer = farfield("report", finished, "--json")
    assert answer.code == 0
    assert parsed(answer.out)["page"] == str(page)
    assert page.stat().st_size > 10_000
    assert farfield("report", ready).code == 5


def test_report_computes_nothing_and_says_what_is_missing(farfield, finished):
    folder = finished / "report"
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(finished / "statistics.zarr")
    assert farfield("report", finished).code == 0
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written.keys() == content.keys()
    changed = [name for name in content if content[name] != written[name]]
    assert sorted(changed) == ["index.html", "report.json"]  # seconds of validation are known now
    record, again = (json.loads(files["report.json"]) for files in (content, written))
    assert again["evaluation"] == record["evaluation"]
    del record["evaluation"]["tests"]["families"]
    (folder / "report.json").write_text(json.dumps(record))
    answer = farfield("report", finished)
    assert (answer.code, "farfield validate" in answer.err) == (2, True)
    (folder / "report.json").unlink()
    answer = farfield("report", finished)
    assert (answer.code, "farfield validate" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("gate", "code", "state"),
    [
        (["min_held_out=2", "spectrum_error=0.0"], 3, "quarantined"),
        (["spectrum_error=0.0"], 4, "undecided"),
        (["min_held_out=2", "spectrum_error=1e9", "copy_kinds=[verbatim]"], 0, "published"),
        ([], 0, "complete"),
    ],
)
def test_validate_decides_another_gate_without_generating(farfield, finished, gate, code, state):
    stored = {p: b for p, b in everything(finished) if ".zarr" in p or "receipts" in p}
    answer = farfield("validate", finished, *(f"--gate={g}" for g in gate), "--json")
    found = parsed(answer.out)
    assert (answer.code, found["state"], RunStore(finished).state) == (code, state, state)
    # Copies are always two; what is published also says which kinds would not be seen, if any.
    conditions = {"published": 3, "quarantined": 3}.get(state, 1)
    asked = [reason for reason in found["reasons"] if "of kind" not in reason]
    assert len(asked) == conditions and "lie" in found["summary"]
    after = dict(everything(finished))
    assert {p: after[p] for p in stored} == stored
    assert farfield("validate", finished, "--json").code == code  # the gate is remembered
    page = (finished / "report" / "index.html").read_text()
    assert f'<span class="state {state}">' in page


def test_validate_refuses_what_it_cannot_do(farfield, finished, ready):
    before = everything(finished)
    for gate in ("spectrum_error", "unknown=1", "c2st=much"):
        answer = farfield("validate", finished, "--gate", gate)
        assert answer.code == 2 and gate.partition("=")[0] in answer.err
    assert everything(finished) == before
    assert farfield("validate", ready).code == 5


def test_models_show_tells_what_became_of_scheduler_settings(farfield, base):
    found = parsed(farfield("models", "show", base, "--json").out)
    assert (found["channels"], found["size"], found["prediction"]) == (1, 16, "epsilon")
    assert {ruling["ruling"] for ruling in found["rulings"]} <= {"honoured", "overruled"}
    assert "epsilon" in farfield("models", "show", base).out
    assert "models" in parsed(farfield("models", "list", "--json").out)


def test_models_import_makes_a_base(farfield, tmp_path):
    import torch

    from tests.oracles.ho_unet import HoUnet, randomised

    weights = randomised(HoUnet(32, (1,), 1, {0}, 2)).state_dict()
    torch.save({"model": {}, "ema": weights}, tmp_path / "any.ckpt")
    command = ("models", "import", tmp_path / "any.ckpt", "--json", "--out")
    found = parsed(farfield(*command, tmp_path / "a").out)
    assert (found["layout"], found["weights"]) == ("Ho et al. 2020", "ema")
    assert (found["channels"], found["size"], found["prediction"]) == (2, 16, "epsilon")
    shown = parsed(farfield("models", "show", tmp_path / "a", "--json").out)
    assert shown["digest"] == found["digest"]
    assert parsed(farfield(*command, tmp_path / "b", "--size", 8).out)["size"] == 8
    answer = farfield(*command, tmp_path / "a")
    assert answer.code == 2
    assert "which holds something; expected a new folder" in answer.err


def test_schema_describes_the_configuration(farfield):
    found = parsed(farfield("schema").out)
    assert set(found["required"]) == {"name", "base", "targets"}
    assert found["additionalProperties"] is False
    sections = {"targets", "method", "generation", "gate", "execution"}
    assert sections < set(found["properties"])


def test_a_driver_that_is_at_work_shows_as_running(farfield, ready):
    with hold_lease(RunStore(ready)):
        found = parsed(farfield("status", ready, "--json").out)
        assert found["state"] == "running"
        assert f"process {os.getpid()} on {socket.gethostname()} since" in found["driver"]
    found = parsed(farfield("status", ready, "--json").out)
    assert (found["state"], found["driver"]) == ("incomplete", None)


def test_serve_and_deploy_need_a_server_and_one_schedule(farfield, config, tmp_path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    path = config()
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        for verb in (("serve",), ("deploy", "--work-pool", "p")):
            answer = farfield(*verb, path, "--out", tmp_path / "out")
            assert answer.code == 2
            assert "prefect server start" in answer.err
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        both = farfield("serve", path, "--out", "o", "--cron", "0 2 * * *", "--interval", 5)
        assert both.code == 2
        assert "one schedule" in both.err
        for schedule in (("--cron", "often"), ("--interval", "0")):
            answer = farfield("serve", path, "--out", tmp_path / "out", *schedule)
            assert answer.code == 2
            assert "seconds" in answer.err
