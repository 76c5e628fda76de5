"""The fault drill: real faults on a copy, the run itself untouched, and no survival by default."""

import json
import shutil
from dataclasses import replace

import pytest

from flows import drill as drilling
from flows import drill_faults
from flows.drill import drill
from flows.drill_faults import FAULTS
from ood_core.errors import InputError, RunIncomplete, ShardCorrupt
from ood_core.store.run import RunStore
from tests.contracts.store import marks


def everything(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def only(monkeypatch, *names):
    monkeypatch.setattr(drilling, "FAULTS", {name: FAULTS[name] for name in names})


def test_a_healthy_run_survives_every_fault_and_is_not_touched(finished, farfield):
    before = everything(finished.parent)
    answer = farfield("drill", finished, "--json")
    found = json.loads(answer.out)
    by_name = {row["fault"]: row for row in found["faults"]}
    assert list(by_name) == [
        "receipt lost", "shard truncated", "byte flipped", "driver killed", "started twice",
        "targets changed", "litter left",
    ]  # fmt: skip
    assert {row["fault"]: row["note"] for row in found["faults"] if not row["survived"]} == {}
    assert (answer.code, found["survived"]) == (0, True)
    assert by_name["receipt lost"]["injected"] == "receipt of shard 2 removed"
    assert by_name["receipt lost"]["samples_redone"] == 2
    assert by_name["driver killed"]["samples_redone"] == 10
    assert all(row["seconds_lost"] > 0 for row in found["faults"])
    assert everything(finished.parent) == before


def recompute_differs(run):
    """A run of another machine, in effect: whole, and not what this one computes."""
    shard = run.plan("generate")[2]
    table, book = run.table("generate"), run.receipts("generate")
    receipt = book.read(shard)
    rows = table.rows(receipt.start, receipt.stop)
    rows["maps"][0, 0, 0, 0] += 1
    digest = table.write(shard, rows)
    book.write(replace(receipt, digest=digest))


def test_a_run_that_this_machine_computes_otherwise_does_not_survive(
    finished, farfield, monkeypatch
):
    only(monkeypatch, "receipt lost", "litter left")
    recompute_differs(RunStore(finished))
    before = marks(finished)
    answer = farfield("drill", finished)
    assert answer.code == 1
    assert "generate shard 2 has other bytes than before" in answer.out
    rows = [line for line in answer.out.splitlines() if " left" in line or " lost" in line]
    assert [word for row in rows for word in ("NO", "yes") if word in row.split()] == ["NO", "yes"]
    assert marks(finished) == before


@pytest.mark.parametrize("fault", ["shard truncated", "byte flipped"])
def test_damage_that_is_not_found_is_not_survived(finished, monkeypatch, fault):
    only(monkeypatch, fault)
    monkeypatch.setattr(drill_faults, "verify_run", lambda run: {"damaged": []})
    (outcome,) = drill(RunStore(finished))
    assert outcome.survived is False
    assert outcome.note.startswith("verify found nothing; ")
    assert "the bytes of generate shard 2 are not the old ones" in outcome.note


def test_a_driver_that_does_not_mend_is_not_survived(finished, monkeypatch):
    only(monkeypatch, "receipt lost", "litter left")
    monkeypatch.setattr(drill_faults.Patient, "mend", lambda patient: [])
    lost, litter = drill(RunStore(finished))
    assert (lost.survived, lost.note) == (False, "generate shard 2 is missing")
    assert (litter.survived, litter.note) == (False, "3 half-written files are left")


def test_work_that_is_done_twice_is_not_survived(finished, monkeypatch):
    """Mending one shard by throwing all away ends in the same bytes and is seen."""
    only(monkeypatch, "receipt lost")
    mend = drill_faults.Patient.mend

    def rashly(patient):
        patient.run.receipts("generate").revoke(patient.run.plan("generate")[0])
        return mend(patient)

    monkeypatch.setattr(drill_faults.Patient, "mend", rashly)
    (outcome,) = drill(RunStore(finished))
    assert outcome.note == "generate shard 0 was computed again"


def test_targets_that_are_not_here_cannot_be_changed(finished, monkeypatch):
    only(monkeypatch, "targets changed")
    record = json.loads((finished / "run.json").read_text())
    record["settings"]["targets"]["path"] = str(finished.parent / "gone.npy")
    (finished / "run.json").write_text(json.dumps(record))
    (outcome,) = drill(RunStore(finished))
    assert (outcome.survived, outcome.row[2]) == (None, "not injected")


def test_targets_that_nobody_refuses_are_not_survived(finished, monkeypatch):
    only(monkeypatch, "targets changed")
    monkeypatch.setattr(drill_faults, "ask", lambda settings, out: None)
    (outcome,) = drill(RunStore(finished))
    assert outcome.note == "changed targets were not refused"


def test_refusals(ready, finished, tmp_path, monkeypatch):
    before = everything(tmp_path)
    with pytest.raises(RunIncomplete, match="is incomplete; finish it"):
        drill(RunStore(ready))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(InputError, match="got 1 bytes of free space; .* give another --work"):
        drill(RunStore(finished))
    monkeypatch.undo()
    with pytest.raises(InputError, match="got no such folder"):
        drill(RunStore(finished), tmp_path / "nowhere")
    assert everything(tmp_path) == before
    (finished / "dataset.zarr" / "maps" / "c" / "1" / "0" / "0" / "0").write_bytes(b"")
    with pytest.raises(ShardCorrupt, match="damaged shards generate/00001 before any drill"):
        drill(RunStore(finished), tmp_path)
    assert (finished / "receipts" / "generate" / "00001.json").exists()
    assert list(tmp_path.glob("farfield-drill-*")) == []


@pytest.mark.actors
def test_a_killed_worker_is_replaced_in_the_same_session(finished, monkeypatch):
    only(monkeypatch)
    (outcome,) = drill(RunStore(finished), ray=True)
    assert (outcome.fault, outcome.survived, outcome.note) == ("worker killed", True, "")
