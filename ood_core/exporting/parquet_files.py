"""Parquet: a row per map, a row group per block.

The map is a tensor of fixed shape of Arrow, or of the library `datasets`, which knows no other.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ood_core.exporting.source import MAPS, Part
from ood_core.store.arrays import Column


def write_parquet(path: Path, part: Part) -> None:
    """Write one file; `fixed_shape_tensor` is read as lists of numbers by those who lack it."""
    import pyarrow as pa

    _write(path, part, pa.schema(_fields(pa, part, _type), metadata=_words(part)))


def write_hf(path: Path, part: Part) -> None:
    """Write one file that `datasets.load_dataset` reads, with the shapes of maps."""
    import pyarrow as pa

    features = {c.name: _feature(c) for c in part.about.columns}
    words = _words(part) | {"huggingface": json.dumps({"info": {"features": features}})}
    fields = [
        field.with_nullable(True).with_metadata({**field.metadata, **_extension(c)})
        for field, c in zip(_fields(pa, part, _listed), part.about.columns, strict=True)
    ]  # `datasets` takes features for what they say only where fields are equal to its own
    _write(path, part, pa.schema(fields, metadata=words))


def _write(path: Path, part: Part, schema: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in part.blocks():
            arrays = [
                _array(pa, field.type, rows[column.name])
                for field, column in zip(schema, part.about.columns, strict=True)
            ]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _fields(pa: Any, part: Part, kind: Callable[[Any, Column], Any]) -> list[Any]:
    return [
        pa.field(
            c.name,
            kind(pa, c),
            nullable=False,
            metadata={"long_name": c.long_name, "units": c.units},
        )
        for c in part.about.columns
    ]


def _words(part: Part) -> dict[str, str]:
    about = part.about
    words = {**about.attributes, "shape": list(about.shape), "target_names": about.target_names}
    return {"farfield": json.dumps(words)}


def _feature(column: Column) -> dict[str, Any]:
    """What `datasets` calls the type of a column."""
    value = {"dtype": column.dtype, "_type": "Value"}
    if not column.shape:
        return value
    if len(column.shape) == 1:
        return {"feature": value, "length": column.shape[0], "_type": "Sequence"}
    return {
        "shape": list(column.shape),
        "dtype": column.dtype,
        "_type": f"Array{len(column.shape)}D",
    }


def _extension(column: Column) -> dict[str, str]:
    """The extension type of Arrow that `datasets` has for arrays, by its name and its words."""
    if len(column.shape) < 2:
        return {}
    kind = f"Array{len(column.shape)}DExtensionType"
    return {
        "ARROW:extension:name": f"datasets.features.features.{kind}",
        "ARROW:extension:metadata": json.dumps([list(column.shape), column.dtype]),
    }


def _listed(pa: Any, column: Column) -> Any:
    """Lists of any length, as `datasets` stores its arrays."""
    kind = pa.from_numpy_dtype(np.dtype(column.dtype))
    if len(column.shape) == 1:
        return pa.list_(kind, column.shape[0])
    for _ in column.shape:
        kind = pa.list_(kind)
    return kind


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
        if pa.types.is_list(kind):
            flat = pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, size, dtype=np.int32), flat)
        else:
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat
