"""Bases beside one another on targets that none has seen, as a Markdown table.

python benchmarks/bases.py --targets examples/hubble.yaml examples/sun.yaml --bases A B ...

One row per base and target set, all with the same targets, timesteps, noise and solver steps:

- round trip: median decibels of inverting 16 fit targets through the bare base, 12 steps, 2
  fixed-point iterations;
- bare, calibrated: error of 48 denoised held-out maps, root mean square over the maps' own standard
  deviation, averaged over every second timestep of the decoding grid (the JSON has each);
- FSD of 64 samples decoded through the calibrated base without steering.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from flows.settings import load_settings
from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.calibrated import (
    BandWeights,
    CalibratedDenoiser,
    TargetLaws,
    band_knots,
    calibrate_timestep,
)
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.scattering import Scattering
from ood_core.models.loading import load_model
from ood_core.numerics.random import SeedRange, Stream, normal, normal_like

TOP_RATIO = 12.0
STEPS, PASSES, INVERTED, SCORED, SAMPLES = 12, 2, 16, 48, 64
RHO = 0.5
ROOT = 20261123


@dataclass(frozen=True, slots=True)
class Targets:
    """Fit and held-out maps in model range, and their symmetries."""

    name: str
    fit: Maps
    held_out: Maps
    symmetries: tuple[Symmetry, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What one base does on one set; errors per timestep in units of the maps' spread."""

    base: str
    targets: str
    round_trip_db: float
    bare: list[float]
    calibrated: list[float]
    fsd: float
    seconds: float


def read_set(config: str) -> Targets:
    """Read the targets of a configuration."""
    found = TargetSet.of(load_settings(Path(config)).targets)
    return Targets(Path(config).stem, found.fit_ranged, found.held_out_ranged, found.symmetries)


def measure(source: str, targets: Targets) -> Row:
    """All figures of one row."""
    began = time.monotonic()
    base = load_model(source).denoiser
    schedule = base.schedule
    grid = schedule.log_snr_grid(STEPS + 1, schedule.index_of(TOP_RATIO))
    inverted = invert(base, targets.fit[:INVERTED], grid, PASSES)
    span = float(targets.fit.max() - targets.fit.min())
    decibels = 20 * torch.log10(span / inverted.error)
    timesteps = grid.tolist()[::2]
    stack, experts = calibrated(base, targets, grid.tolist())
    held_out = targets.held_out[:SCORED]
    denoiser = stack(experts.assign(held_out))
    drawn = normal(SeedRange(ROOT, 0, SAMPLES), tuple(held_out.shape[1:]))
    parents = torch.arange(SAMPLES) % len(targets.fit)
    samples = decode(stack(experts.assign(targets.fit)[parents]), "ddim", drawn, grid)
    return Row(
        base=source,
        targets=targets.name,
        round_trip_db=float(decibels.median()),
        bare=[denoising_error(base, held_out, t) for t in timesteps],
        calibrated=[denoising_error(denoiser, held_out, t) for t in timesteps],
        fsd=scattering_distance(samples, targets),
        seconds=time.monotonic() - began,
    )


def calibrated(base: Denoiser, targets: Targets, timesteps: list[int]):
    """Calibrate at the timesteps; return a function from labels to denoisers, and the experts."""
    spec, schedule = CalibrationSpec(), base.schedule
    folds = TargetLaws.cross_fitted(targets.fit, schedule, RHO, spec.n_clusters, targets.symmetries)
    experts = TargetLaws.fit(targets.fit, schedule, RHO, spec.n_clusters, targets.symmetries)
    mean = experts.gaussian.mean
    weights = [
        calibrate_timestep(targets.fit, base, folds, mean, t, spec, targets.symmetries, ROOT)
        for t in timesteps
    ]
    ratios = torch.tensor([schedule.noise_to_signal(t) for t in timesteps])
    knots = band_knots(*targets.fit.shape[-2:], spec.bands)
    bands = BandWeights(ratios, knots, torch.stack(weights))
    return (lambda labels: CalibratedDenoiser(base, experts, bands, labels)), experts


def denoising_error(denoiser: Denoiser, x0: Maps, t: int) -> float:
    """Root-mean-square error of the denoised maps over the maps' standard deviation."""
    schedule: NoiseSchedule = denoiser.schedule
    noise = normal_like(x0, ROOT, t, Stream.CALIBRATION)
    x_t = float(schedule.alpha[t]) * x0 + float(schedule.sigma[t]) * noise
    return float((denoiser(x_t, t) - x0).square().mean().sqrt() / x0.std())


def scattering_distance(samples: Maps, targets: Targets) -> float:
    """Fréchet distance of whitened scattering features, samples against held-out maps."""
    statistics = Scattering(samples.shape[-1])
    whiten = Whitening.fit(statistics.log_moments(targets.fit))
    held_out = whiten(statistics.log_moments(targets.held_out))
    return float(frechet(whiten(statistics.log_moments(samples)), held_out))


def main() -> None:
    """Print the table; write JSON with machine and commit beside it if wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--bases", nargs="+", required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    header = ["targets", "base", "round trip dB", "bare", "calibrated", "FSD"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    rows = []
    for targets in map(read_set, args.targets):
        for base in args.bases:
            row = measure(base, targets)
            rows.append(asdict(row))
            bare, stack = (sum(e) / len(e) for e in (row.bare, row.calibrated))
            cells = [f"{row.round_trip_db:.1f}", f"{bare:.4f}", f"{stack:.4f}", f"{row.fsd:.1f}"]
            print("| " + " | ".join([row.targets, Path(base).name, *cells]) + " |", flush=True)
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        record = {
            "commit": commit.stdout.strip(), "machine": platform.platform(),
            "command": " ".join(sys.argv), "rows": rows,
        }  # fmt: skip
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
