"""What is known of every sample: one row of `statistics.zarr`, stored by the workers.

Features of its map, which are read instead of the maps, and how it was drawn. All lie in one array
(each is a file); the attribute `layout` names its parts. Rows are in the shards of `dataset.zarr`
and covered by the same receipts. Features of shards that have none, or were measured by another
definition, are measured again from their maps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

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
from ood_core.store.bundle import read_bundle, write_bundle
from ood_core.store.files import exists
from ood_core.store.ledger import Receipt
from ood_core.store.plan import Shard, ShardPlan
from ood_core.store.run import DOMAIN, RunStore
from ood_core.store.schema import statistics_columns
from ood_core.synthesis.latents import COUNTED

DEFINITION = 6
"""Goes up when a statistic changes its meaning: those that are stored are then left aside."""
BLOCK_ROWS = 8192  # read at once, which bounds the memory
EXACT = 2**24
"""Whole numbers up to here are float32 numbers as well."""


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Columns of a row: a feature, or a fact about the draw."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "int32"

    @property
    def size(self) -> int:
        """Number of columns."""
        return math.prod(self.shape)


DRAWN = (
    Part("attempts"),
    Part("refusals", (len(COUNTED),)),
    Part("aim_distance", (), "float32"),
)
"""How a sample was drawn: draws until the geometry accepted the latent; draws that were refused, in
all and by each test; distance to the aim, in spreads of the targets."""


def feature_extractor(targets: TargetSet) -> FeatureExtractor:
    """Return the feature extractor of a run: the same in every process."""
    return FeatureExtractor.of(
        targets.fit_ranged, targets.held_out_ranged, targets.symmetries, targets.missing
    )


def create_statistics(run: RunStore, extractor: FeatureExtractor, plan: ShardPlan) -> Table:
    """Create the table with the length and the shards of the data set."""
    layout = [*_features(extractor), *DRAWN]
    within, rate = threshold(extractor.nearest_shifted(extractor.held_out).distance.float())
    return Table.create(
        run.statistics.path,
        "sample",
        plan.rows,
        plan.shard_rows,
        statistics_columns(sum(part.size for part in layout), _number(extractor)),
        {
            "definition": DEFINITION,
            "layout": [[part.name, list(part.shape), part.dtype] for part in layout],
            "pixel_edges": extractor.edges.tolist(),
            "copy_distance": within,
            "copy_rate": rate,
        },
    )


def measured(attributes: Mapping[str, Any], extractor: FeatureExtractor) -> bool:
    """Whether a table with such attributes holds the features of this version and extractor."""
    features = _features(extractor)
    same = attributes.get("definition") == DEFINITION
    return same and _layout(attributes)[: len(features)] == features


def statistics_rows(
    extractor: FeatureExtractor, targets: TargetSet, samples: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the rows of `statistics.zarr` of rows of samples, whose `maps` are physical."""
    features = features_of(extractor, targets, samples)
    drawn = {part.name: torch.from_numpy(samples[part.name]) for part in DRAWN}
    number = getattr(torch, _number(extractor))
    columns = [v.reshape(len(v), -1).to(number) for v in {**features, **drawn}.values()]
    return {"statistics": torch.cat(columns, dim=1).numpy()}


def features_of(
    extractor: FeatureExtractor, targets: TargetSet, samples: Mapping[str, NDArray[Any]]
) -> Features:
    """Measure rows of samples, whose `maps` are physical."""
    return extractor.extract(targets.ranged(samples["maps"]), int(samples["sample"][0]))


def read_statistics(
    run: RunStore, extractor: FeatureExtractor, targets: TargetSet
) -> Iterator[Features]:
    """Yield the features of all samples in order, in blocks of bounded size.

    Raises:
        ShardCorrupt: stored rows do not have the digest of their receipt.
    """
    plan, stored = run.plan("generate"), run.statistics.exists
    stored = stored and measured(run.statistics.attributes, extractor)
    layout = _features(extractor)
    group: list[tuple[Shard, Receipt]] = []
    for shard, receipt in zip(plan, run.ledger("generate").all(plan), strict=True):
        if not (stored and receipt.statistics):
            if group:
                yield _unpacked(_vouched(run.statistics, group), layout)
                group = []
            # The whole shard, as the worker measured it: rounding depends on the batch.
            samples = run.table("generate").rows(receipt.start, receipt.stop)
            rows = features_of(extractor, targets, samples)
            yield {name: values[: len(shard)] for name, values in rows.items()}
            continue
        group.append((shard, receipt))
        if shard.stop - group[0][0].start >= BLOCK_ROWS:
            yield _unpacked(_vouched(run.statistics, group), layout)
            group = []
    if group:
        yield _unpacked(_vouched(run.statistics, group), layout)


def read_drawn(run: RunStore, rows: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Read how samples were drawn: see `DRAWN`; no numbers where a sample is not stored yet.

    Raises:
        ShardCorrupt: the table is lost.
    """
    table = run.statistics
    if not table.exists:
        raise ShardCorrupt(
            f"{table.path} is lost; run `farfield verify` to find its shards and `farfield run` to "
            "renew them"
        )
    found = _unpacked(table.read("statistics", rows), _layout(table.attributes))
    return {part.name: found[part.name].numpy() for part in DRAWN}


def write_domain(run: RunStore, rows: Float[Tensor, "b f"]) -> None:
    """Write the scattering moments of maps that the base makes of noise."""
    arrays = {"scattering": (("map", "statistic"), rows.numpy())}
    write_bundle(run.root / DOMAIN, arrays, {"definition": DEFINITION})


def read_domain(run: RunStore) -> Float[Tensor, "b f"] | None:
    """Read them; None where there are none, or of another definition."""
    place = run.root / DOMAIN
    if not exists(place):
        return None
    arrays, attributes = read_bundle(place)
    return (
        torch.from_numpy(arrays["scattering"]) if attributes["definition"] == DEFINITION else None
    )


def _vouched(table: Table, group: list[tuple[Shard, Receipt]]) -> NDArray[Any]:
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
    return rows["statistics"][: stop - start]


def _unpacked(rows: NDArray[Any], layout: Sequence[Part]) -> Features:
    """Parts of rows by name; what lies behind the last one is left aside."""
    ends = np.cumsum([part.size for part in layout])
    return {
        part.name: torch.from_numpy(rows[:, end - part.size : end])
        .to(getattr(torch, part.dtype))
        .reshape(len(rows), *part.shape)
        for part, end in zip(layout, ends, strict=True)
    }


def _features(extractor: FeatureExtractor) -> list[Part]:
    """The features in the order in which they are stored."""
    rows = extractor.extract(extractor.fit[:1])
    return [
        Part(n, tuple(v.shape[1:]), str(v.dtype).removeprefix("torch.")) for n, v in rows.items()
    ]


def _layout(attributes: Mapping[str, Any]) -> list[Part]:
    return [Part(name, tuple(shape), dtype) for name, shape, dtype in attributes["layout"]]


def _number(extractor: FeatureExtractor) -> str:
    """Type of the stored numbers, which hold a count of pixels."""
    return "float32" if extractor.fit[0, 0].numel() <= EXACT else "float64"
