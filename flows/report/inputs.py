"""What the report shows, read from the tables and records of a run."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray

from flows.progress import shares
from ood_core.arrays import Maps
from ood_core.denoising.calibrated import in_order
from ood_core.evaluation.downstream import DownstreamResult
from ood_core.evaluation.gate import Decision
from ood_core.evaluation.results import EvaluationResult
from ood_core.maps.target_set import TargetSet
from ood_core.report.card import ArrayRow, CardInput
from ood_core.report.pictures import even_rows
from ood_core.report.record import ReportInput, TimingRow, TrustMap, WalkStrip
from ood_core.store.files import exists, names, read_bytes, read_json
from ood_core.store.fitted import read_calibration
from ood_core.store.run import UTILITY, RunStore
from ood_core.store.schema import SHARDED
from ood_core.store.statistics import BLOCK_ROWS, read_drawn
from ood_core.store.targets import failed_round_trips
from ood_core.synthesis.latents import COUNTED
from ood_core.synthesis.met import Met

WALKS = "walks"
WALK_NUMBERS = "walk.json"
SEPARABILITY = "separability.json"
MAX_WALKS = 3
MAX_SHOWN = 512
"""Maps that the report reads back for its pictures and its table of pixel values, at even steps."""


def shown_samples(
    run: RunStore, others: Iterable[int] = ()
) -> tuple[NDArray[np.float32], list[int]]:
    """Maps of the data set as they are stored, with their numbers: at even steps, and `others`."""
    count = run.plan("generate").rows
    numbers = sorted({*even_rows(count, MAX_SHOWN), *others})
    return run.table("generate").pick("maps", numbers), numbers


def report_input(
    run: RunStore,
    targets: TargetSet,
    result: EvaluationResult,
    decision: Decision,
    wishes: Met | None = None,
) -> ReportInput:
    """Collect pictures, numbers and provenance.

    `latents` are those of the fit targets, some that samples began from, and their prior.
    """
    record = run.record
    inverted = run.table("invert")
    network = result.tests.network
    extremes = [*result.least_typical, *(pair.sample for pair in result.closest)]
    extremes += [tell.sample for tell in network.tells] if network else []
    samples, numbers = shown_samples(run, extremes)
    error = inverted.read("error")
    return ReportInput(
        name=record["name"],
        identity=record["identity"],
        state=decision.outcome,
        unit=targets.unit,
        fit=targets.fit,
        held_out=targets.held_out,
        samples=samples,
        sample_numbers=tuple(numbers),
        round_trips=targets.physical(torch.from_numpy(inverted.read("round_trip"))),
        round_trip_targets=targets.fit,
        psnr=psnr(targets.fit_ranged, error),
        result=result,
        symmetries=targets.symmetries,
        settings={
            **record["method"],
            "draws": draw_record(run),
            "left_out_of_prior": [targets.ids[row] for row in failed_round_trips(run)],
            "gate": list(decision.reasons),
            **_settings(run, record),
        },
        versions=record["versions"],
        timings=_timings(run),
        base=record["base"],
        trust=_trust(run),
        downstream=stored_downstream(run),
        walks=walk_strips(run),
        wishes=wishes,
    )


def walk_strips(run: RunStore) -> tuple[WalkStrip, ...]:
    """Pictures of the first walks that lie in the run."""
    found = []
    for name in sorted(names(run.root / WALKS))[:MAX_WALKS]:
        place = run.root / WALKS / name
        if not exists(place / WALK_NUMBERS):  # written last
            continue
        numbers = read_json(place / WALK_NUMBERS)
        title = f"From {numbers['from']} to {numbers['to']}"
        strip = read_bytes(place / "strip.png")
        found.append(WalkStrip(title, strip, f"../{WALKS}/{quote(name)}/walk.csv"))
    return tuple(found)


def stored_separability(run: RunStore) -> dict[str, Any] | None:
    """What was measured of a run; None where nothing was."""
    place = run.root / WALKS / SEPARABILITY
    return read_json(place) if exists(place) else None


def stored_downstream(run: RunStore) -> DownstreamResult | None:
    """What `farfield utility` found, where it was run."""
    place = run.root / UTILITY
    return DownstreamResult.from_json(read_json(place)) if exists(place) else None


def card_input(
    run: RunStore, targets: TargetSet, report: ReportInput, decision: Decision
) -> CardInput:
    """Add to the report's record what the card says of the data set."""
    record, table = run.record, run.table("generate")
    # Maps first: they are what the set is about, and readers look at the first rows.
    arrays = sorted((array_row(name, a) for name, a in table.arrays()), key=_maps_first)
    return CardInput(
        report=report,
        arrays=tuple(arrays),
        digest=sha256(read_bytes(table.path / "zarr.json")).hexdigest(),
        day=_last_day(run),
        source=Path(record["settings"]["targets"]["path"]).name,
        header=targets.header,
        seed=record["identity_record"]["generation"]["seed"],
        reasons=decision.reasons,
    )


