"""What every pool must do, with real stages on real stores.

Subclass `PoolContract` and give a fixture `pool`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.pool import Notice, Outcome, Pool, ShardFailure
from actors.workers import WorkerSpec
from ood_core.errors import BaseModelError, IdentityRefused
from ood_core.models.networks import make_unet, save_base
from ood_core.store.ledger import Receipt
from ood_core.store.run import RunStore
from ood_core.store.schema import ShardedStage
from tests.contracts.store import answers, assert_honest


def spec_of(root: Path, stage: ShardedStage = "generate") -> WorkerSpec:
    base = json.loads((root / "run.json").read_text())["base"]["source"]
    return WorkerSpec(str(root), base, stage, device="cpu", dtype="float32", threads=1)


def missing(root: Path, stage: ShardedStage = "generate") -> list:
    run = RunStore(root)
    return run.ledger(stage).missing(run.plan(stage))


def of_shards(outcomes: Iterable[Outcome]) -> Iterator[Receipt | ShardFailure]:
    """What became of shards; on a busy machine a pool has more to say."""
    return (outcome for outcome in outcomes if not isinstance(outcome, Notice))


class PoolContract:
    def test_it_is_a_pool(self, pool):
        assert isinstance(pool, Pool)

    def test_receipts_are_those_of_the_unbroken_run(self, pool, ready, unbroken):
        found = list(of_shards(pool.run(spec_of(ready), missing(ready))))
        assert {type(outcome) for outcome in found} == {Receipt}
        assert sorted(receipt.shard for receipt in found) == [0, 1, 2]
        assert missing(ready) == []
        assert answers(ready) == answers(unbroken)
        stored = RunStore(ready).ledger("generate").all(RunStore(ready).plan("generate"))
        assert stored == sorted(found, key=lambda receipt: receipt.shard)

    def test_no_shards_no_work(self, pool, tmp_path):
        spec = WorkerSpec(str(tmp_path / "no run"), "no base", "generate", "cpu", "float32", 1)
        assert list(pool.run(spec, [])) == []

    def test_only_the_asked_shards_are_computed(self, pool, ready):
        wanted = missing(ready)[1:2]
        found = of_shards(pool.run(spec_of(ready), wanted))
        assert [receipt.shard for receipt in found] == [1]
        assert [shard.index for shard in missing(ready)] == [0, 2]

    def test_a_shard_that_always_fails_is_named_and_the_others_land(self, pool, ready, unbroken):
        obstacle = ready / "dataset.zarr" / "maps" / "c" / "1" / "0" / "0" / "0" / "in the way"
        obstacle.mkdir(parents=True)  # a folder where the shard's file must go
        found = list(pool.run(spec_of(ready), missing(ready)))
        failures = [outcome for outcome in found if isinstance(outcome, ShardFailure)]
        assert [failure.shard for failure in failures] == [1]
        assert "Error" in failures[0].reason
        assert [shard.index for shard in missing(ready)] == [1]
        assert_honest(ready)
        obstacle.rmdir()
        obstacle.parent.rmdir()
        found = of_shards(pool.run(spec_of(ready), missing(ready)))
        assert [receipt.shard for receipt in found] == [1]
        assert answers(ready) == answers(unbroken)

    def test_another_base_is_refused_by_its_name(self, pool, ready, tmp_path):
        torch.manual_seed(1)
        other = tmp_path / "other"
        save_base(make_unet(16, 1, (8, 16), 1, (False, False), 4), "epsilon", other)
        spec = replace(spec_of(ready), base=str(other))
        with pytest.raises(IdentityRefused, match="weights or schedule differ"):
            list(pool.run(spec, missing(ready)[:1]))
        assert len(missing(ready)) == 3

    def test_a_base_that_is_gone_is_an_input_error(self, pool, ready, tmp_path):
        spec = replace(spec_of(ready), base=str(tmp_path / "gone"))
        with pytest.raises(BaseModelError, match="gone"):
            list(pool.run(spec, missing(ready)[:1]))
