"""Zarr v3 arrays with names and units; one writer per shard by construction.

A `Table` is a Zarr group whose arrays share their first axis. It is created whole at plan time by
one process; afterwards workers write whole shards of rows and nobody touches metadata.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ood_core.errors import ShardCorrupt
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

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        row_axis: str,
        rows: int,
        shard_rows: int,
        columns: Sequence[Column],
        attributes: Mapping[str, Any],
    ) -> "Table":
        """Write all metadata; rows are filled shard by shard later."""
        group = zarr.create_group(
            store=str(path),
            overwrite=True,
            attributes={"Conventions": CONVENTIONS, **attributes},
        )
        for column in columns:
            _create_array(group, column, row_axis, rows, shard_rows)
        with warnings.catch_warnings():  # the layout is fixed from here on, so it cannot go stale
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(group.store)
        return cls(path)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return dict(self._group().attrs)

    def write(self, shard: Shard, rows: Mapping[str, NDArray[Any]]) -> str:
        """Write one whole shard of every array; return the digest of its bytes.

        The bytes come from the caller's own copy: a buffer that changes later does not matter once
        this returns.
        """
        group = self._group(mode="r+")
        for name, values in rows.items():
            if len(values) != len(shard):
                raise ValueError(f"{name}: got {len(values)} rows for a shard of {len(shard)}")
            array = _array(group, name)
            key = array.metadata.encode_chunk_key((shard.index, *(0,) * (array.ndim - 1)))
            (self.path / name / key).unlink(missing_ok=True)  # zarr would read a damaged shard
            array[shard.start : shard.stop] = values
        return rows_digest(rows)

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Read rows of one array.

        Raises:
            ShardCorrupt: the stored bytes cannot be decoded.
        """
        try:
            return np.asarray(_array(self._group(), name)[rows])
        except (RuntimeError, ValueError, OSError) as error:
            raise ShardCorrupt(
                f"{self.path.name}/{name}, rows {rows.start}:{rows.stop}, cannot be decoded "
                f"({error}); run `farfield verify` to find the shard and `farfield run` to renew it"
            ) from error

    def arrays(self) -> list[tuple[str, "zarr.Array[Any]"]]:
        """Names and arrays, sorted by name."""
        return sorted(self._group().arrays())

    def digest(self, shard: Shard) -> str:
        """Digest of a shard's stored bytes, as `write` returned it."""
        rows = slice(shard.start, shard.stop)
        return rows_digest({name: self.read(name, rows) for name in self._group().array_keys()})

    def _group(self, mode: Any = "r") -> zarr.Group:
        return zarr.open_group(str(self.path), mode=mode, use_consolidated=False)


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
