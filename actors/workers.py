"""Workers: built once from a store, they turn shards into stored rows and receipts.

A worker holds the base on its device and everything that was fitted. `run(shard)` computes the
shard, stores its rows, writes the receipt last and returns it. Arrays never leave the worker.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray

from actors.line import Line, load_line
from actors.timing import Parts, Turns, timed
from actors.transfer import entering, leaving
from ood_core.arrays import Maps
from ood_core.config.method import SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.calibrated import TargetLaws, calibrate_level
from ood_core.denoising.steered import StatisticAims, Statistics, SteeredDenoiser
from ood_core.invert import Inversion
from ood_core.limits import BASE_BYTES
from ood_core.models.autoencoder import Autoencoder
from ood_core.numerics.random import SeedRange
from ood_core.store.durable import persist_shard
from ood_core.store.files import writing
from ood_core.store.latents import held_targets, read_latents
from ood_core.store.lease import require
from ood_core.store.patches import read_patches
from ood_core.store.plan import Shard
from ood_core.store.priors import read_prior
from ood_core.store.receipts import Receipt
from ood_core.store.run import RunStore, ShardedStage
from ood_core.store.statistics import copy_distance, has_statistics, lay_ruler, measured
from ood_core.synthesis.constructs import construct_of
from ood_core.synthesis.latents import draw

Rows = Mapping[str, NDArray[Any]]
INVERTED = ("latents", "round_trip", "error", "residual")
Pending = Callable[[], Rows]
"""Rows that are computed, and may be on their way from the device."""


@final
@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker needs to be built anywhere: run, base, stage and its share of the machine.

    `lease` is the number of the driver's lease: a worker that outlived its driver writes nothing
    once another driver has taken over.
    """

    uri: str
    base: str
    stage: ShardedStage
    device: str
    dtype: str
    threads: int
    lease: int | None = None
    max_base_bytes: int = BASE_BYTES


class Worker(Protocol):
    """Turns shards into receipts."""

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard."""
        ...


def build(spec: WorkerSpec) -> Worker:
    """Load base and fits from the store, once per process."""
    began = time.monotonic()
    torch.set_num_threads(spec.threads)
    run = RunStore.open(spec.uri)
    line = load_line(run, spec.base, spec.device, spec.dtype, spec.max_base_bytes)
    match spec.stage:
        case "calibrate":
            compute = calibration_rows(run, line)
        case "invert":
            compute = inversion_rows(line)
        case "generate":
            compute = sample_rows(run, line)
    measure = statistics_rows(run, line) if spec.stage == "generate" else None
    turns = Turns(time.monotonic() - began)
    return ShardWorker(run, spec.stage, line, compute, turns, spec.threads, spec.lease, measure)


@final
@dataclass(frozen=True, slots=True, eq=False)
class ShardWorker:
    """One stage's computation with its store: bytes first, receipt last.

    `measure` gives the statistics that are stored beside a shard of samples. Threads may share a
    worker: one of them computes, while others store what they have computed.
    """

    store: RunStore
    stage: ShardedStage
    line: Line
    compute: Callable[[Shard], Pending]
    turns: Turns
    threads: int
    lease: int | None = None
    measure: Callable[[Rows], Rows] | None = None

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard.

        Raises:
            FloatingPointError: some rows are not finite; nothing is stored.
            InUse: another driver took over; nothing is stored.
            StoreUnwritable: the disk is full or read-only, or permission is missing.
        """
        torch.set_num_threads(self.threads)  # each thread has its own number; rounding hangs on it
        with self.turns.take(self.line.clock) as parts:
            before = self.line.base.nfe
            pending = self.compute(shard)
            nfe = self.line.base.nfe - before
        with timed(parts, "fetch"):
            rows = pending()
        _require_finite(rows, shard)
        with timed(parts, "measure"):
            statistics = None if self.measure is None else self.measure(rows)
        if self.lease is not None:
            require(self.store.lease, self.lease)
        with writing(self.store.root):
            return self._store(shard, rows, statistics, nfe, parts)

    def _store(
        self, shard: Shard, rows: Rows, statistics: Rows | None, nfe: int, parts: Parts
    ) -> Receipt:
        table = self.store.table(self.stage)
        with timed(parts, "encode"):
            vouched = "" if statistics is None else self.store.statistics.write(shard, statistics)
            digest = table.write(shard, rows)
        with timed(parts, "write"):
            for written in (table, self.store.statistics) if vouched else (table,):
                persist_shard(written, shard)
        receipt = Receipt(
            stage=self.stage,
            shard=shard.index,
            start=shard.start,
            stop=shard.start + len(next(iter(rows.values()))),
            digest=digest,
            nfe=nfe,
            seconds=sum(parts[name] for name in ("compute", "fetch", "measure", "encode", "write")),
            writer=f"{socket.gethostname()}:{os.getpid()}",
            statistics=vouched,
            parts={name: round(seconds, 6) for name, seconds in parts.items()},
        )
        self.store.receipts(self.stage).write(receipt)
        self.turns.stored()
        return receipt


def _require_finite(rows: Rows, shard: Shard) -> None:
    for name, values in rows.items():
        if np.isfinite(values).all():
            continue
        bad = shard.start + np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        raise FloatingPointError(f"{name}: not finite in rows {', '.join(map(str, bad))}")


