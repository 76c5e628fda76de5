"""The targets of a run as they are stored, with their latents and which round trips hold."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.arrays import Latents
from ood_core.config.identity import read_method
from ood_core.diffusion.sampling import held
from ood_core.maps.target_set import TargetSet
from ood_core.maps.transforms import RangeTransform
from ood_core.store.arrays import Table
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import target_columns


def write_targets(run: RunStore, targets: TargetSet) -> Table:
    """Store a set of targets, with model range and codes, so that all workers see the same."""
    count = len(targets)
    rows: dict[str, NDArray[Any]] = {
        "target": np.arange(count, dtype=np.int64),
        "values": targets.values,
        "maps": targets.model_range.numpy(),
        "held_out": (np.arange(count) >= targets.fit_count).astype(np.int8),
    }
    if targets.codes is not None:
        rows["codes"] = targets.codes.numpy()
    code_shape = None if targets.codes is None else tuple(targets.codes.shape[1:])
    if targets.missing is not None:
        rows["missing"] = targets.missing.astype(np.int8)
    if targets.places is not None:
        rows["place"] = targets.places
    plan = ShardPlan(count, count)
    table = Table.create(
        run.root / "targets.zarr",
        "target",
        plan.rows,
        plan.shard_rows,
        target_columns(targets.shape, targets.unit, code_shape, rows),
        {
            "transform": targets.transform.as_dict(),
            "symmetries": list(targets.symmetries),
            "unit": targets.unit,
            "header": targets.header,
            "ids": list(targets.ids),
            "source": targets.source,
            "notes": list(targets.notes),
        },
    )
    table.write(plan[0], rows)
    return table


def load_targets(run: RunStore, name: str = "targets.zarr") -> TargetSet:
    """Read the targets of a run, or others that are stored beside them."""
    rows, attributes = Table(run.root / name).load()
    return TargetSet(
        values=rows["values"],
        ids=tuple(attributes["ids"]),
        unit=str(attributes["unit"]),
        header=str(attributes["header"]),
        source=str(attributes["source"]),
        transform=RangeTransform.from_dict(attributes["transform"]),
        symmetries=tuple(attributes["symmetries"]),
        fit_count=int((rows["held_out"] == 0).sum()),
        model_range=torch.from_numpy(rows["maps"]),
        codes=torch.from_numpy(rows["codes"]) if "codes" in rows else None,
        notes=tuple(attributes["notes"]),
        missing=rows["missing"].astype(bool) if "missing" in rows else None,
        places=rows.get("place"),
    )


def read_latents(run: RunStore) -> Latents:
    """Read the latents whose round trip holds: those that a prior is fitted to."""
    return held_latents(run, load_targets(run), _limit(run))[0]


def held_latents(run: RunStore, targets: TargetSet, limit: float) -> tuple[Latents, list[int]]:
    """Read the latents whose round trip is within `limit`, and the numbers of their targets."""
    rows, _ = run.table("invert").load("latents", "error")
    lost = set(_failed(targets, rows["error"], limit))
    held = [row for row in range(len(rows["error"])) if row not in lost]
    return torch.from_numpy(rows["latents"])[held], held


def all_latents(run: RunStore) -> Latents:
    """Read the latents of all fit targets, whatever their round trip."""
    return torch.from_numpy(run.table("invert").read("latents"))


def failed_round_trips(run: RunStore) -> list[int]:
    """Numbers of the fit targets whose round trip fails by the rule of `held`."""
    return _failed(load_targets(run), run.table("invert").read("error"), _limit(run))


def _limit(run: RunStore) -> float:
    return read_method(run.record["identity_record"]).round_trip_limit


def _failed(targets: TargetSet, error: NDArray[Any], limit: float) -> list[int]:
    spread = targets.fit_ranged.flatten(1).std(dim=1)
    good = held(torch.from_numpy(error), spread, limit)
    return torch.nonzero(~good)[:, 0].tolist()
