"""Features of the samples: stored by the workers beside the maps, read back instead of them.

One row per sample in `statistics.zarr`, in the shards of `dataset.zarr` and covered by the same
receipts. All floating-point features lie in one array; the attribute `layout` says where. Shards
that have none, or were measured by another definition, are measured again from their maps.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import ShardCorrupt
from ood_core.evaluation.features import FeatureExtractor, Features
from ood_core.evaluation.memorization import threshold
from ood_core.maps.target_set import TargetSet
from ood_core.store.arrays import Table, rows_digest
from ood_core.store.bundle import bundle_exists, read_bundle, write_bundle
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard, ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import statistics_columns

DEFINITION = 5
"""Goes up when a statistic changes its meaning: those that are stored are then left aside."""
NEAREST = (
    "target", "element", "shifted_target", "shifted_element", "shift_y", "shift_x",
    "whole_target", "window_target", "piece_target",
)  # fmt: skip
BLOCK_ROWS = 8192  # read at once, which bounds the memory

Layout = list[tuple[str, tuple[int, ...]]]


def feature_extractor(targets: TargetSet) -> FeatureExtractor:
    """Return the feature extractor of a run: the same in every process."""
    return FeatureExtractor.of(
        targets.fit_ranged, targets.held_out_ranged, targets.symmetries, targets.missing
    )


def create_statistics(run: RunStore, extractor: FeatureExtractor, plan: ShardPlan) -> Table:
    """Create the table with the length and the shards of the data set."""
    layout = _layout(extractor)
    within, rate = threshold(extractor.nearest_shifted(extractor.held_out).distance.float())
    floats = sum(_size(shape) for _, shape in layout)
    channels, height, width = extractor.fit.shape[1:]
    return Table.create(
        run.statistics.path,
        "sample",
        plan.rows,
        plan.shard_rows,
        statistics_columns(channels, extractor.edges.shape[1], floats, height * width),
        {
            "definition": DEFINITION,
            "layout": [[name, list(shape)] for name, shape in layout],
            "pixel_edges": extractor.edges.tolist(),
            "nearest": list(NEAREST),
            "copy_distance": within,
            "copy_rate": rate,
        },
    )


def copy_distance(run: RunStore, extractor: FeatureExtractor) -> float | None:
    """Distance within which a sample is flagged as a copy, set when the run was planned.

    None where there is no table, or one of other definitions or features than this version's.
    """
    if not run.statistics.exists:
        return None
    attributes, rows = (
        run.statistics.attributes,
        [[name, list(s)] for name, s in _layout(extractor)],
    )
    same = attributes.get("definition") == DEFINITION and attributes.get("layout") == rows
    return float(attributes["copy_distance"]) if same else None


def statistics_rows(
    extractor: FeatureExtractor,
    targets: TargetSet,
    samples: Mapping[str, NDArray[Any]],
    within: float = 0.0,
) -> dict[str, NDArray[Any]]:
    """Return the rows of `statistics.zarr` of rows of samples, whose `maps` are physical.

    Samples not further than `within` from a target, shifts searched, are flagged as copies.
    """
    maps = samples["maps"]
    rows = extractor.extract(targets.ranged(maps), int(samples["sample"][0]))
    floats = [v.reshape(len(maps), -1) for v in rows.values() if v.is_floating_point()]
    pixels = rows["pixels"].numpy()
    counts = np.uint16 if maps[0, 0].size < 2**16 else np.uint32
    return {
        "statistics": torch.cat(floats, dim=1).numpy(),
        "pixels": pixels.astype(counts),
        "nearest": torch.stack([rows[name] for name in NEAREST], dim=1).numpy(),
        "copy": (rows["shifted"] <= within).numpy().astype(np.int8),
    }


def read_statistics(
    run: RunStore, extractor: FeatureExtractor, targets: TargetSet
) -> Iterator[Features]:
    """Yield the features of all samples in order, in blocks of bounded size.

    Raises:
        ShardCorrupt: stored rows do not have the digest of their receipt.
    """
    plan, stored = run.plan("generate"), copy_distance(run, extractor) is not None
    layout = _layout(extractor)
    group: list[tuple[Shard, Receipt]] = []
    for shard, receipt in zip(plan, run.ledger("generate").all(plan), strict=True):
        if not (stored and receipt.statistics):
            if group:
                yield _unpacked(_vouched(run.statistics, group), layout)
                group = []
            # The whole shard, as the worker measured it: rounding depends on the batch.
            samples = run.table("generate").rows(receipt.start, receipt.stop)
            rows = statistics_rows(extractor, targets, samples)
            yield _unpacked({name: v[: len(shard)] for name, v in rows.items()}, layout)
            continue
        group.append((shard, receipt))
        if shard.stop - group[0][0].start >= BLOCK_ROWS:
            yield _unpacked(_vouched(run.statistics, group), layout)
            group = []
    if group:
        yield _unpacked(_vouched(run.statistics, group), layout)


def write_domain(run: RunStore, rows: Float[Tensor, "b f"]) -> None:
    """Write the scattering moments of maps that the base makes of noise."""
    arrays = {"scattering": (("map", "statistic"), rows.numpy())}
    write_bundle(run.root / "domain.zarr", arrays, {"definition": DEFINITION})


def read_domain(run: RunStore) -> Float[Tensor, "b f"] | None:
    """Read them; None where there are none, or of another definition."""
    place = run.root / "domain.zarr"
    if not bundle_exists(place):
        return None
    arrays, attributes = read_bundle(place)
    return (
        torch.from_numpy(arrays["scattering"]) if attributes["definition"] == DEFINITION else None
    )


def _vouched(table: Table, group: list[tuple[Shard, Receipt]]) -> dict[str, NDArray[Any]]:
    """Read neighbouring shards at once and compare each with its receipt."""
    start, stop = group[0][0].start, group[-1][0].stop
    rows = table.rows(start, group[-1][1].stop)
    for shard, receipt in group:
        part = slice(receipt.start - start, receipt.stop - start)
        if rows_digest({name: v[part] for name, v in rows.items()}) != receipt.statistics:
            raise ShardCorrupt(
                f"{table.path.name}, rows {shard.start}:{shard.stop}, are not those that were "
                "measured; run `farfield verify` to find the shard and `farfield run` to renew it"
            )
    return {name: values[: stop - start] for name, values in rows.items()}


def _unpacked(rows: Mapping[str, NDArray[Any]], layout: Layout) -> Features:
    sizes = [_size(shape) for _, shape in layout]
    parts = torch.from_numpy(rows["statistics"]).split(sizes, dim=1)
    near = torch.from_numpy(rows["nearest"]).unbind(1)
    return {
        **{
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for (name, shape), part in zip(layout, parts, strict=True)
        },
        "pixels": torch.from_numpy(rows["pixels"].astype(np.int32)),
        **dict(zip(NEAREST, near, strict=True)),
    }


def _layout(extractor: FeatureExtractor) -> Layout:
    """Names and shapes of the floating-point features, in the order in which they are stored."""
    rows = extractor.extract(extractor.fit[:1])
    return [(name, tuple(v.shape[1:])) for name, v in rows.items() if v.is_floating_point()]


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
