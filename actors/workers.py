"""Workers: built once from a store, they turn shards into stored rows and receipts.

A worker holds the base on its device and everything that was fitted. `run(shard)` computes the
shard, stores its rows, writes the receipt last and returns it. Arrays never leave the worker.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray

from actors.line import Line, load_line
from ood_core.arrays import Maps
from ood_core.calibration import EXPERTS, TargetLaws, calibrate_level
from ood_core.decode import decode
from ood_core.draw import draw
from ood_core.invert import invert
from ood_core.seeds import SeedRange
from ood_core.specs import SteeringSpec
from ood_core.steering import StatisticAims, Statistics, SteeredDenoiser
from ood_core.store.latents import read_latents
from ood_core.store.plan import Shard
from ood_core.store.priors import read_prior
from ood_core.store.receipts import Receipt
from ood_core.store.run import RunStore, ShardedStage

Rows = Mapping[str, NDArray[Any]]


@final
@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker needs to be built anywhere: run, base, stage and its share of the machine."""

    uri: str
    base: str
    stage: ShardedStage
    device: str
    dtype: str
    threads: int


class Worker(Protocol):
    """Turns shards into receipts."""

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard."""
        ...


def build(spec: WorkerSpec) -> Worker:
    """Load base and fits from the store, once per process."""
    torch.set_num_threads(spec.threads)
    run = RunStore.open(spec.uri)
    line = load_line(run, spec.base, spec.device, spec.dtype)
    match spec.stage:
        case "calibrate":
            compute = calibration_rows(line)
        case "invert":
            compute = inversion_rows(line)
        case "generate":
            compute = sample_rows(run, line)
    return ShardWorker(run, spec.stage, line, compute)


@final
@dataclass(frozen=True, slots=True, eq=False)
class ShardWorker:
    """One stage's computation with its store: bytes first, receipt last."""

    store: RunStore
    stage: ShardedStage
    line: Line
    compute: Callable[[Shard], Rows]

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard."""
        began, before = time.monotonic(), self.line.base.nfe
        rows = self.compute(shard)
        digest = self.store.table(self.stage).write(shard, rows)
        receipt = Receipt(
            stage=self.stage,
            shard=shard.index,
            start=shard.start,
            stop=shard.start + len(next(iter(rows.values()))),
            digest=digest,
            nfe=self.line.base.nfe - before,
            seconds=time.monotonic() - began,
            writer=f"{socket.gethostname()}:{os.getpid()}",
        )
        self.store.receipts(self.stage).write(receipt)
        return receipt


def calibration_rows(line: Line) -> Callable[[Shard], Rows]:
    """Rows of the calibration: one noise level per shard."""
    spec, laws = line.method.calibration, line.laws
    assert spec is not None, "planned only where the method calibrates"
    assert laws is not None, "loaded wherever the method calibrates"
    folds = TargetLaws.cross_fitted(
        line.targets.fit, line.base.schedule, line.rho, spec.members, line.symmetries
    )
    fit = line.targets.fit.to(line.device)

    def rows(shard: Shard) -> Rows:
        levels = [int(line.grid[i]) for i in range(shard.start, shard.stop)]
        weights = [
            calibrate_level(
                fit, line.base, folds, laws.gaussian.mean, t, spec, line.symmetries, line.root
            )
            for t in levels
        ]
        ratio = [line.base.schedule.noise_to_signal(t) for t in levels]
        return {
            "time_index": np.array(levels, dtype=np.int64),
            "noise_to_signal": np.array(ratio, dtype=np.float32),
            "weights": torch.stack(weights).numpy().reshape(-1, spec.bands, len(EXPERTS)),
        }

    return rows


def inversion_rows(line: Line) -> Callable[[Shard], Rows]:
    """Rows of the latents: each shard a batch of fit targets, padded to one batch shape."""

    def rows(shard: Shard) -> Rows:
        maps = padded(line.targets.fit[shard.start : shard.stop], shard.capacity)
        denoiser = line.denoiser(line.labels(maps))
        done = invert(denoiser, maps.to(line.device), line.grid, line.method.passes)
        keep = slice(0, len(shard))
        return {
            "target": np.arange(shard.start, shard.stop, dtype=np.int64),
            "latents": done.latents.cpu().numpy()[keep],
            "round_trip": done.round_trip.cpu().numpy()[keep],
            "error": done.error.cpu().numpy()[keep],
            "residual": done.residual.cpu().numpy()[keep],
        }

    return rows


def sample_rows(run: RunStore, line: Line) -> Callable[[Shard], Rows]:
    """Rows of the data set: draw, decode and steer one shard, in physical units.

    A shard is stored with its full capacity, the last one too: so a run grows by new shards alone.
    Every sample has two parents, whether it is steered towards them or not: the first one says
    which cluster it belongs to, and both say how far it ends from where real maps lie.
    """
    prior, geometry = read_prior(run.root / "prior.zarr")
    references = read_latents(run)
    labels = line.labels(line.targets.fit)
    steering = line.method.steering
    neighbours = steering.neighbours if steering is not None else 1
    statistics = Statistics(line.targets.fit.shape[-1])
    aims = StatisticAims.measure(statistics, line.targets.fit, line.symmetries, neighbours)

    def rows(shard: Shard) -> Rows:
        seeds = SeedRange(line.root, shard.start, shard.start + shard.capacity)
        drawn = draw(prior, seeds, geometry, references)
        aim, parents = aims.draw(seeds)
        plain = line.denoiser(labels[parents[:, 0]])
        steered = SteeredDenoiser(plain, statistics, aim, aims.spread, steering or SteeringSpec())
        denoiser = plain if steering is None else steered
        maps = decode(denoiser, line.method.solver, drawn.latents.to(line.device), line.grid)
        distance = steered.distance(maps)
        return {
            "sample": np.arange(seeds.start, seeds.stop, dtype=np.int64),
            "maps": line.targets.physical(maps.cpu()),
            "attempts": drawn.attempts.numpy().astype(np.int16),
            "parents": parents.numpy().astype(np.int32),
            "aim_distance": distance.cpu().numpy().astype(np.float32),
        }

    return rows


def padded(maps: Maps, capacity: int) -> Maps:
    """Repeat the last map up to the batch shape, so that every shard runs the same kernels."""
    if len(maps) == capacity:
        return maps
    return torch.cat([maps, maps[-1:].expand(capacity - len(maps), -1, -1, -1)])