def array_row(name: str, array: Any) -> ArrayRow:
    """Describe a stored array for the card."""
    return ArrayRow(
        name=name,
        axes=tuple(array.metadata.dimension_names),
        shape=tuple(array.shape),
        dtype=str(array.dtype),
        unit=str(array.attrs["units"]),
        meaning=str(array.attrs["long_name"]),
    )


def _maps_first(row: ArrayRow) -> bool:
    return row.name != "maps"


def _last_day(run: RunStore) -> str:
    """Day on which the last shard of samples was stored: the same in every later report."""
    last = run.ledger("generate").last_written
    return datetime.fromtimestamp(last, UTC).date().isoformat()


def psnr(targets: Maps, error: Any) -> Any:
    """Peak signal-to-noise ratio in dB per map: range of the fit targets over the error."""
    peak = float(targets.max() - targets.min())
    return 20 * np.log10(peak / np.maximum(error, 1e-12))


def draw_record(run: RunStore) -> dict[str, Any] | None:
    """How many latents were drawn, how many of them were refused, and by which test.

    Returns None while no samples, or nothing of how they were drawn, are stored.
    """
    plan = run.plan("generate")
    done = [receipt.shard for receipt in run.ledger("generate").all(plan)]
    if not done or not run.statistics.exists:
        return None
    drawn = kept = 0
    counts = np.zeros(len(COUNTED), dtype=np.int64)
    for start in range(0, plan.rows, BLOCK_ROWS):
        rows = np.arange(start, min(plan.rows, start + BLOCK_ROWS))
        found = read_drawn(run, slice(start, start + len(rows)))
        there = np.isin(rows // plan.shard_rows, done)
        attempts, refusals = (found[name][there] for name in ("attempts", "refusals"))
        drawn, counts = drawn + int(attempts.sum()), counts + refusals.sum(axis=0)
        kept += int((attempts == refusals[:, 0]).sum())
    return {
        "drawn": drawn,
        "kept_though_refused": kept,
        "refused": {
            name: float(count / drawn) for name, count in zip(COUNTED, counts, strict=True)
        },
    }


def _settings(run: RunStore, record: dict[str, Any]) -> dict[str, Any]:
    settings, samples = record["settings"], run.plan("generate").rows
    return {
        "base": settings["base"],
        "targets": settings["targets"],
        "generation": {**settings["generation"], "samples": samples},  # it may have grown
    }


def _timings(run: RunStore) -> tuple[TimingRow, ...]:
    rows, splits = [], run.splits
    for stage, seconds in run.timings.items():
        if stage in SHARDED:
            plan = run.plan(stage)
            receipts = run.ledger(stage).all(plan)
            done = sum(len(plan[r.shard]) for r in receipts)
            nfe = sum(r.nfe for r in receipts)
            spent = shares(splits[stage]) if stage in splits else {}
            rows.append(TimingRow(stage, len(receipts), done, nfe, seconds, spent))
        else:
            rows.append(TimingRow(stage, 1, 0, 0, seconds))
    return tuple(rows)


def _trust(run: RunStore) -> TrustMap | None:
    if not len(run.plan("calibrate")):
        return None
    plan, found = read_calibration(run)
    return TrustMap(
        noise_to_signal=found.noise_to_signal.double().numpy(),
        bands=found.knots.double().numpy(),
        weights=found.weights.double().numpy(),
        experts=in_order(plan.experts),
    )
