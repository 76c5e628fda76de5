"""Zarr 3: one group of maps and columns, in shards, which xarray opens.

The only format that is finished in the middle: shards are whole when they are there, so one that
was begun earlier under the same name goes on where it stopped.
"""

from pathlib import Path
from typing import Any

from ood_core.exporting.source import MAPS, SAMPLE, About, Part, gathered
from ood_core.store.arrays import Table
from ood_core.store.files import exists, read_json, remove_tree
from ood_core.store.plan import Shard, ShardPlan

SHARD_BYTES = 2**26


def write_zarr(path: Path, part: Part) -> None:
    """Write a group with consolidated metadata; `path` may hold the beginning of one."""
    about, plan = part.about, ShardPlan(len(part), _shard_rows(part))
    table, attributes = Table(path), _attributes(about)
    if not _is_begun(path, table, attributes, plan):
        remove_tree(path)
        table = Table.create(
            path, SAMPLE, plan.rows, plan.shard_rows, list(about.columns), attributes
        )
    for shard in plan:
        span = Part(part.source, part.start + shard.start, part.start + shard.stop, part.progress)
        if _is_there(path, shard):
            part.progress(len(shard))
            continue
        rows = gathered(list(span.blocks()))
        table.write(shard, {c.name: rows[c.name] for c in about.columns})  # maps come last


def _shard_rows(part: Part) -> int:
    """Whole blocks of the source, of some 64 MiB."""
    rhythm = min(part.source.rhythm, len(part))
    return rhythm * max(1, SHARD_BYTES // (rhythm * part.about.row_bytes))


def _is_begun(path: Path, table: Table, attributes: dict[str, Any], plan: ShardPlan) -> bool:
    """Whether an earlier attempt with the same content and layout lies here."""
    if not (table.exists and exists(path / MAPS / "zarr.json")):
        return False
    found = read_json(path / "zarr.json")
    if "consolidated_metadata" not in found:  # written last
        return False
    stored = dict(found["attributes"])
    stored.pop("Conventions", None)
    shape = read_json(path / MAPS / "zarr.json")
    grid = shape["chunk_grid"]["configuration"]["chunk_shape"]
    return bool(
        stored == attributes and shape["shape"][0] == plan.rows and grid[0] == plan.shard_rows
    )


def _is_there(path: Path, shard: Shard) -> bool:
    return (path / MAPS / "c" / str(shard.index) / "0" / "0" / "0").is_file()


def _attributes(about: About) -> dict[str, Any]:
    return {**about.words, "target_names": list(about.target_names), "shape": list(about.shape)}
