"""Parquet: a row per map, the map as a tensor of fixed shape, a row group per block."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.exporting.source import MAPS, Part
from ood_core.store.arrays import Column


def write_parquet(path: Path, part: Part) -> None:
    """Write one file; `fixed_shape_tensor` is read as lists of numbers by those who lack it."""
    import pyarrow as pa
    from pyarrow import parquet

    about = part.about
    words = {**about.words, "shape": list(about.shape), "target_names": about.target_names}
    fields = [
        pa.field(c.name, _type(pa, c), nullable=False, metadata=_words(c)) for c in about.columns
    ]
    schema = pa.schema(fields, metadata={"farfield": json.dumps(words)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in part.blocks():
            arrays = [
                _array(pa, field.type, rows[column.name])
                for field, column in zip(schema, about.columns, strict=True)
            ]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _type(pa: Any, column: Column) -> Any:
    kind = pa.from_numpy_dtype(np.dtype(column.dtype))
    if column.name == MAPS:
        return pa.fixed_shape_tensor(kind, column.shape, dim_names=column.axes)
    for size in reversed(column.shape):
        kind = pa.list_(kind, size)
    return kind


def _array(pa: Any, kind: Any, values: Any) -> Any:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if isinstance(kind, pa.FixedShapeTensorType):
        size = int(np.prod(values.shape[1:]))
        stored = pa.FixedSizeListArray.from_arrays(flat, size)
        return pa.ExtensionArray.from_storage(kind, stored)
    for size in reversed(values.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _words(column: Column) -> dict[str, str]:
    return {"long_name": column.long_name, "units": column.units}
