"""Cells of the table: what each is determined by, where it is kept, and how it is made."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
import numpy.typing as npt

from benchmarks.science.methods import (
    FITTED_WITHIN,
    MethodName,
    Outcome,
    baseline,
    budget,
    is_own,
    make_run,
    run_baseline,
    settled,
)
from benchmarks.science.scoring import scored
from benchmarks.science.targets import BenchTargets
from flows.progress import finite
from ood_core.config.identity import digest
from ood_core.models.loading import BaseModel
from ood_core.numerics.random import Root, SeedRange, root_key
from ood_core.store.files import exists, read_json, write_json
from ood_core.store.statistics import DEFINITION

SCHEME = 1
"""Goes up when the same record would give another cell."""
SHOWN = 24
"""Maps that are kept of a cell, for the picture."""


@final
@dataclass(frozen=True, eq=False)
class Ground:
    """A target set with its base: what all its cells share."""

    targets: BenchTargets
    base: BaseModel

    @cached_property
    def record(self) -> dict[str, Any]:
        """What determines a cell, beside method, number of targets and seed."""
        spec = self.targets.settings.targets
        return {
            "scheme": SCHEME,
            "definition": DEFINITION,
            "targets": self.targets.maps.digest(),
            "transform": spec.transform,
            "symmetries": sorted(spec.symmetries),
            "reference": self.targets.reference,
            "judges": self.targets.scoring,
            "base": self.base.digest,
        }

    @cached_property
    def _settings(self) -> dict[MethodName, dict[str, Any]]:
        return {}

    def settings(self, method: MethodName) -> dict[str, Any]:
        """Settings of a method on this set, looked up once."""
        if method not in self._settings:
            self._settings[method] = settled(method, self.targets, self.base)
        return self._settings[method]


@final
@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one target set, with `n` targets and one seed."""

    ground: Ground
    method: MethodName
    n: int
    seed: int
    samples: int

    @cached_property
    def record(self) -> dict[str, Any]:
        """All that determines the cell, as plain values."""
        return {
            **self.ground.record,
            "method": self.method,
            "settings": self.ground.settings(self.method),
            "fit": self.ground.targets.chosen(self.n, self.seed),
            "seed": self.seed,
            "samples": self.samples,
        }

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.ground.targets.name} n{self.n} seed{self.seed} {self.method}"

    def place(self, out: Path) -> Path:
        """Where its scores are kept; the name holds the digest of what determines it."""
        folder = out / "cells" / self.ground.targets.name / f"n{self.n}-seed{self.seed}"
        return folder / f"{self.method}-{digest(self.record)[:12]}.json"

    def stored(self, out: Path) -> dict[str, Any] | None:
        """Its scores, None where it is not done."""
        place = self.place(out)
        return read_json(place) if exists(place) else None

    def shown(self, out: Path) -> npt.NDArray[np.float32]:
        """Its first maps, in physical units."""
        maps: npt.NDArray[np.float32] = np.load(self.place(out).with_suffix(".npy"))
        return maps

    @property
    def needs(self) -> "Cell | None":
        """The cell whose CPU seconds are this one's budget."""
        other = FITTED_WITHIN.get(self.method)
        return other and Cell(self.ground, other, self.n, self.seed, self.samples)


def grid(
    grounds: Sequence[Ground],
    methods: Sequence[MethodName],
    numbers: Sequence[int],
    seeds: int,
    samples: int,
) -> Iterator[Cell]:
    """Give all cells that the sets have enough maps for: by number, seed, set and method.

    A cell that others need comes before them, whether its method is listed or not.
    """
    for n in numbers:
        for seed in range(seeds):
            for ground in grounds:
                if n > ground.targets.available:
                    continue
                cells = [Cell(ground, method, n, seed, samples) for method in methods]
                needed = [need for cell in cells if (need := cell.needs)]
                yield from [need for need in needed if need.method not in methods] + cells


def work_on(cell: Cell, out: Path) -> dict[str, Any]:
    """Make a cell's maps, score them, and keep scores and first maps; the scores come last."""
    began = time.monotonic()
    targets, place = cell.ground.targets, cell.place(out)
    made = _make(cell, out)
    fitted = targets.fit_values(cell.n, cell.seed)
    # The same random halves for all methods: differences between rows are then the methods' own.
    scores = scored(made.maps, targets, fitted, Root.of(f"science/{cell.seed}"))
    kept = {
        "record": cell.record,
        **scores,
        "nfe_per_map": made.nfe,
        "cpu_seconds": made.cpu_seconds,
        "cpu_seconds_per_map": made.cpu_seconds / cell.samples,
        "notes": dict(made.notes),
        "wall_seconds": time.monotonic() - began,
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    np.save(place.with_suffix(".npy"), made.maps[:SHOWN])
    write_json(place, finite(kept))
    return read_json(place)


def _make(cell: Cell, out: Path) -> Outcome:
    ground, method = cell.ground, cell.method
    if is_own(method):
        out.mkdir(parents=True, exist_ok=True)
        # A folder of its own: another session may be at the same cell, and what a killed one left
        # is not gone on with, since its seconds would be missing.
        with TemporaryDirectory(prefix="work-", dir=out) as work:
            place = Path(work)
            return make_run(method, ground.targets, cell.n, cell.seed, cell.samples, place)
    evaluations = 1
    if need := cell.needs:
        spent = (need.stored(out) or work_on(need, out))["cpu_seconds"]
        evaluations = budget(ground.base, ground.targets, cell.samples, spent)
    how = baseline(method, ground.base, evaluations)
    seeds = SeedRange(root_key(f"science/{digest(cell.record)}"), 0, cell.samples)
    return run_baseline(how, ground.targets, cell.n, seeds, cell.seed)
