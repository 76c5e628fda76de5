"""Error against network evaluations per map: solvers, step counts and teleport on one finished run.

    python -m benchmarks.nfe runs/hubble --out runs/nfe [--samples 64] [--unsteered]
        [--variants ancestral:12 ddim:20 ancestral:10:4]

Base, targets, calibration, prior and latents are those of the run, and every variant decodes the
same latents with the same seeds; only solver, steps and what follows them differ. A variant is
`solver:steps`, with `ddim@0.3` for an eta of 0.3, and any of `:4`, a teleport above `sigma/alpha`
4, and `:searched`, the grid that `farfield models timesteps` finds. Rows are kept in
`DIR/rows.jsonl`, so that the same command goes on where it stopped; `curve.png` is drawn anew.

Lower is better. All scores are against all held-out maps; *real maps* are as many held-out maps
against the others.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from actors.loading import load_pipeline
from actors.workers import sample_rows
from flows.runs.lifecycle import stored_settings
from flows.tools.timestep_search import search_timesteps
from ood_core.arrays import Maps
from ood_core.diffusion.sampling import evaluations_per_map
from ood_core.diffusion.teleport import Shortcut, Teleport
from ood_core.evaluation.features import FeatureExtractor, Features
from ood_core.metrics.discrepancy import energy_distance
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.spectra import spectrum_distance
from ood_core.store.plan import Shard
from ood_core.store.run import RunStore
from ood_core.synthesis.pipeline import Pipeline, time_grid

FAMILIES = ("bispectrum", "phases", "minkowski", "peaks")
SCORES = ("fsd", "spectrum", *FAMILIES)
MAPS = 32  # held-out ones that a grid is searched by
VARIANTS = (
    *(f"ancestral:{n}" for n in (12, 6, 20, 80)),
    *("ancestral:10:4", "ddim:12", "ddim:80", "ddim@0.5:12"),
)


@dataclass(frozen=True)
class Variant:
    """A solver and its steps; `teleport` is the `sigma/alpha` from which it leads."""

    name: str
    solver: Any
    eta: float
    steps: int
    teleport: float | None = None
    searched: bool = False

    @classmethod
    def of(cls, name: str) -> "Variant":
        """Read `solver[@eta]:steps[:option]...`."""
        way, steps, *options = name.split(":")
        solver, _, eta = way.partition("@")
        teleport = next((float(word) for word in options if word[0].isdigit()), None)
        return cls(name, solver, float(eta or 0), int(steps), teleport, "searched" in options)

    @property
    def nfe(self) -> int:
        """Network evaluations per map."""
        return evaluations_per_map(self.solver, self.steps, self.eta)

    def on(self, run: RunStore, steered: bool) -> Pipeline:
        """The pipeline of a run with this way of decoding."""
        pipeline = loaded(run)
        schedule = pipeline.base.schedule
        timesteps = None
        if self.searched:
            settings = stored_settings(run, [])
            timesteps = tuple(search_timesteps(run, settings, self.steps, MAPS)["timesteps"])
        method = replace(
            pipeline.method, solver=self.solver, eta=self.eta, steps=self.steps, timesteps=timesteps
        )
        if self.teleport is not None:
            method = replace(method, teleport=schedule.index_of(self.teleport))
        if not steered:
            method = replace(method, steering=None)
        shortcut = None
        if method.teleport:
            assert pipeline.experts is not None, "a teleport here is by the Gaussian of the targets"
            flow = Teleport(
                schedule, pipeline.experts.gaussian.mean, pipeline.experts.gaussian.covariance
            )
            shortcut = Shortcut(flow, method.top, method.ends[1])
        timesteps = time_grid(schedule, method)
        return replace(pipeline, method=method, timesteps=timesteps, shortcut=shortcut)


def loaded(run: RunStore) -> Pipeline:
    """The pipeline of a run."""
    return load_pipeline(run, run.record["settings"]["base"], "cpu", "float32")


@dataclass(frozen=True)
class Scorer:
    """Held-out maps with their features."""

    extractor: FeatureExtractor
    whitening: dict[str, Whitening]
    real: Features

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Scorer":
        """Measure the targets of a run."""
        targets = pipeline.targets
        extractor = FeatureExtractor.of(
            targets.fit_ranged, targets.held_out_ranged, pipeline.targets.symmetries
        )
        fit, real = extractor.targets
        names = ("scattering", *FAMILIES)
        return cls(extractor, {name: Whitening.fit(fit[name]) for name in names}, real)

    def scores(self, maps: Maps) -> dict[str, float]:
        """Distances of maps in model range from held-out ones."""
        return self._compared(self.extractor.extract(maps), self.real)

    def of_real(self, count: int) -> dict[str, float]:
        """The same of the first held-out maps against the others."""
        first = {name: values[:count] for name, values in self.real.items()}
        return self._compared(first, {name: values[count:] for name, values in self.real.items()})

    def _compared(self, made: Features, real: Features) -> dict[str, float]:
        def pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return self.whitening[name](made[name]), self.whitening[name](real[name])

        return {
            "fsd": frechet(*pair("scattering")),
            "spectrum": spectrum_distance(made["power"].double(), real["power"].double()),
            **{name: energy_distance(*pair(name)) for name in FAMILIES},
        }


def made(run: RunStore, pipeline: Pipeline, samples: int) -> tuple[Maps, float]:
    """Maps in model range of the first samples, and the seconds that they took."""
    began = time.process_time()
    columns = sample_rows(run, pipeline)(Shard(0, 0, samples, samples))()()
    return pipeline.targets.ranged(columns["maps"]), (time.process_time() - began)


def draw(rows: list[dict[str, Any]], name: str, path: Path) -> None:
    """Scores against evaluations, one curve per solver, teleports apart."""
    shown = ("fsd", "spectrum", "minkowski", "peaks")
    figure, axes = plt.subplots(1, len(shown), figsize=(14, 3.2), constrained_layout=True)
    real = next((row for row in rows if row["variant"] == "real maps"), None)
    kinds = sorted({kind_of(row) for row in rows if row["nfe"]})
    for axis, score in zip(axes, shown, strict=True):
        for kind in kinds:
            same = [row for row in rows if row["nfe"] and kind_of(row) == kind]
            same.sort(key=lambda row: row["nfe"])
            values = [row[score] for row in same]
            axis.plot([row["nfe"] for row in same], values, "o-", ms=4, lw=1, label=kind)
        if real is not None:
            axis.axhline(real[score], color="0.5", lw=1, ls="--", label="real maps")
        axis.set(xscale="log", xlabel="network evaluations per map", title=score)
    axes[0].legend(fontsize=7)
    figure.suptitle(name, fontsize=10)
    figure.savefig(path, dpi=110)


def kind_of(row: dict[str, Any]) -> str:
    """What a row is a point of: its variant without the number of steps."""
    solver, _, *options = row["variant"].split(":")
    parts = [f"teleport above {word}" if word[0].isdigit() else word for word in options]
    return ", ".join([solver, *parts])


def main() -> None:
    """Print one row per variant as it is done; draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--unsteered", action="store_true")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    arguments: Any = parser.parse_args()
    run = RunStore.open(arguments.run)
    scorer, kept = Scorer.of(loaded(run)), arguments.out / "rows.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()

    def keep(row: dict[str, Any]) -> None:
        rows.append({**row, "commit": commit})
        with kept.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")

    if not any(row["variant"] == "real maps" for row in rows):
        blank = {"variant": "real maps", "nfe": 0, "seconds": 0.0}
        keep({**blank, **scorer.of_real(arguments.samples)})
    say("variant", "NFE", *SCORES, "CPU s")
    say(*["---"] * (3 + len(SCORES)))
    for variant in map(Variant.of, arguments.variants):
        if not any(row["variant"] == variant.name for row in rows):
            maps, seconds = made(run, variant.on(run, not arguments.unsteered), arguments.samples)
            shape = {"variant": variant.name, "nfe": variant.nfe, "seconds": seconds}
            keep({**shape, **scorer.scores(maps)})
        say_row(next(row for row in rows if row["variant"] == variant.name))
    say_row(next(row for row in rows if row["variant"] == "real maps"))
    draw(rows, run.record["name"], arguments.out / "curve.png")


def say_row(row: dict[str, Any]) -> None:
    """Print one variant."""
    cells = [f"{row[score]:.3g}" for score in SCORES]
    say(row["variant"], str(row["nfe"] or ""), *cells, f"{row['seconds']:.0f}")


def say(*values: str) -> None:
    """Print one row now."""
    sys.stdout.write("| " + " | ".join(values) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
