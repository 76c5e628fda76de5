"""An export: which files it has, which of them are there already, and writing the others.

`SHA256SUMS` (of one file `NAME.sha256`) is both the checksums and the record of what is done: its
first line says what is exported, and a file is done when its line is there and its bytes have that
sum. So an export goes on where it stopped, and looks at nothing but its own folder. In a bucket,
each object carries the sum of its bytes, so nothing is fetched to compare it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ood_core.config.identity import difference
from ood_core.errors import ConfigError, IdentityRefused, InputError
from ood_core.exporting.formats import EXPORTERS, Exporter, exporter_of, require_packages
from ood_core.exporting.readme import render_readme
from ood_core.exporting.source import MemorySource, Part, Source, software
from ood_core.maps.target_set import TargetSet
from ood_core.store.arrays import persist
from ood_core.store.files import PARTIAL, UNWRITABLE, exists, read_bytes, write_atomic, writing
from ood_core.store.objects import ObjectPlace
from ood_core.store.place import Place, each, place_at

FILE_BYTES = 2**30
"""Bytes of maps in a file of a folder, about."""
MARK = "# Farfield export "
STEM = "maps"

Sums = dict[str, str]


@final
@dataclass(frozen=True, slots=True)
class Export:
    """What is exported to where, in which files.

    Attributes:
        source: the maps.
        dest: the file, or the folder of files.
        format: name of the format.
        folder: whether `dest` is a folder of files.
        per_file: rows of a file.
    """

    source: Source
    dest: Place
    format: str
    folder: bool
    per_file: int

    @property
    def exporter(self) -> Exporter:
        """The entry of the format."""
        return EXPORTERS[self.format]

    @property
    def sums(self) -> Place:
        """The file of checksums."""
        return self.dest / "SHA256SUMS" if self.folder else self._beside(".sha256")

    @property
    def readme(self) -> Place:
        """The file that says how to read the others."""
        return self.dest / "README.md" if self.folder else self._beside(".README.md")

    @property
    def record(self) -> dict[str, Any]:
        """What tells this export from others in the same place."""
        about = self.source.about
        return {
            "run": about.run,
            "format": self.format,
            "per_file": self.per_file,
            "state": about.state,
            "software": software(),
            "samples": len(self.source),
            "left_out": list(about.left_out),
            "masked": about.masked,
        }

    def parts(self, samples: int) -> dict[str, tuple[int, int]]:
        """Names of the files with the rows of each, of so many samples."""
        spans = [
            (start, min(start + self.per_file, samples))
            for start in range(0, samples, self.per_file)
        ]
        if not self.folder:
            return {self.dest.name: spans[0]}
        ending = self.exporter.endings[0]
        if self.exporter.whole:
            return {f"{STEM}{ending}": spans[0]}
        return {f"{STEM}-{i:05d}{ending}": span for i, span in enumerate(spans)}

    def write(self, progress: Callable[[int], None] = lambda rows: None) -> dict[str, Any]:
        """Write what is not there yet; return what there is then.

        Args:
            progress: called with a number of rows each time that so many more are written or found.

        Raises:
            InputError: something else is in the place, or it is no place for files.
            IdentityRefused: another export is in the place.
            StoreUnwritable: the disk is full or read-only.
            StoreUnreachable: the bucket does not answer, or refuses.
        """
        with answering_of(self.dest):
            done = self._done()
            parts = self.parts(len(self.source))
            done = {file: value for file, value in done.items() if _part(file) in parts}
            self._sweep(parts)
            self._note(done)
            kept = 0
            for name, (start, stop) in parts.items():
                path = (self.dest if self.folder else self.dest.parent) / name
                before = {file: value for file, value in done.items() if _part(file) == name}
                if before and before == _sums(path):
                    kept += 1
                    progress(stop - start)
                    continue
                if before and isinstance(path, ObjectPlace):
                    path.remove_tree()  # a store of shards would keep those that are damaged
                self._write_part(path, Part(self.source, start, stop, progress))
                done = {f: v for f, v in done.items() if f not in before} | _sums(path)
                self._note(done)
            text = render_readme(self.source, self.format, self.exporter.reading, tuple(parts))
            write_atomic(self.readme, text.encode("utf-8", "backslashreplace"))
        return {
            "format": self.format,
            "maps": len(self.source),
            "files": len(parts),
            "files_kept": kept,
            "place": str(self.dest),
            "checksums": str(self.sums),
            "readme": str(self.readme),
        }

    def _write_part(self, path: Place, part: Part) -> None:
        """Write a file under another name first; in a bucket, here first, then in one put."""
        exporter = self.exporter
        if isinstance(path, Path):
            with renamed(path, exporter.resumes) as partial:
                exporter.write(partial, part)
        elif exporter.resumes:
            exporter.write(path, part)
        else:
            with tempfile.TemporaryDirectory(prefix="farfield-") as folder:
                local = Path(folder) / path.name
                exporter.write(local, part)
                path.put(local)

    def _done(self) -> Sums:
        """Files of this export that are done, by their record; none where there is no export.

        Raises:
            InputError: the place holds something else.
            IdentityRefused: it holds another export.
        """
        found = _read(self.sums)
        if found is None:
            self._require_free()
            return {}
        record, done = found
        wanted = self.record
        fixed = ("run", "format", "per_file")
        memory = all(str(r.get("run")).startswith("memory ") for r in (record, wanted))
        if not memory:
            lines = difference(
                {key: record.get(key) for key in fixed}, {key: wanted[key] for key in fixed}
            )
            if lines:
                raise IdentityRefused(
                    f"{self.dest} holds another export; these fields differ (there -> wanted):\n  "
                    + "\n  ".join(lines)
                    + "\nGive another place, or remove the files of that export"
                )
        if any(record.get(key) != wanted[key] for key in wanted if key != "samples"):
            return {}  # the same maps, but headers say another state or version
        before, now = self.parts(int(record["samples"])), self.parts(len(self.source))
        return {
            file: value
            for file, value in done.items()
            if _part(file) in now and before.get(_part(file)) == now[_part(file)]
        }

    def _require_free(self) -> None:
        if self.folder:
            if _is_taken(self.dest):
                raise InputError(
                    f"{self.dest}: got a place that holds other files; expected an empty folder, a "
                    "new one, or one with an export of this run"
                )
            return
        for path in (self.dest, self.sums, self.readme):
            if exists(path) or (isinstance(path, Path) and (path.exists() or path.is_symlink())):
                raise InputError(
                    f"{path}: got a file that is no export of this run; expected a new name: "
                    "choose another one, or remove it"
                )

    def _sweep(self, parts: Mapping[str, Any]) -> None:
        """Make the folder, and remove what killed exports left in it."""
        folder = self.dest if self.folder else self.dest.parent
        if isinstance(folder, ObjectPlace):
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.exporter.resumes:
            return
        for entry in list(os.scandir(folder)):
            stem, ending = entry.name[: -32 - len(PARTIAL) - 1], entry.name[-len(PARTIAL) :]
            if ending == PARTIAL and stem in parts and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)

    def _note(self, done: Sums) -> None:
        """Write the checksums of all that is done."""
        lines = [MARK + json.dumps(self.record), *(_line(*pair) for pair in sorted(done.items()))]
        write_atomic(self.sums, os.fsencode("\n".join(lines) + "\n"))

    def _beside(self, ending: str) -> Place:
        return self.dest.parent / f"{self.dest.name}{ending}"


def plan_export(
    source: Source, dest: str, format: str | None = None, per_file: int | None = None
) -> Export:
    """Say what an export writes; nothing is written yet.

    Args:
        source: the maps.
        dest: a file, whose ending says the format, or a folder of files; or an address of either,
            such as `s3://bucket/maps.fits`.
        format: name of the format, see `EXPORTERS`.
        per_file: maps of a file in a folder; None takes some GiB.

    Raises:
        ConfigError: arguments that contradict one another, or a package that is missing.
        InputError: no maps, or an address that is none or carries a credential.
    """
    place = place_at(dest)
    name, folder = exporter_of(dest, format)
    require_packages(name)
    if not len(source):
        raise InputError("got no maps; expected at least one")
    count, whole = len(source), EXPORTERS[name].whole
    if per_file is not None and (per_file < 1 or whole or not folder):
        raise ConfigError(
            f"--per-file: got {per_file} for {dest}; expected 1 or more, and a folder of files of "
            "another format than zarr"
        )
    if whole or not folder:
        rows = count
    else:
        usual = FILE_BYTES // (source.block_rows * source.about.row_bytes)
        rows = per_file or max(1, usual) * source.block_rows
    return Export(source, place, name, folder, rows)


def write_maps(
    path: str | Path, maps: Any, targets: TargetSet | None = None, *, format: str | None = None
) -> None:
    """Write maps in memory as FITS, Zarr, NPZ, HDF5, NetCDF, Parquet, Hugging Face or WebDataset.

    Beside the file come its checksum and a README. An earlier export from memory is replaced, any
    other file is not.

    Args:
        path: the file, whose ending says the format, or with `format` a folder; an address such as
            `s3://bucket/maps.fits` is taken, too.
        maps: shape (n, c, y, x) or (n, y, x), in the unit of the targets.
        targets: what they were made from; gives unit, instrument and size of a pixel.
        format: name of the format, such as `fits-mef`.

    Raises:
        InputError: no maps, an unknown ending or format, a package that is missing, or a place that
            holds other files.
    """
    plan_export(MemorySource.of(maps, targets), str(path), format).write()


@contextmanager
def renamed(path: Path, resumes: bool = False) -> Iterator[Path]:
    """Give another name to write to; flush what is there then, and rename it.

    With `resumes` the other name is always the same, and what was begun there stays.
    """
    token = "" if resumes else f".{uuid.uuid4().hex}"
    partial = path.with_name(f"{path.name}{token}{PARTIAL}")
    try:
        yield partial
        persist(partial, partial.parent)
        if partial.is_dir() and path.is_dir():  # a folder replaces none but an empty one
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        if not resumes:
            partial.unlink(missing_ok=True)  # a full disk needs the space
        raise


@contextmanager
def answering_of(dest: Place) -> Iterator[None]:
    """Turn what the system says of a place that is none into one error.

    Raises:
        InputError: such as a file where a folder should be.
        StoreUnwritable: the disk is full or read-only.
    """
    with writing(dest):
        try:
            yield
        except OSError as error:
            if error.errno in UNWRITABLE or error.errno is None:
                raise
            raise InputError(
                f"{dest}: cannot be written ({error.strerror}); choose another place"
            ) from error


def _part(file: str) -> str:
    """The part that a file belongs to: it, or the folder that it lies in."""
    return file.split("/", 1)[0]


def _is_taken(folder: Place) -> bool:
    """Whether there is anything but what a killed export may leave."""
    if isinstance(folder, ObjectPlace):
        return bool(folder.tree())
    if folder.is_dir():
        return any(not name.endswith(PARTIAL) for name in os.listdir(folder))
    return folder.exists()


def _sums(path: Place) -> Sums:
    """SHA-256 of a file, or of all files in a folder, by names that begin with its own."""
    if isinstance(path, ObjectPlace):
        places = [path, *path.tree()]
        found = zip(places, each(path, ObjectPlace.checksum, places), strict=True)
        start = len(path.key) - len(path.name)
        return {place.key[start:]: value for place, value in found if value is not None}
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {f"{path.name}/{file.relative_to(path).as_posix()}": _sum(file) for file in files}
    return {path.name: _sum(path)} if path.is_file() else {}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def _line(name: str, value: str) -> str:
    """A line as `sha256sum` writes it: names with line breaks are escaped."""
    plain = "".join(_ESCAPES.get(character, character) for character in name)
    return f"{'' if plain == name else chr(92)}{value}  {plain}"


def _read(path: Place) -> tuple[dict[str, Any], Sums] | None:
    """The record and the sums of an export; None where there is none."""
    try:
        first, *lines = os.fsdecode(read_bytes(path)).split("\n")
        record = json.loads(first.removeprefix(MARK))
        if not first.startswith(MARK) or not isinstance(record["samples"], int):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sums = {}
    for line in lines:
        escaped, line = line.startswith("\\"), line.removeprefix("\\")
        value, _, name = line.partition("  ")
        if escaped:
            name = name.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
        if name:
            sums[name] = value
    return record, sums
