"""Zarr 3: one group of maps and columns, in shards, which xarray opens.

The only format that is finished in the middle: shards are whole when they are there, so one that
was begun earlier under the same name goes on where it stopped. Metadata come last, so that nobody
opens half of it; what they will be marks what was begun.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ood_core.exporting.source import MAPS, SAMPLE, About, Part, gathered
from ood_core.store.arrays import Table
from ood_core.store.files import PARTIAL, exists, read_bytes, remove, remove_tree, write_atomic
from ood_core.store.place import Place
from ood_core.store.plan import ShardPlan

SHARD_BYTES = 2**26
GROUP = "zarr.json"


def write_zarr(path: Place, part: Part) -> None:
    """Write a group with consolidated metadata; `path` may hold the beginning of one."""
    about, plan = part.about, ShardPlan(len(part), _shard_rows(part))
    with tempfile.TemporaryDirectory(prefix="farfield-") as folder:
        table = Table.create(
            Path(folder), SAMPLE, plan.rows, plan.shard_rows, list(about.columns), _words(about)
        )
        metadata = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in Path(folder).rglob(GROUP)
        }
        writer = replace(table.writer(), path=path)
    group, mark = metadata.pop(GROUP), path / f"{GROUP}{PARTIAL}"
    if not any(exists(file) and read_bytes(file) == group for file in (mark, path / GROUP)):
        remove_tree(path)
        write_atomic(mark, group)
    for shard in plan:
        if exists(path / MAPS / "c" / str(shard.index) / "0" / "0" / "0"):
            part.progress(len(shard))
            continue
        span = Part(part.source, part.start + shard.start, part.start + shard.stop, part.progress)
        rows = gathered(list(span.blocks()))
        maps = {MAPS: rows.pop(MAPS)}
        writer.write(shard, rows)
        writer.write(shard, maps)  # last, since they say that the shard is there
    for name, content in metadata.items():
        write_atomic(path / name, content)
    write_atomic(path / GROUP, group)
    remove(mark)


def _shard_rows(part: Part) -> int:
    """Whole blocks of the source, of some 64 MiB."""
    block_rows = min(part.source.block_rows, len(part))
    return block_rows * max(1, SHARD_BYTES // (block_rows * part.about.row_bytes))


def _words(about: About) -> dict[str, Any]:
    return {
        **about.attributes,
        "target_names": list(about.target_names),
        "shape": list(about.shape),
    }
