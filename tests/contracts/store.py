"""What every run must satisfy after a fault: three assertions, used by all tests of faults.

*The resumed store equals the unbroken one; nothing finished was computed again; nothing unfinished
was marked done.*
"""

import json
from pathlib import Path

from ood_core.store.run import RunStore
from ood_core.store.schema import SHARDED

Marks = dict[str, tuple[int, bytes]]


def marks(root: Path) -> Marks:
    """Every receipt with its time of writing and its bytes: what counts as finished."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.glob("receipts/*/*.json"))
    }


def arrays(root: Path) -> dict[str, bytes]:
    """Bytes of every file of every table of a run."""
    found = sorted((*root.glob("*.zarr/**/*"), *root.glob("*.zarr.zip")))
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.is_file()}


def answers(root: Path) -> dict[str, tuple[object, ...]]:
    """What the receipts say, without seconds and writers."""
    kept = ("stage", "shard", "start", "stop", "digest", "statistics", "nfe")
    records = {
        p.relative_to(root): json.loads(p.read_text()) for p in root.glob("receipts/*/*.json")
    }
    return {str(path): tuple(record[key] for key in kept) for path, record in records.items()}


def assert_equal(resumed: Path, unbroken: Path) -> None:
    """The resumed store equals the unbroken one, and no half-written file is left."""
    assert answers(resumed) == answers(unbroken)
    assert (resumed / "plan.json").read_bytes() == (unbroken / "plan.json").read_bytes()
    one, other = arrays(resumed), arrays(unbroken)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert [path for path in resumed.rglob("*") if "partial" in path.name] == []


def assert_kept(before: Marks, root: Path) -> None:
    """Nothing that was finished was computed again."""
    after = marks(root)
    assert {name: after.get(name) for name in before} == before


def assert_honest(root: Path) -> None:
    """Nothing unfinished is marked done: every receipt has the digest of the stored bytes."""
    run = RunStore(root)
    if not run.exists:
        return
    for stage in SHARDED:
        book = run.ledger(stage)
        for receipt in book.all(run.plan(stage)):
            assert run.table(stage).digest(receipt) == receipt.digest
            if receipt.statistics:
                assert run.statistics.digest(receipt) == receipt.statistics
