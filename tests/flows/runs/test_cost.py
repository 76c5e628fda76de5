"""The plan of a run's cost: made of the run's own parts, so that counts agree and sums add up."""

from typing import Any

import pytest
import torch

from flows.runs.cost import Meter, Trial, estimate_cost, room, stage_seconds
from flows.runs.lifecycle import make_run
from ood_core.config.method import Method
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import ShardedStage


def test_calls_of_the_base_are_foretold_where_some_are_pruned(tiny: Any, tmp_path: Any) -> None:
    """All three time indices of the grid are tried, with the run's own random numbers."""
    settings = tiny(method={"calibration": {"draws": 1, "bands": 3, "prune_tolerance": 0.05}})
    cost = estimate_cost(settings)
    make_run(settings, str(tmp_path / "run"))
    run = RunStore.open(str(tmp_path / "run"))
    plan = run.plan("generate")
    counted = sum(receipt.nfe for receipt in run.ledger("generate").all(plan))
    assert cost["network_evaluations_per_map"] == counted / plan.computed
    assert counted < cost["network_evaluations_at_most"]["generate"], "else nothing was pruned"


def test_seconds_of_stages_add_up() -> None:
    """Three shards among two workers are two rounds; an empty stage costs nothing."""
    method = Method(steps=2, fixed_point_iterations=1)
    trial = Trial(
        patches=7, calibrate=(1, 2, 3), prior=5, build={"calibrate": 10, "invert": 20,
        "generate": 30}, denoise=(1, 2, 6), calls=(0, 0, 0), steer=0, other=0, memory=0, per_map=0,
    )  # fmt: skip
    plans: dict[ShardedStage, ShardPlan] = {
        "calibrate": ShardPlan(3, 1), "invert": ShardPlan(0, 4), "generate": ShardPlan(10, 4),
    }  # fmt: skip
    found = stage_seconds(trial, plans, method, per_map=0.5, workers=2)
    assert found == {
        "calibrate": 7 + 10 + 2 * 2,
        "invert": 0,
        "generate": 30 + 2 * 4 * 0.5,
        "fit": 5,
    }
    plans["invert"] = ShardPlan(8, 4)  # one round of four maps, 2 * (1 + 1) evaluations of 3 s each
    found = stage_seconds(trial, plans, method, per_map=0.5, workers=2)
    assert found["invert"] == 20 + 4 * 4 * 3


def test_memory_is_that_of_the_peak() -> None:
    """64 MiB held for as long as the block lasts, and twice as much for twice as many maps.

    Of so much the C library asks the system anew, whatever was freed before.
    """
    meter, size = Meter(torch.device("cpu"), 1), 2**26
    with meter("block"):
        held = torch.ones(size // 4)
    grown = meter.peak["block"] - meter.before["block"]
    assert grown >= 0.9 * held.numel() * 4
    assert meter.grown("block", 2) - meter.before["block"] == 2 * grown


def test_a_batch_has_room_in_memory() -> None:
    cpu, one = torch.device("cpu"), 2**20
    there = room(cpu, one, 1)
    assert there > 1
    assert room(cpu, one * there * 10, 1) == 1  # more than all: still one
    assert room(cpu, one, 4) == pytest.approx(there / 4, rel=0.2)  # others allocate
