"""Targets: found on disk in any of the accepted formats, stored in model range with their words."""

import glob
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.arrays import Maps
from ood_core.config.targets import TargetsSpec
from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.fits import read_fits
from ood_core.maps.mapset import MapSet, combine, require_count, require_words
from ood_core.maps.numpy_files import read_npy, read_npz
from ood_core.maps.quantization import Quantization
from ood_core.maps.transforms import RangeTransform
from ood_core.store.arrays import Table
from ood_core.store.foreign import read_zarr
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import target_columns

FITS_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz")


def read_targets(spec: TargetsSpec) -> MapSet:
    """Read all files that the path or glob names, in sorted order.

    Raises:
        TargetError: no such file, an ending that is not understood, unusable content, or more of it
            than the limits of `spec` allow.
    """
    paths = _matches(spec)
    if not paths:
        raise TargetError(
            f"{spec.path}: got no such file; expected FITS, .npy, .npz or Zarr, or a glob of them: "
            "check targets.path (relative paths start at the working folder)"
        )
    parts, left = [], spec.limits
    for path in paths:
        part = _read_one(path, spec.array, left)
        require_words(part)
        left = replace(left, max_bytes=left.max_bytes - part.values.nbytes)
        parts.append(part)
    require_count(sum(map(len, parts)), spec.path, spec.max_maps)
    return combine(parts)


def _matches(spec: TargetsSpec) -> list[str]:
    pattern = str(Path(spec.path).expanduser())
    head, deep, _ = pattern.partition("**")
    if deep:  # links that lead upwards make endless trees of folders
        require_count(_count(f"{head}**/", spec.max_maps), spec.path, spec.max_maps)
    paths = list(islice(glob.iglob(pattern, recursive=True), spec.max_maps + 1))
    require_count(len(paths), spec.path, spec.max_maps)
    return sorted(paths)


def _count(pattern: str, most: int) -> int:
    return sum(1 for _ in islice(glob.iglob(pattern, recursive=True), most + 1))


def _read_one(path: str, array: str | None, limits: Limits) -> MapSet:
    name = path.lower().rstrip("/")
    if Path(path).is_dir() and (name.endswith(".zarr") or (Path(path) / "zarr.json").is_file()):
        return read_zarr(path, array, limits)
    if Path(path).exists() and not Path(path).is_file():
        raise TargetError(
            f"{path}: got a folder or a special file; expected a plain file, or a .zarr folder"
        )
    if name.endswith(FITS_ENDINGS):
        return read_fits(path, array, limits)
    if name.endswith(".npy"):
        return read_npy(path, limits)
    if name.endswith(".npz"):
        return read_npz(path, array, limits)
    raise TargetError(
        f"{path}: got an unknown kind of file; expected {', '.join(FITS_ENDINGS)}, .npy, .npz or "
        "a .zarr folder: convert the maps, or narrow the glob"
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class StoredTargets:
    """Targets of a run in model range, with what leads back to physical units.

    `codes` are those of the fit targets, None where the base works on the maps themselves.
    """

    fit: Maps
    held_out: Maps
    transform: RangeTransform
    unit: str
    header: str
    ids: tuple[str, ...]
    codes: Maps | None = None

    @property
    def seen(self) -> Maps:
        """The fit targets as base and method see them: their codes, or the maps themselves."""
        return self.fit if self.codes is None else self.codes

    def physical(self, maps: Maps) -> NDArray[np.float32]:
        """Return maps in physical units."""
        return self.transform.inverse(maps.numpy())

    @property
    def quantization(self) -> Quantization:
        """How the fit targets' numbers are rounded and cut off."""
        return Quantization.measure(self.physical(self.fit))


def write_targets(
    run: RunStore, maps: MapSet, spec: TargetsSpec, encode: Callable[[Maps], Maps] | None = None
) -> Table:
    """Store maps in model range; the transform is measured on the fit targets alone.

    With `encode` their codes are stored too, so that every worker sees the same ones.
    """
    fit = spec.fit_count(len(maps))
    transform = RangeTransform.measure(spec.transform, maps.values[:fit])
    plan = ShardPlan(len(maps), len(maps))
    ranged = transform.forward(maps.values)
    rows: dict[str, NDArray[Any]] = {
        "target": np.arange(len(maps), dtype=np.int64),
        "maps": ranged,
        "held_out": (np.arange(len(maps)) >= fit).astype(np.int8),
    }
    if encode is not None:
        rows["codes"] = encode(torch.from_numpy(ranged)).numpy()
    code_shape = rows["codes"].shape[1:] if encode is not None else None
    table = Table.create(
        run.root / "targets.zarr",
        "target",
        plan.rows,
        plan.shard_rows,
        target_columns(maps.values.shape[1:], code_shape),
        {
            "transform": transform.as_dict(),
            "unit": maps.unit,
            "header": maps.header,
            "ids": list(maps.ids),
            "source": maps.source,
        },
    )
    table.write(plan[0], rows)
    return table


def load_targets(run: RunStore) -> StoredTargets:
    """Read the targets of a run."""
    table, words = run.targets, run.targets.attributes
    maps = torch.from_numpy(table.read("maps"))
    held_out = torch.from_numpy(table.read("held_out")).bool()
    encoded = "codes" in dict(table.arrays())
    return StoredTargets(
        fit=maps[~held_out],
        held_out=maps[held_out],
        transform=RangeTransform.from_dict(words["transform"]),
        unit=str(words["unit"]),
        header=str(words["header"]),
        ids=tuple(words["ids"]),
        codes=torch.from_numpy(table.read("codes"))[~held_out] if encoded else None,
    )
