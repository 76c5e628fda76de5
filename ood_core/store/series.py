"""A data set that grows with its targets: versions in one place, each a whole run of its own.

series.json      {"newest": 3, "published": 2}
v0001/  v0002/  v0003/     runs

A version that grew from another has in `run.json` what it grew from. It keeps the *frame* of that
one: transform, calibration and the targets that both were fitted to (`frame.zarr`). So latents of
targets that both have are those of the earlier version, and new targets alone are inverted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from ood_core.errors import InputError
from ood_core.maps.target_set import TargetSet
from ood_core.store.arrays import Table
from ood_core.store.files import copy_tree, exists, read_bytes, read_json, write_atomic, write_json
from ood_core.store.place import Place
from ood_core.store.run import PATCHES, SERIES, RunStore, version_at
from ood_core.store.targets import load_targets

FRAME = "frame.zarr"
COPIED = ("calibration.zarr", "receipts/calibrate", "segments/calibrate")


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """How the targets of a version differ from those of the version before.

    Attributes:
        version: name of the version before.
        identity: its identity.
        added: names of new targets.
        removed: names of targets that are gone.
        changed: names of targets with other values.
        frame: identity of the run that the frame was fitted in; '' where it is fitted anew.
    """

    version: str
    identity: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    frame: str = ""

    def __str__(self) -> str:
        told = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in self._lists()
            if names
        ]
        work = "the new ones alone are inverted" if self.frame else "everything is fitted anew"
        return f"targets since {self.version}: {', '.join(told) or 'in another order'}; {work}"

    def _lists(self) -> list[tuple[str, Sequence[str]]]:
        return [("new", self.added), ("removed", self.removed), ("changed", self.changed)]


def newest(series: Place) -> int:
    """Number of the newest version; 0 where there is none.

    Raises:
        InputError: the place holds a single run.
    """
    if exists(series / "run.json"):
        raise InputError(
            f"{series} holds a single run; expected an empty place, or one of versions, as "
            "targets.grow is true: give another --out"
        )
    number = _told(series)["newest"]
    while version_at(series, number + 1).exists:  # planned, and killed before it was told
        number += 1
    return number


def record_version(run: RunStore) -> None:
    """Record that a version exists, and whether it was published."""
    series, number = run.root.parent, int(run.root.name[1:])
    told = _told(series)
    published = max(told["published"], number if run.state == "published" else 0)
    now = {"newest": max(told["newest"], number), "published": published}
    if now != told:
        write_json(series / SERIES, now)


def _told(series: Place) -> dict[str, int]:
    place = series / SERIES
    return read_json(place) if exists(place) else {"newest": 0, "published": 0}


def growth(before: RunStore, targets: TargetSet) -> Growth | None:
    """How targets differ from those of an earlier version; None if they do not.

    The frame is kept where targets were only added, and all that it was fitted to are still fitted
    to: held-out targets have no part in it.
    """
    stored = load_targets(before)
    if stored.digest() == targets.digest() and stored.fit_count == targets.fit_count:
        return None
    rows = {name: row for row, name in enumerate(targets.ids)}
    removed = tuple(name for name in stored.ids if name not in rows)
    there = [(name, rows[name], row) for row, name in enumerate(stored.ids) if name in rows]
    changed = tuple(
        name for name, new, old in there if not _same(targets.known[new], stored.known[old])
    )
    known = set(stored.ids)
    added = tuple(name for name in targets.ids if name not in known)
    record = before.record
    found = Growth(before.root.name, record["identity"], added, removed, changed)
    fit, frame = set(targets.ids[: targets.fit_count]), frame_of(before, record) or stored
    whole = not before.ledger("calibrate").missing(before.plan("calibrate"))
    if removed or changed or not whole or not fit.issuperset(frame.ids[: frame.fit_count]):
        return found
    kept = (record.get("grown_from") or {}).get("frame") or record["identity"]
    return Growth(**{**asdict(found), "frame": kept})


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def copy_frame(before: RunStore, run: RunStore) -> None:
    """Copy the frame of a version to the next one: it stands by itself from then on."""
    own = before.root / FRAME
    copy_tree(own if Table(own).exists else before.targets.path, run.root / FRAME)
    for name in COPIED:
        copy_tree(before.root / name, run.root / name)
    if exists(before.root / PATCHES):
        write_atomic(run.root / PATCHES, read_bytes(before.root / PATCHES))


def frame_of(run: RunStore, record: Mapping[str, Any]) -> TargetSet | None:
    """The targets that the frame of a grown version was fitted to; None where it has its own.

    `record` is that of the run.
    """
    grown = record.get("grown_from")
    return load_targets(run, FRAME) if grown and grown["frame"] else None


def kept_latents(run: RunStore, targets: TargetSet) -> dict[int, dict[str, Any]]:
    """Rows of the latents that the version before has of the same targets, by fit target."""
    grown = run.record.get("grown_from")
    if not grown or not grown["frame"]:
        return {}
    before = RunStore(run.root.parent / grown["version"])
    if not before.exists or before.ledger("invert").missing(before.plan("invert")):
        return {}  # all are inverted, which gives the same latents
    stored = load_targets(before)
    old = {name: row for row, name in enumerate(stored.ids[: stored.fit_count])}
    rows = before.table("invert").rows(0, stored.fit_count)
    return {
        row: {name: values[old[target]] for name, values in rows.items()}
        for row, target in enumerate(targets.ids[: targets.fit_count])
        if target in old
    }
