"""What Ray's metrics and the logs of workers say of real shards."""

import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from actors.ray_pool import RayPool
from ood_core.store.ledger import Receipt
from tests.contracts.pool import missing, spec_of

pytestmark = [pytest.mark.actors, pytest.mark.usefixtures("local_ray")]


def exported(name):
    """Values of one of our metrics by its tags, as Prometheus would read them now."""
    (node,) = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = re.findall(rf"^ray_farfield_{name}{{(.*)}} (\S+)$", answer.read().decode(), re.M)
    return {tags: float(value) for tags, value in lines}


def all_told():
    """Whether what Ray gathers from time to time is of two shards, a failed try and an actor."""
    wanted = {"shards_total": [2], "failed_tries_total": [1], "workers": [1]}
    return all([*exported(name).values()] == value for name, value in wanted.items())


def test_metrics_and_logs_are_those_of_the_receipts(ready):
    """Two of three shards land; the third is in the way of itself, once."""
    obstacle = ready / "dataset.zarr" / "maps" / "c" / "1" / "0" / "0" / "0" / "in the way"
    obstacle.mkdir(parents=True)
    with RayPool(workers=1, tries=1, logs="json").standing() as pool:
        found = list(pool.run(spec_of(ready), missing(ready)))
        receipts = [one for one in found if isinstance(one, Receipt)]
        end = time.monotonic() + 120
        while not all_told() and time.monotonic() < end:
            time.sleep(0.5)
        (tags,) = exported("rows_total")
        assert f'run="{ready}"' in tags and 'stage="generate"' in tags
        assert "WorkerId=" in tags or "NodeAddress=" in tags
        assert [*exported("rows_total").values()] == [sum(r.stop - r.start for r in receipts)]
        assert [*exported("shards_total").values()] == [len(receipts)] == [2]
        assert [*exported("failed_tries_total").values()] == [1]
        assert [*exported("workers").values()] == [1]
        computed = [v for k, v in exported("seconds_total").items() if 'part="compute"' in k]
        assert computed == pytest.approx([sum(r.parts["compute"] for r in receipts)])
        assert min(exported("worker_bytes").values()) > 2**26
    worker = {int(one.writer.rpartition(":")[2]) for one in receipts}.pop()
    logs = Path(os.path.realpath(ray._private.worker._global_node.get_logs_dir_path()))
    (log,) = logs.glob(f"worker-*-{worker}.err")
    said = [json.loads(line) for line in log.read_text().split("\n") if line.startswith("{")]
    stored = {(one["run"], one["stage"], one["shard"]) for one in said if one["level"] == "INFO"}
    assert stored == {(str(ready), "generate", receipt.shard) for receipt in receipts}
    (failed,) = [one for one in said if one["level"] == "WARNING"]
    assert failed["shard"] == 1 and "Error" in failed["error"]
