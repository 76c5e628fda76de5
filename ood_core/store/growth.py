"""Growth of a run: more samples in the same place, and nothing that is stored is touched.

Every shard of samples is stored whole, the last one too, so growth is new shards and longer
metadata, never a rewritten chunk. Only this module changes `plan.json` after planning.
"""

from ood_core.errors import InputError
from ood_core.store.files import read_json, write_json
from ood_core.store.run import RunStore


def require_room(run: RunStore, samples: int) -> None:
    """Refuse a number of samples that the run cannot grow to.

    Raises:
        InputError: fewer samples than are planned.
    """
    plan = run.plan("generate")
    if samples < plan.rows:
        raise InputError(
            f"{run.root}: got {samples} samples; expected at least the {plan.rows} that are "
            "planned: a run only grows. Give another --out to `farfield run` for a smaller set"
        )


def grow(run: RunStore, samples: int) -> int:
    """Plan `samples` samples in all; return how many were planned before.

    The plan is written first: from then on the run counts as incomplete, wherever a crash falls,
    and `settle` does the rest.

    Raises:
        InputError: see `require_room`.
    """
    require_room(run, samples)
    plan = run.plan("generate")
    if samples > plan.rows:
        record = read_json(run.root / "plan.json")
        record["generate"]["rows"] = samples
        write_json(run.root / "plan.json", record)
    settle(run)
    return plan.rows


def settle(run: RunStore) -> None:
    """Make the data set as long as the plan; finishes a growth that was cut short."""
    rows = run.plan("generate").rows
    for table in (run.statistics, run.table("generate")):
        if table.exists:  # one that was lost is made anew by the stage that fills it
            table.grow(rows)