def calibration_rows(run: RunStore, line: Line) -> Callable[[Shard], Pending]:
    """Rows of the calibration: one noise level per shard."""
    spec, laws = line.method.calibration, line.laws
    assert spec is not None, "planned only where the method calibrates"
    assert laws is not None, "loaded wherever the method calibrates"
    folds = TargetLaws.cross_fitted(
        line.targets.seen,
        line.base.schedule,
        line.rho,
        line.n_clusters,
        line.symmetries,
        read_patches(run).halves if spec.patches else ((), ()),
    )
    fit = line.targets.seen.to(line.device)

    def rows(shard: Shard) -> Pending:
        levels = [int(line.timesteps[i]) for i in range(shard.start, shard.stop)]
        weights = [
            calibrate_level(
                fit, line.base, folds, laws.gaussian.mean, t, spec, line.symmetries, line.root
            )
            for t in levels
        ]
        ratio = [line.base.schedule.noise_to_signal(t) for t in levels]
        return lambda: {
            "time_index": np.array(levels, dtype=np.int64),
            "noise_to_signal": np.array(ratio, dtype=np.float32),
            "weights": torch.stack(weights).numpy(),
        }

    return rows


def inversion_rows(line: Line) -> Callable[[Shard], Pending]:
    """Rows of the latents: each shard a batch of fit targets, padded to one batch shape.

    The round trip of a latent base ends in pixels, and its error is that of the whole way: of the
    autoencoder and of the flow.
    """

    def rows(shard: Shard) -> Pending:
        seen = padded(line.targets.seen[shard.start : shard.stop], shard.capacity)
        done = line.invert(line.denoiser(line.labels(seen)), entering(seen, line.device))
        keep = slice(0, len(shard))
        if line.codes is not None:
            maps = padded(line.targets.fit[shard.start : shard.stop], shard.capacity)
            done = through_pixels(done, line.codes, maps.to(line.device))
        made = {name: leaving(getattr(done, name)) for name in INVERTED}
        return lambda: {
            "target": np.arange(shard.start, shard.stop, dtype=np.int64),
            **{name: arrived().numpy()[keep] for name, arrived in made.items()},
        }

    return rows


def through_pixels(done: Inversion, codes: Autoencoder, maps: Maps) -> Inversion:
    """The inversion of codes, with its round trip and error measured on the maps themselves."""
    back = codes.decode(done.round_trip)
    error = ((back - maps) ** 2).flatten(1).mean(dim=1).sqrt()
    return replace(done, round_trip=back, error=error)


def sample_rows(run: RunStore, line: Line) -> Callable[[Shard], Pending]:
    """Rows of the data set: draw, decode and steer one shard, in physical units.

    A shard is stored with its full capacity, the last one too: so a run grows by new shards alone.
    Every sample has two parents, whether it is steered towards them or not: the first one says
    which cluster it belongs to, and both say how far it ends from where real maps lie.
    """
    prior, geometry = read_prior(run.root / "prior.zarr")
    references, targets = read_latents(run), torch.tensor(held_targets(run))
    construct = construct_of(line.method.draw, prior, references)
    seen = line.targets.seen
    labels = line.labels(seen)
    steering = line.method.steering
    neighbours = steering.neighbours if steering is not None else 1
    statistics = Statistics(seen.shape[-1], radial_bins_of(steering, line.symmetries))
    aims = StatisticAims.measure(statistics, seen, line.symmetries, neighbours)

    def rows(shard: Shard) -> Pending:
        seeds = SeedRange(line.root, shard.start, shard.start + shard.capacity)
        drawn = draw(construct, seeds, geometry, references)
        sources = targets[drawn.kept.sources]
        aim, parents = aims.draw(seeds, sources[:, 0] if sources.shape[1] else None)
        plain = line.denoiser(labels[parents[:, 0]])
        steered = SteeredDenoiser(plain, statistics, aim, aims, steering or SteeringSpec(), seeds)
        denoiser = plain if steering is None else steered
        latents = entering(drawn.latents, line.device)
        made = line.decode(denoiser, latents, seeds)
        distance, maps = leaving(steered.distance(made)), leaving(line.maps(made))
        made_of = {
            "sources": sources.numpy().astype(np.int32),
            "source_weights": drawn.kept.weights.numpy().astype(np.float32),
        }
        return lambda: {
            "sample": np.arange(seeds.start, seeds.stop, dtype=np.int64),
            "maps": line.physical(maps()),
            "attempts": drawn.attempts.numpy().astype(np.int16),
            "parents": parents.numpy().astype(np.int32),
            "aim_distance": distance().numpy().astype(np.float32),
            "refusals": drawn.refusals.numpy().astype(np.int16),
            **(made_of if sources.shape[1] else {}),
        }

    return rows


def radial_bins_of(steering: SteeringSpec | None, symmetries: Sequence[Symmetry]) -> int:
    """Number of rings whose means are steered: none where the field has no centre."""
    return 0 if steering is None or "translate" in symmetries else steering.radial_bins


def statistics_rows(run: RunStore, line: Line) -> Callable[[Rows], Rows] | None:
    """Rows of the statistics of a shard of samples; None where the run has no table for them.

    They are measured on the maps as they are stored, so that they can be measured again.
    """
    ruler = lay_ruler(line.targets, line.symmetries)
    if not has_statistics(run, ruler):
        return None
    within = copy_distance(run)
    return lambda rows: measured(ruler, line.targets, rows["maps"], within)


def padded(maps: Maps, capacity: int) -> Maps:
    """Repeat the last map up to the batch shape, so that every shard runs the same kernels."""
    if len(maps) == capacity:
        return maps
    return torch.cat([maps, maps[-1:].expand(capacity - len(maps), -1, -1, -1)])
