"""The whole run in a bucket of a real S3 server: the bytes of a folder, and no credential."""

import io
import json
import logging
import shutil
import time
from pathlib import Path

import pytest

from flows.runs import lifecycle
from flows.runs.lease_guard import hold_lease
from flows.runs.lifecycle import extend_run, make_run, stored_settings, with_samples
from ood_core.errors import InUse, StoreUnreachable
from ood_core.store.files import read_bytes, write_atomic
from ood_core.store.lease import Lease
from ood_core.store.run import GATE, RunStore
from tests.faults.drivers import ended, start, without_validation
from tests.object_server import PLANTED, assert_same, copied, marks, stored, tables

SHARD = "dataset.zarr/maps/c/1/0/0/0"


@pytest.fixture(scope="module")
def run_and_log(object_server, tiny):
    """A finished run, and all that was logged meanwhile."""
    root = RunStore.at(f"{object_server.bucket()}/runs/tiny").root
    log, logger = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(log), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        make_run(tiny(), str(root))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return root, log.getvalue()


def test_a_bucket_and_a_folder_get_the_same_bytes(run_and_log, unbroken):
    assert_same(run_and_log[0], unbroken)
    here = stored(run_and_log[0])
    there = {str(p.relative_to(unbroken)) for p in unbroken.rglob("*") if p.is_file()}
    assert here.keys() == there
    for name in ("gate.json", "plan.json", "report/spectrum.csv", "report/gallery.png"):
        assert here[name] == (unbroken / name).read_bytes()


def test_no_credential_is_stored_or_logged(run_and_log):
    root, log = run_and_log
    places = {**stored(root), "log": log.encode()}
    assert len(places) > 60
    assert len(log) > 1000
    for secret in (*PLANTED.values(), "PLANTED"):
        for form in (secret, json.dumps(secret)[1:-1]):
            assert [n for n, content in places.items() if form.encode() in content] == []


def test_every_verb_takes_an_address(object_server, run_and_log, farfield, tmp_path):
    root = copied(run_and_log[0], object_server.bucket())
    answers = {
        verb: farfield(verb, root, *more)
        for verb, *more in (
            ("status", "--json"),
            ("inspect", "--json"),
            ("verify", "--json"),
            ("report", "--json"),
            ("gallery", "--json"),
            ("replay", "--sample", 9, "--json", "--out", tmp_path / "map.npy"),
        )
    }
    told = {verb: json.loads(answer.out) for verb, answer in answers.items()}
    assert {answer.code for answer in answers.values()} == {0}
    assert told["status"]["uri"] == str(root)
    assert told["status"]["samples_done"] == 10
    assert {row["array"] for row in told["inspect"]["arrays"]} >= {"dataset/maps", "targets/maps"}
    assert told["verify"]["damaged"] == [] and told["verify"]["checked"] > 3
    assert told["report"]["page"] == f"{root}/report/index.html"
    assert told["gallery"]["picture"] == f"{root}/report/gallery.png"
    assert told["replay"]["outcome"] == "equal"
    assert "PLANTED" not in str(answers)


def test_a_finished_run_asks_the_store_for_little_and_works_at_nothing(
    object_server, run_and_log, tiny, monkeypatch
):
    root = copied(run_and_log[0], object_server.bucket())
    time.sleep(1.1)  # clocks of object stores count whole seconds, and the copy is in no order
    write_atomic(root / GATE, read_bytes(root / GATE))
    before = marks(stored(root))

    def refuse(*_):
        raise AssertionError("a stage was called, or a pool made")

    monkeypatch.setattr(lifecycle, "shared_pool", refuse)
    object_server.reset()
    assert make_run(tiny(), str(root), call=refuse)["state"] == "complete"
    assert len(object_server.requests) <= 75
    assert marks(stored(root)) == before


def test_a_lost_receipt_costs_one_shard(object_server, run_and_log, unbroken, tiny):
    root = copied(run_and_log[0], object_server.bucket())
    (root / "receipts" / "generate" / "00001.json").remove()
    before = marks(stored(root))
    object_server.reset()
    make_run(tiny(), str(root), call=without_validation)
    assert before.items() <= marks(stored(root)).items()
    written = {change.partition("/copy/")[2] for change in object_server.changes}
    assert {name for name in written if "dataset" in name and "/c/" in name} == {
        name for name in tables(stored(root)) if "/c/1" in name and "dataset" in name
    }
    assert_same(root, unbroken)


