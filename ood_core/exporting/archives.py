"""Archives of NumPy arrays: `.npz`, and tar files as WebDataset reads them.

Both are written in a stream and without times, so the same maps give the same bytes.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.exporting.source import MAPS, SAMPLE, About, Part
from ood_core.report.card import one_line


def write_npz(path: Path, part: Part) -> None:
    """Write `maps` (n, c, y, x) and an array per column, the unit and the names of the targets."""
    about, rows = part.about, len(part)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in about.columns:
            kind = np.dtype(column.dtype)
            pieces: Iterable[NDArray[Any]] = (
                (block[MAPS] for block in part.blocks())
                if column.name == MAPS
                else part.note(column.name)
            )
            _member(archive, column.name, (rows, *column.shape), kind, pieces)
        words = np.array(json.dumps(about.attributes))
        names = np.array([one_line(name) for name in about.target_names], dtype=np.str_)
        for name, values in (
            ("unit", np.array(about.unit)),
            ("about", words),
            ("target_names", names),
        ):
            _member(archive, name, values.shape, values.dtype, [values])


def _member(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    kind: np.dtype[Any],
    pieces: Iterable[NDArray[Any]],
) -> None:
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for values in pieces:
            member.write(np.ascontiguousarray(values, kind).tobytes())


def write_tar(path: Path, part: Part) -> None:
    """Write two members per map: the array (c, y, x), and what is known of it as JSON."""
    about = part.about
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for rows in part.blocks():
            for row, sample in enumerate(rows[SAMPLE]):
                key = f"{int(sample):09d}"
                stream = io.BytesIO()
                np.save(stream, rows[MAPS][row])
                _entry(archive, f"{key}.npy", stream.getvalue())
                notes = {name: rows[name][row].tolist() for name in rows if name != MAPS}
                words = {**about.attributes, **notes, **_parents(about, notes)}
                _entry(archive, f"{key}.json", json.dumps(words, allow_nan=False).encode())


def _parents(about: About, notes: dict[str, Any]) -> dict[str, Any]:
    numbers = notes.get("parents", ())
    return {"parent_names": [about.target_names[number] for number in numbers]}


def _entry(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # owner and time are zero
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
