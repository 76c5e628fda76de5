"""Targets: found on disk in any of the accepted formats, stored in model range with their words."""

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from ood_core.arrays import Maps
from ood_core.errors import TargetError
from ood_core.maps.fits import read_fits
from ood_core.maps.mapset import MapSet, as_stack, combine, numbered_ids
from ood_core.maps.numpy_files import read_npy, read_npz
from ood_core.maps.transforms import RangeTransform
from ood_core.specs import TargetsSpec
from ood_core.store.arrays import Table
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from ood_core.store.schema import target_columns

FITS_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz")


def read_targets(spec: TargetsSpec) -> MapSet:
    """Read all files that the path or glob names, in sorted order.

    Raises:
        TargetError: no such file, an ending that is not understood, or unusable content.
    """
    paths = sorted(glob.glob(str(Path(spec.path).expanduser()), recursive=True))
    if not paths:
        raise TargetError(
            f"{spec.path}: got no such file; expected FITS, .npy, .npz or Zarr, or a glob of them: "
            "check targets.path (relative paths start at the working folder)"
        )
    return combine([_read_one(path, spec) for path in paths])


def _read_one(path: str, spec: TargetsSpec) -> MapSet:
    name = path.lower().rstrip("/")
    if name.endswith(FITS_ENDINGS):
        return read_fits(path, spec.array, spec.max_bytes)
    if name.endswith(".npy"):
        return read_npy(path, spec.max_bytes)
    if name.endswith(".npz"):
        return read_npz(path, spec.array, spec.max_bytes)
    if name.endswith(".zarr") or (Path(path) / "zarr.json").is_file():
        return _read_zarr(path, spec)
    raise TargetError(
        f"{path}: got an unknown kind of file; expected {', '.join(FITS_ENDINGS)}, .npy, .npz or "
        "a .zarr folder: convert the maps, or narrow the glob"
    )


def _read_zarr(path: str, spec: TargetsSpec) -> MapSet:
    try:
        found = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise TargetError(
            f"{path}: cannot be opened as Zarr ({error}); check that the folder is complete"
        ) from error
    if isinstance(found, zarr.Group):
        found = _choose(found, path, spec.array)
    if found.nbytes > spec.max_bytes:
        raise TargetError(
            f"{path}: got {found.nbytes} bytes of maps; expected at most {spec.max_bytes}: choose "
            "fewer maps or raise targets.max_bytes"
        )
    values = as_stack(np.asarray(found[...]), path)
    unit = str(found.attrs.get("units", ""))
    return MapSet(values, numbered_ids(Path(path).stem, len(values)), unit, "", path)


def _choose(group: zarr.Group, path: str, array: str | None) -> "zarr.Array[Any]":
    maps = [key for key, member in group.arrays() if member.ndim >= 2]
    wanted = array or ("maps" if "maps" in maps else maps[0] if len(maps) == 1 else None)
    if wanted not in maps:
        raise TargetError(
            f"{path}: got the arrays {maps or 'none'} and targets.array = {array}; expected one "
            "array of maps: name it with targets.array"
        )
    chosen = group[wanted]
    assert isinstance(chosen, zarr.Array), "filtered above"
    return chosen


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
