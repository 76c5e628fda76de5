"""Gathers what the report shows from the stores of a run."""

from typing import Any

import numpy as np
import torch

from flows.settings import RunSettings
from ood_core.arrays import Maps
from ood_core.gate import Verdict
from ood_core.report.record import ReportInput, TimingRow, TrustMap
from ood_core.store.run import SHARDED, RunStore
from ood_core.store.targets import StoredTargets
from ood_core.validate import ValidationReport

MOST_SAMPLES = 4096
"""Samples that the offline scores look at, the first ones; more would not narrow their bands."""


def samples_in_model_range(run: RunStore, targets: StoredTargets) -> Maps:
    """The first samples of the data set, back in model range."""
    physical = run.table("generate").read("maps", slice(0, MOST_SAMPLES))
    return torch.from_numpy(targets.transform.forward(physical))


def report_input(
    run: RunStore,
    settings: RunSettings,
    targets: StoredTargets,
    validation: ValidationReport,
    verdict: Verdict,
) -> ReportInput:
    """Collect pictures, numbers and provenance."""
    record = run.record
    inverted = run.table("invert")
    samples = run.table("generate").read("maps", slice(0, MOST_SAMPLES))
    error = inverted.read("error")
    return ReportInput(
        name=record["name"],
        identity=record["identity"],
        state=verdict.outcome,
        unit=targets.unit,
        fit=targets.physical(targets.fit),
        held_out=targets.physical(targets.held_out),
        samples=samples,
        round_trips=targets.physical(torch.from_numpy(inverted.read("round_trip"))),
        round_trip_targets=targets.physical(targets.fit),
        psnr=psnr(targets.fit, error),
        validation=validation,
        symmetries=settings.targets.symmetries,
        settings={**record["method"], "gate": list(verdict.reasons), **_asked(run, record)},
        versions=record["versions"],
        timings=_timings(run),
        base=record["base"],
        trust=_trust(run),
    )


def psnr(targets: Maps, error: Any) -> Any:
    """Peak signal-to-noise ratio in dB per map: range of the fit targets over the error."""
    peak = float(targets.max() - targets.min())
    return 20 * np.log10(peak / np.maximum(error, 1e-12))


def _asked(run: RunStore, record: dict[str, Any]) -> dict[str, Any]:
    settings, samples = record["settings"], run.plan("generate").rows
    return {
        "base": settings["base"],
        "targets": settings["targets"],
        "generation": {**settings["generation"], "samples": samples},  # it may have grown
    }


def _timings(run: RunStore) -> tuple[TimingRow, ...]:
    rows = []
    for stage, seconds in run.timings.items():
        if stage in SHARDED:
            plan = run.plan(stage)
            receipts = run.receipts(stage).all(plan)
            done = sum(len(plan[r.shard]) for r in receipts)
            nfe = sum(r.nfe for r in receipts)
            rows.append(TimingRow(stage, len(receipts), done, nfe, seconds))
        else:
            rows.append(TimingRow(stage, 1, 0, 0, seconds))
    return tuple(rows)


def _trust(run: RunStore) -> TrustMap | None:
    table = run.table("calibrate")
    if not len(run.plan("calibrate")):
        return None
    words = table.attributes
    return TrustMap(
        noise_to_signal=table.read("noise_to_signal"),
        bands=np.asarray(words["knots"], dtype=np.float64),
        weights=table.read("weights").astype(np.float64),
        experts=tuple(words["experts"]),
    )
