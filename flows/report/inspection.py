"""Contents of a run, checks of its stored bytes, and descriptions of bases."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from flows.report.inputs import draw_record, psnr, stored_separability
from ood_core.errors import ShardCorrupt
from ood_core.maps.paths import SHIPPED
from ood_core.models.importing import ImportOptions, import_checkpoint
from ood_core.models.loading import BaseModel, load_model
from ood_core.store.arrays import Table
from ood_core.store.fitted import describe_prior
from ood_core.store.ledger import Receipt
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.schema import SHARDED, ShardedStage
from ood_core.store.targets import failed_round_trips, load_targets

SCANNED_ROWS = 4096


def describe(run: RunStore) -> dict[str, Any]:
    """Arrays with ranges over their first rows, round trips, transform and settings."""
    filled = [*(run.table(stage) for stage in SHARDED), run.statistics]
    tables = [run.targets, *(table for table in filled if table.exists)]
    arrays = [row for table in tables for row in _arrays(table)]
    targets = load_targets(run)
    done = not run.ledger("invert").missing(run.plan("invert"))
    decibels = (
        psnr(targets.fit_ranged, run.table("invert").read("error")) if done else np.array([np.nan])
    )
    lost = failed_round_trips(run) if done else []
    record = run.record
    return {
        "name": record["name"],
        "state": run.state,
        "identity": record["identity"],
        "unit": targets.unit,
        "transform": targets.transform.as_dict(),
        "quantization": targets.quantization.found,
        "fit_targets": targets.fit_count,
        "held_out_targets": len(targets.held_out),
        "round_trip_psnr_db": {
            "least": float(decibels.min()),
            "median": float(np.median(decibels)),
        },
        "left_out_of_prior": [targets.ids[row] for row in lost],
        "method": record["method"],
        "prior": describe_prior(run.root / PRIOR) if run.has_prior else None,
        **({"timestep_choice": record["timestep_choice"]} if "timestep_choice" in record else {}),
        "draws": draw_record(run),
        "separability": stored_separability(run),
        "arrays": arrays,
    }


def verify_run(run: RunStore) -> dict[str, Any]:
    """Hash every finished shard again; withdraw the receipts of those that differ."""
    checked, damaged = 0, []
    for stage in SHARDED:
        plan, book = run.plan(stage), run.ledger(stage)
        for shard in plan:
            receipt = book.read(shard)
            if receipt is None:
                continue
            checked += 1
            if not _good(run, stage, receipt):
                book.revoke(shard)
                damaged.append(f"{stage}/{shard.index:05d}")
    remedy = "run the same `farfield run` again to renew them" if damaged else "nothing to do"
    return {"checked": checked, "damaged": damaged, "remedy": remedy}


def _good(run: RunStore, stage: ShardedStage, receipt: Receipt) -> bool:
    """Whether rows, and statistics of samples, have the digests of the receipt."""
    try:
        if receipt.statistics and run.statistics.digest(receipt) != receipt.statistics:
            return False
        return run.table(stage).digest(receipt) == receipt.digest
    except (ShardCorrupt, FileNotFoundError):  # a table may be gone altogether
        return False


def shipped_models() -> list[dict[str, Any]]:
    """The bases that come with the project."""
    folders = sorted((SHIPPED / "models").glob("*/"))
    found = []
    for folder in folders:
        model = load_model(str(folder))
        found.append(
            {
                "model": f"models/{folder.name}",
                "channels": model.channels,
                "size": model.size,
                "parameters": model.parameters,
                "prediction": model.prediction,
                "digest": model.digest[:16],
            }
        )
    return found


def describe_model(source: str) -> dict[str, Any]:
    """Everything that is known of a base without running it."""
    return describe_base(load_model(source))


def describe_base(model: BaseModel) -> dict[str, Any]:
    """Everything that is known of a loaded base without running it."""
    schedule = model.denoiser.schedule
    return {
        "source": model.source,
        "digest": model.digest,
        "channels": model.channels,
        "size": model.size,
        "size_multiple": model.size_multiple,
        "fixed_size": model.fixed_size,
        "parameters": model.parameters,
        "prediction": model.prediction,
        "pixels_per_code": 1 if model.codes is None else model.codes.factor,
        "schedule_steps": len(schedule),
        "noise_to_signal": {
            "first": schedule.noise_to_signal(0),
            "last": schedule.noise_to_signal(len(schedule) - 1),
        },
        "rulings": [asdict(ruling) for ruling in model.rulings],
    }


def import_model(
    checkpoint: Path, folder: Path, options: ImportOptions, max_bytes: int
) -> dict[str, Any]:
    """Import a checkpoint, load the base that it became, and describe it."""
    origin = import_checkpoint(checkpoint, folder, options, max_bytes)
    found = describe_base(load_model(str(folder), max_bytes=max_bytes))
    del found["rulings"]
    return {"layout": origin.layout, "weights": origin.place, **found}


def _arrays(table: Table) -> list[dict[str, Any]]:
    rows = []
    for name, array in table.arrays():
        values = table.read(name, slice(0, SCANNED_ROWS)).astype(np.float64)
        known = values[np.isfinite(values)]
        low, mean, high = (
            (float(known.min()), float(known.mean()), float(known.max()))
            if known.size
            else (float("nan"),) * 3
        )
        rows.append(
            {
                "array": f"{table.path.name.removesuffix('.zarr')}/{name}",
                "shape": list(array.shape),
                "type": str(array.dtype),
                "units": str(array.attrs.get("units", "")),
                "min": low,
                "mean": mean,
                "max": high,
            }
        )
    return rows
