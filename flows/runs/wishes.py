"""What became of the wishes of a run: its samples beside some that are made without wishes."""

import numpy as np

from actors.workers import load_sampler
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from ood_core.config.identity import read_method
from ood_core.errors import BaseModelMissing
from ood_core.report.pictures import even_rows
from ood_core.store.files import exists, read_json, write_json
from ood_core.store.run import WISHES, RunStore
from ood_core.synthesis.met import UNSTEERED, Met, meet, unsteered

MEASURED = 2048
"""Most samples that are measured, at even steps through the set."""


def meet_wishes(run: RunStore, settings: RunSettings) -> None:
    """Measure and store what became of the wishes of a run whose samples are there, if any.

    Where the base cannot be found, what was stored before is kept.

    Raises:
        IdentityRefused: another base, or another file of the reward, than the run's.
    """
    if read_method(run.record["identity_record"]).steer is None:
        return
    try:
        pipeline, plan = fitted_pipeline(run, settings), run.plan("generate")
    except BaseModelMissing:
        return
    plain = unsteered(pipeline, load_sampler(run, pipeline), plan.shard_rows, UNSTEERED)
    samples = run.table("generate").pick("maps", even_rows(plan.rows, MEASURED))
    receipts = run.ledger("generate").all(plan)
    made = sum(receipt.stop - receipt.start for receipt in receipts)
    seconds = sum(r.parts.get(part, 0.0) for r in receipts for part in ("draw", "compute"))
    cost = sum(r.nfe for r in receipts) / made, seconds / made
    found = meet(pipeline, samples.astype(np.float32), plain, cost)
    write_json(run.root / WISHES, found.to_json())


def stored_wishes(run: RunStore) -> Met | None:
    """What was measured; None of a run without wishes."""
    place = run.root / WISHES
    return Met.from_json(read_json(place)) if exists(place) else None
