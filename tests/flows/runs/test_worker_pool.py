"""How many workers a machine gets: no more than the CPUs that this process may use."""

import os

import pytest

from flows.runs import worker_pool
from flows.runs.worker_pool import worker_count
from flows.settings import Execution


@pytest.fixture
def cpus(monkeypatch, tmp_path):
    def bound(count, quota="max 100000"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(worker_pool, "QUOTA", tmp_path / "cpu.max")

    return bound


@pytest.mark.parametrize(
    ("count", "quota", "each", "workers"),
    [
        (8, "max 100000", 1, 8),
        (1, "max 100000", 1, 1),  # taskset -c 0
        (8, "200000 100000", 1, 2),  # docker --cpus 2
        (8, "50000 100000", 1, 1),  # half a CPU is one worker
        (8, "max 100000", 3, 2),
        (2, "max 100000", 4, 1),
    ],
)
def test_affinity_and_quota_bound_the_workers(cpus, count, quota, each, workers):
    cpus(count, quota)
    assert worker_count(Execution(device="cpu", cpus_per_worker=each)) == workers


def test_a_number_that_was_set_is_taken(cpus):
    cpus(1)
    assert worker_count(Execution(device="cpu", workers=5)) == 5
    assert worker_count(Execution(device="cpu", workers=5, pool="inline")) == 1
