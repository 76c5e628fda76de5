"""Zarr v3 arrays with names and units; one writer per shard by construction.

A `Table` is a Zarr group whose arrays share their first axis. It is created whole at plan time by
one process; afterwards workers write whole shards of rows and metadata is not touched, except to
make a table longer. A last shard may hold more rows than the table shows: Zarr stores chunks at the
end in full and hides what lies beyond it, so that a table grows without a shard being rewritten.

Zarr does not flush. What is persisted here outlives a power cut: a killed process loses nothing
that it has written, but a machine without power loses what the system still held back.
"""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, ObjectStore, StorePath

from ood_core.errors import ShardCorrupt
from ood_core.store.files import exists, read_json, remove, write_atomic, write_json
from ood_core.store.ledger import Receipt
from ood_core.store.objects import ObjectPlace, answering
from ood_core.store.place import Place, each
from ood_core.store.plan import Shard

CHUNK_BYTES = 2**20
CONVENTIONS = "CF-1.11"


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One array of a table: names of the axes after the first, their lengths, type and meaning."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    long_name: str
    units: str = "1"


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Arrays over one row axis, in shards of `shard_rows` rows."""

    path: Place

    @classmethod
    def create(
        cls,
        path: Place,
        row_axis: str,
        rows: int,
        shard_rows: int,
        columns: Sequence[Column],
        attributes: Mapping[str, Any],
    ) -> "Table":
        """Write all metadata; rows are filled shard by shard later."""
        with answering(path, writing=True):
            group = zarr.create_group(
                store=zarr_store(path),
                overwrite=True,
                attributes={"Conventions": CONVENTIONS, **attributes},
            )
            for column in columns:
                _create_array(group, column, row_axis, rows, shard_rows)
            consolidate(group)
        return cls(path)

    @property
    def exists(self) -> bool:
        """Whether the table was created."""
        return exists(self.path / "zarr.json")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        with answering(self.path):
            return dict(self._group().attrs)

    def writer(self) -> "ShardWriter":
        """What writes shards of this table; its metadata are read once, now."""
        with answering(self.path):
            group = self._group()
            return ShardWriter(self.path, dict(group.arrays()), dict(group.attrs))

    def write(self, shard: Shard, rows: Mapping[str, NDArray[Any]]) -> str:
        """Write one whole shard of every array; see `ShardWriter.write`."""
        return self.writer().write(shard, rows)

    def describe(self, name: str, value: Any) -> None:
        """Set one attribute of the group, in one write; nothing is written if it is there."""
        record = read_json(self.path / "zarr.json")
        if record["attributes"].get(name) != value:
            record["attributes"][name] = value
            write_json(self.path / "zarr.json", record)

    def grow(self, rows: int) -> None:
        """Make every array `rows` long: metadata only, no shard is read or written.

        The consolidated metadata comes last, so that a growth that was cut short is seen and done
        again.
        """
        with answering(self.path):
            group = self._group("r+", consolidated=False)
            shown = self._group(consolidated=True)
            if all(array.shape[0] == rows for _, array in shown.arrays()):
                return
            for _, array in group.arrays():
                array.resize((rows, *array.shape[1:]))
            consolidate(group)

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Read rows of one array.

        Raises:
            ShardCorrupt: the stored bytes cannot be decoded.
        """
        with answering(self.path):
            return self._decoded(_array(self._group(), name), rows)

    def load(self, *names: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Read these arrays whole, or all of them, and the attributes; metadata are read once.

        Raises:
            ShardCorrupt: the stored bytes cannot be decoded.
        """
        with answering(self.path):
            group = self._group()
            arrays = {name: array for name, array in group.arrays() if name in names or not names}
            read = each(self.path, lambda a: self._decoded(a, slice(None)), arrays.values())
            return dict(zip(arrays, read, strict=True)), dict(group.attrs)

    def arrays(self) -> list[tuple[str, "zarr.Array[Any]"]]:
        """Names and arrays, sorted by name."""
        with answering(self.path):
            return sorted(self._group().arrays())

    def pick(self, name: str, rows: Sequence[int]) -> NDArray[Any]:
        """Read single rows of one array, given in rising order.

        Raises:
            ShardCorrupt: the stored bytes cannot be decoded.
        """
        with answering(self.path):
            return self._decoded(_array(self._group(), name), np.asarray(rows, dtype=np.int64))

    def rows(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Read rows of every array; rows beyond the table's end included.

        A store that is far away is asked for all arrays at once.

        Raises:
            ShardCorrupt: the stored bytes cannot be decoded.
        """
        with answering(self.path):
            arrays = {name: _reaching(array, stop) for name, array in self._group().arrays()}
            read = each(self.path, lambda a: self._decoded(a, slice(start, stop)), arrays.values())
            return dict(zip(arrays, read, strict=True))

    def digest(self, rows: Shard | Receipt) -> str:
        """Digest of stored rows, as `write` returned it; rows beyond the table's end included."""
        return rows_digest(self.rows(rows.start, rows.stop))

    def _decoded(self, array: "zarr.Array[Any]", rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        try:
            return np.asarray(array.oindex[rows])
        except (RuntimeError, ValueError, OSError) as error:
            some = f"{rows.start}:{rows.stop}" if isinstance(rows, slice) else str(rows)
            raise ShardCorrupt(
                f"{self.path.name}/{array.basename}, rows {some}, cannot be decoded ({error}); run "
                "`farfield verify` to find the shard and `farfield run` to renew it"
            ) from error

    def _group(self, mode: Any = "r", consolidated: bool | None = None) -> zarr.Group:
        return zarr.open_group(
            zarr_store(self.path), mode=mode, zarr_format=3, use_consolidated=consolidated
        )


@final
@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Writes whole shards of a table's arrays; nothing is read first."""

    path: Place
    arrays: Mapping[str, "zarr.Array[Any]"]
    attributes: Mapping[str, Any]

    def write(self, shard: Shard, rows: Mapping[str, NDArray[Any]]) -> str:
        """Write one whole shard of every array; return the digest of its bytes.

        `rows` are those of the shard, or of its full capacity: in a short last shard the rows
        beyond the table's end are stored with it and show when the table grows. Bytes that are
        there already are replaced at once, so that a crash while a finished shard is written again
        loses nothing. They are encoded in memory, and so from the caller's own copy: a buffer that
        changes later does not matter once this returns.
        """
        for name, values in rows.items():
            if len(values) not in (len(shard), shard.capacity):
                raise ValueError(f"{name}: got {len(values)} rows for a shard of {len(shard)}")
        with answering(self.path):
            files = [self._encoded(name, shard, values) for name, values in rows.items()]
            each(self.path, lambda file: _store(*file), files)
        return rows_digest(rows)

    def _encoded(
        self, name: str, shard: Shard, values: NDArray[Any]
    ) -> tuple[Place, Buffer | None]:
        """The file of a shard and its content; none where all values are the fill value."""
        kept: dict[str, Buffer] = {}
        stop = shard.start + len(values)
        stored = self.arrays[name].metadata
        metadata = stored.update_shape((stop, *stored.shape[1:]))
        memory: Any = zarr.AsyncArray(metadata=metadata, store_path=StorePath(MemoryStore(kept)))
        zarr.Array(memory)[shard.start : stop] = values
        key = metadata.encode_chunk_key((shard.index, *(0,) * (len(stored.shape) - 1)))
        return self.path / name / key, kept.get(key)


def _store(path: Place, content: Buffer | None) -> None:
    if content is None:
        remove(path)
    else:
        write_atomic(path, content.to_bytes(), flush=False)  # see `persist_shard`


def zarr_store(place: Place) -> str | Store:
    """The store that Zarr takes for the group at a place."""
    if isinstance(place, ObjectPlace):
        return ObjectStore(place.rooted)
    return str(place)


def rows_digest(rows: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, types and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(rows):
        values = np.ascontiguousarray(rows[name])
        digest.update(f"{name}:{values.dtype.str}:{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def chunk_rows(shard_rows: int, row_bytes: int) -> int:
    """Largest divisor of the shard's rows whose chunk stays near one MiB."""
    wanted = max(1, CHUNK_BYTES // max(1, row_bytes))
    return max(d for d in range(1, shard_rows + 1) if shard_rows % d == 0 and d <= wanted)


def _create_array(
    group: zarr.Group, column: Column, row_axis: str, rows: int, shard_rows: int
) -> None:
    dtype = np.dtype(column.dtype)
    row_bytes = dtype.itemsize * int(np.prod(column.shape, dtype=np.int64))
    floating = np.issubdtype(dtype, np.floating)
    group.create_array(
        name=column.name,
        shape=(rows, *column.shape),
        dtype=dtype,
        chunks=(chunk_rows(shard_rows, row_bytes), *column.shape),
        shards=(shard_rows, *column.shape),
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
        fill_value=float("nan") if floating else 0,
        dimension_names=(row_axis, *column.axes),
        attributes={"long_name": column.long_name, "units": column.units},
    )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    assert isinstance(found, zarr.Array), f"{name} is an array by the schema"
    return found


def _reaching(array: "zarr.Array[Any]", stop: int) -> "zarr.Array[Any]":
    """Return the stored array with its length set to `stop` in memory alone."""
    if stop <= array.shape[0]:
        return array
    metadata = array.metadata.update_shape((stop, *array.shape[1:]))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def consolidate(group: zarr.Group) -> None:
    """Repeat the metadata of all arrays in that of the group, so that one read gives all."""
    with warnings.catch_warnings():  # the layout changes nowhere else, so it cannot go stale
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(group.store)


def persist(folder: Path, top: Path) -> None:
    """Flush a file, or a folder with all that is in it, and the folders above it up to `top`."""
    above = [path for path in folder.parents if path.is_relative_to(top)]
    for path in (*folder.rglob("*"), folder, *above):
        _flush(path)


def persist_tables(root: Place) -> None:
    """Flush all tables of a run; an object store needs no flush."""
    if isinstance(root, Path):
        for table in root.glob("*.zarr"):
            persist(table, root)


def persist_shard(table: "Table | ShardWriter", shard: Shard) -> None:
    """Flush one shard of every array of a table; an object store needs no flush."""
    top = table.path
    if isinstance(top, Path):
        for stored in top.glob(f"*/c/{shard.index}"):
            persist(stored, top)


def _flush(path: Path) -> None:
    """Flush a file or a folder; what another writer has just renamed is its own to flush."""
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)
