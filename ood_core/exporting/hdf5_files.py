"""HDF5 and NetCDF 4: one array per column, in chunks, packed without loss.

Both are written by one function: NetCDF 4 is HDF5 with named dimensions, which h5netcdf keeps in
order. Names of targets are an array of their own, since attributes of HDF5 hold 64 KiB at most.
"""

from pathlib import Path
from typing import Any

from ood_core.exporting.source import MAPS, SAMPLE, About, Part
from ood_core.report.card import one_line
from ood_core.store.arrays import CONVENTIONS, Column, chunk_rows

PACKED: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
NAMES = "target_names"
MAX_CHUNK = 2**16
"""Rows of a chunk, at most."""


def write_hdf5(path: Path, part: Part) -> None:
    """Write `maps` (n, c, y, x) and a data set per column, with labelled dimensions."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(_attributes(part.about))
        arrays = {}
        for column in part.about.columns:
            shape, chunks = _layout(column, len(part))
            array = file.create_dataset(column.name, shape, column.dtype, chunks=chunks, **PACKED)
            for place, axis in enumerate((SAMPLE, *column.axes)):
                array.dims[place].label = axis
            array.attrs.update(_words(column))
            arrays[column.name] = array
        names = [one_line(name) for name in part.about.target_names]
        if names:
            file.create_dataset(NAMES, data=names, dtype=h5py.string_dtype())
        _fill(arrays, part)


def write_netcdf(path: Path, part: Part) -> None:
    """Write the same as NetCDF 4 by the CF conventions, which xarray opens."""
    import h5netcdf
    import h5py

    with h5netcdf.File(path, "w") as file:
        file.attrs.update({"Conventions": CONVENTIONS, **_attributes(part.about)})
        file.dimensions[SAMPLE] = len(part)
        arrays = {}
        for column in part.about.columns:
            for axis, size in zip(column.axes, column.shape, strict=True):
                if axis not in file.dimensions:
                    file.dimensions[axis] = size
            _, chunks = _layout(column, len(part))
            array = file.create_variable(
                column.name, (SAMPLE, *column.axes), column.dtype, chunks=chunks, **PACKED
            )
            array.attrs.update(_words(column))
            arrays[column.name] = array
        names = [one_line(name) for name in part.about.target_names]
        if names:
            file.dimensions["target"] = len(names)
            stored = file.create_variable(NAMES, ("target",), h5py.string_dtype())
            stored[...] = names
        _fill(arrays, part)


def _fill(arrays: dict[str, Any], part: Part) -> None:
    start = 0
    for rows in part.blocks():
        stop = start + len(rows[SAMPLE])
        for name, values in rows.items():
            arrays[name][start:stop] = values
        start = stop


def _layout(column: Column, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape, and the shape of a chunk of some MiB at most that no block cuts needlessly."""
    row_bytes = 8
    for size in column.shape:
        row_bytes *= size
    most = min(rows, MAX_CHUNK)
    if column.name == MAPS:
        most = min(most, max(1, 2**21 // row_bytes))
    return (rows, *column.shape), (chunk_rows(most, row_bytes), *column.shape)


def _attributes(about: About) -> dict[str, Any]:
    return {
        name: one_line(value) if isinstance(value, str) else value
        for name, value in about.attributes.items()
    }


def _words(column: Column) -> dict[str, str]:
    return {"long_name": one_line(column.long_name), "units": one_line(column.units) or "1"}