def test_a_flipped_byte_is_found_and_renewed(object_server, run_and_log, unbroken, tiny, farfield):
    root = copied(run_and_log[0], object_server.bucket())
    content = bytearray(read_bytes(root / SHARD))
    content[len(content) // 3] ^= 1
    write_atomic(root / SHARD, bytes(content))
    answer = farfield("verify", root, "--json")
    assert answer.code == 5
    assert json.loads(answer.out)["damaged"] == ["generate/00001"]
    make_run(tiny(), str(root), call=without_validation)
    assert_same(root, unbroken)


def test_a_run_grows_as_in_a_folder(object_server, run_and_log, finished):
    root = copied(run_and_log[0], object_server.bucket())
    for place in (root, finished):
        run = RunStore(place)
        extend_run(run, with_samples(stored_settings(run), 17), call=without_validation)
    assert_same(root, finished)


def test_a_held_run_is_refused_and_a_silent_one_taken_over(
    object_server, run_and_log, unbroken, tiny
):
    root = copied(run_and_log[0], object_server.bucket())
    (root / "receipts" / "generate" / "00002.json").remove()
    before = stored(root)
    with hold_lease(RunStore(root), every=2.0), pytest.raises(InUse, match="in use by process"):
        make_run(tiny(), str(root), call=without_validation)
    assert {n: c for n, c in stored(root).items() if "lease/" not in n} == {
        n: c for n, c in before.items() if "lease/" not in n
    }
    silent = Lease.take(root / "lease", every=0.2)
    make_run(tiny(), str(root), call=without_validation, beat=0.2)
    assert_same(root, unbroken)
    silent.beat()
    silent.release()  # who lost it changes nothing
    assert [name for name in stored(root) if "lease/" in name] == ["lease/00004.free"]


def test_a_store_that_fails_in_the_middle_stops_the_run_at_once(object_server, run_and_log, tiny):
    """No shard is at fault, so none is tried again; the store's answer is not shown."""
    root = copied(run_and_log[0], object_server.bucket())
    (root / "receipts" / "generate" / "00000.json").remove()

    def refuse(what, act):
        object_server.until = 0
        return False

    object_server.reset()
    object_server.meddle = lambda what, act: "dataset" in what and refuse(what, act)
    with pytest.raises(StoreUnreachable) as error:
        make_run(tiny(), str(root), call=without_validation)
    assert len([change for change in object_server.changes if "dataset" in change]) == 1
    object_server.reset()
    assert "access is denied" in str(error.value)
    assert "PLANTED" not in str(error.value)
    assert RunStore(root).ledger("generate").failures(RunStore(root).plan("generate")) == []
    assert RunStore(root).ledger("generate").read(RunStore(root).plan("generate")[0]) is None


def test_an_address_with_a_credential_gets_no_further(farfield, config, caplog):
    caplog.set_level(logging.DEBUG)
    for options in (("--orchestrator", "none"), ("--orchestrator", "prefect")):
        answer = farfield("run", config(), "--out", "s3://PLANTED:PLANTED@bucket/run", *options)
        assert answer.code == 2
        assert "PLANTED" not in answer.out + answer.err + caplog.text


@pytest.mark.actors
def test_actors_write_to_a_bucket(object_server, run_and_log, unbroken, tiny):
    """Each makes its own client from the environment; only the address is sent to it."""
    root = copied(run_and_log[0], object_server.bucket())
    receipts = root / "receipts" / "generate"
    receipts.remove_tree()
    settings = tiny(execution={"pool": "ray", "workers": 2})
    assert ended(start(settings, root, environment=object_server.environment)) == 0
    assert_same(root, unbroken)
    writers = {json.loads(c)["writer"] for n, c in stored(receipts).items()}
    assert not writers & {json.loads(c)["writer"] for c in marks(stored(run_and_log[0])).values()}


def test_a_run_moves_between_folder_and_bucket(bucket, unbroken, tiny, tmp_path):
    """What is stored is the same, so a copy of it is a run."""
    there = RunStore.at(f"{bucket}/copy").root
    for path in (p for p in unbroken.rglob("*") if p.is_file()):
        write_atomic(there / str(path.relative_to(unbroken)), path.read_bytes())
    before = marks(stored(there))
    make_run(tiny(), str(there), call=without_validation)
    assert marks(stored(there)) == before
    here = Path(shutil.copytree(unbroken, tmp_path / "back"))
    assert RunStore(here).record == RunStore(there).record
