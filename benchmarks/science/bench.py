"""The whole table: missing cells are made, then tables, scores by seed and pictures are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, final

import torch

from benchmarks.science.cells import Cell, Ground, grid, work_on
from benchmarks.science.figure import draw_maps, draw_scores
from benchmarks.science.methods import METHODS, MethodName
from benchmarks.science.table import Stored, markdown, record, rows
from benchmarks.science.targets import BenchTargets
from flows.progress import listener
from ood_core.errors import ConfigError, FarfieldError, RunIncomplete
from ood_core.models.loading import load_model
from ood_core.store.files import write_atomic, write_json

STAGE = "science"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScienceSpec:
    """What the table has; `numbers` of targets come in this order."""

    configs: tuple[Path, ...]
    methods: tuple[MethodName, ...] = METHODS
    numbers: tuple[int, ...] = (64, 16, 256)
    seeds: int = 3
    samples: int = 128

    def __post_init__(self) -> None:
        if min(self.numbers, default=0) < 4:
            raise ConfigError(f"--n: got {self.numbers}; expected numbers of at least 4 targets")
        if self.samples < 8 or self.seeds < 1:
            raise ConfigError(
                f"got {self.samples} samples and {self.seeds} seeds; expected at least 8 and 1"
            )


def run_science(spec: ScienceSpec, out: Path) -> dict[str, Any]:
    """Make the cells that are missing and write what there is; return the places.

    Everything runs in one thread of this process, so that CPU seconds compare.

    Raises:
        InputError: unusable configurations, targets or bases.
        RunIncomplete: some cells failed; the others are stored and in the table.
    """
    torch.set_num_threads(1)
    grounds = [ground_of(config) for config in spec.configs]
    cells = list(grid(grounds, spec.methods, spec.numbers, spec.seeds, spec.samples))
    done = {cell: stored for cell in cells if (stored := cell.stored(out)) is not None}
    out.mkdir(parents=True, exist_ok=True)
    listener.get().begin(STAGE, len(cells), len(done))
    failed = []
    for cell in [cell for cell in cells if cell not in done]:
        try:
            done[cell] = cell.stored(out) or work_on(cell, out)
        except (FarfieldError, ArithmeticError) as error:
            failed.append(f"{cell.name}: {error}")
            listener.get().end(cell.name, 0.0, "failed")
            continue
        _write_table(done, out)
        listener.get().advance(STAGE, 1)
        listener.get().end(cell.name, done[cell]["wall_seconds"], _outcome(done[cell]))
    found = {"cells": len(cells), "done": len(done), **_write_table(done, out)}
    found |= _draw(done, out)
    if failed:
        raise RunIncomplete(
            f"{len(failed)} of {len(cells)} cells failed; run the same command again to retry "
            "only these:\n  " + "\n  ".join(failed)
        )
    return found


def records(done: Mapping[Cell, Stored]) -> list[dict[str, Any]]:
    """Return the scores of all cells by name, in an order of their own."""
    found = [record(cell, stored) for cell, stored in done.items()]
    return sorted(found, key=itemgetter("targets", "n", "method", "seed"))


def _write_table(done: Mapping[Cell, Stored], out: Path) -> dict[str, Any]:
    table, scores, found = out / "table.md", out / "scores.json", records(done)
    write_atomic(table, markdown(found).encode())
    write_json(scores, {"scores": found})
    return {"table": str(table), "scores": str(scores)}


def _draw(done: Mapping[Cell, Stored], out: Path) -> dict[str, Any]:
    """Draw the scores of all cells, and maps of seed 0 per target set and number of targets."""
    if not done:
        return {}
    draw_scores(rows(records(done)), out / "scores.png")
    sheets = []
    for ground, n in dict.fromkeys((cell.ground, cell.n) for cell in done):
        chosen = [c for c in done if (c.ground, c.n, c.seed) == (ground, n, 0)]
        sheets.append(out / f"maps-{ground.targets.name}-n{n}.png")
        draw_maps(chosen, ground.targets.scoring_values, out, sheets[-1])
    return {"figure": str(out / "scores.png"), "maps": [str(sheet) for sheet in sheets]}


def ground_of(config: Path) -> Ground:
    """Read a target set and its base.

    Raises:
        InputError: unusable configuration, targets or base.
    """
    targets = BenchTargets.load(config)
    return Ground(targets, load_model(targets.settings.base))


def _outcome(stored: Stored) -> str:
    fsd, spent = stored["scores"]["fsd"]["value"], stored["cpu_seconds"]
    return f"FSD {fsd:.3g}, nearest ratio {stored['nearest_ratio']:.3g}, {spent:.1f} CPU s"
