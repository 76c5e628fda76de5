"""Workers: built once from a store, they turn shards into stored rows and receipts.

A worker holds the base on its device and everything that was fitted. `run(shard)` computes the
shard, stores its rows, writes the receipt last and returns it. Arrays never leave the worker.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray

from actors.loading import frame_pipeline, load_pipeline
from actors.timing import Parts, TimedDenoiser, Turns, leaving, timed
from ood_core.denoising.completed import LeftOpen
from ood_core.denoising.gate import Gate
from ood_core.errors import InputError, StoreUnwritable
from ood_core.limits import BASE_BYTES
from ood_core.numerics.memory import device_full
from ood_core.numerics.random import SeedRange
from ood_core.store.arrays import ShardWriter, persist_shard
from ood_core.store.files import writing
from ood_core.store.fitted import calibration_row, read_patches, read_prior
from ood_core.store.lease import LeaseProof, require
from ood_core.store.ledger import Receipt
from ood_core.store.place import Place, each
from ood_core.store.plan import Shard
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.schema import ShardedStage
from ood_core.store.series import kept_latents
from ood_core.store.statistics import feature_extractor, measured
from ood_core.store.statistics import statistics_rows as extracted_rows
from ood_core.store.targets import held_latents
from ood_core.synthesis.pipeline import Calibrator, Pipeline
from ood_core.synthesis.sampler import Drawn, Sampler

Rows = Mapping[str, NDArray[Any]]
OF_SHARD = ("draw", "compute", "fetch", "measure", "encode", "write")
INVERTED = ("latents", "round_trip", "error", "residual")
Pending = Callable[[], Rows]
"""Rows that are computed, and may be on their way from the device."""
Begun = Callable[[], Pending]
"""Work on a shard up to where the device is needed; calling it computes."""


@final
@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker needs to be built anywhere: run, base, stage and its share of the machine.

    `lease` is the number of the driver's lease: a worker that outlived its driver writes nothing
    once another driver has taken over. `coarse` says that the stage is of the run's coarse maps.
    """

    uri: str
    base: str
    stage: ShardedStage
    device: str
    dtype: str
    threads: int
    lease: int | None = None
    max_base_bytes: int = BASE_BYTES
    coarse: bool = False


class Worker(Protocol):
    """Turns shards into receipts."""

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard."""
        ...


def build(spec: WorkerSpec) -> Worker:
    """Load base and fits from the store, once per process."""
    began = time.monotonic()
    torch.set_num_threads(spec.threads)
    try:
        run = RunStore.open(spec.uri)
        run = run.coarse if spec.coarse else run
    except InputError as error:
        raise InputError(
            f"{socket.gethostname()} sees no run at {spec.uri}; expected a folder that all hosts "
            "share, or an object store that all of them reach"
        ) from error
    if spec.lease is not None:  # a copy of the run, as on a disk of this host alone, has another
        require(run.lease, spec.lease)
    if isinstance(run.root, Path) and not os.access(run.root, os.W_OK):
        raise StoreUnwritable(f"{run.root} cannot be written to; expected permission and room")
    calibrated = spec.stage != "calibrate"  # stages are run in their order
    pipeline = load_pipeline(
        run, spec.base, spec.device, spec.dtype, spec.max_base_bytes, calibrated
    )
    begin = ROWS[spec.stage](run, pipeline)
    statistics = run.statistics.writer() if spec.stage == "generate" else None
    measure = None if statistics is None else statistics_rows(statistics, pipeline)
    turns = Turns(time.monotonic() - began)
    table = run.table(spec.stage).writer()
    proof = None if spec.lease is None else LeaseProof(run.lease, spec.lease)
    return ShardWorker(
        run, spec.stage, pipeline, begin, table, turns, spec.threads, proof, measure, statistics
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class ShardWorker:
    """One stage's computation with its store: bytes first, receipt last.

    `measure` gives the statistics that are stored beside a shard of samples. Threads may share a
    worker: one of them computes, while others draw what they will compute, or store what they have.
    """

    store: RunStore
    stage: ShardedStage
    pipeline: Pipeline
    begin: Callable[[Shard], Begun]
    table: ShardWriter
    turns: Turns
    threads: int
    lease: LeaseProof | None = None
    measure: Callable[[Rows], Rows] | None = None
    statistics: ShardWriter | None = None

    def run(self, shard: Shard) -> Receipt:
        """Compute, store and vouch for one shard.

        Raises:
            DeviceFull: the device's memory is too small, even for parts of the shard.
            FloatingPointError: some rows are not finite; nothing is stored.
            InUse: another driver took over; nothing is stored.
            StoreUnwritable: the disk is full or read-only, or permission is missing.
        """
        torch.set_num_threads(self.threads)  # a setting of each thread; rounding depends on it
        drawing: Parts = {}
        with timed(drawing, "draw"):
            begun = self.begin(shard)
        try:
            with self.turns.take(_clock(self.pipeline), **drawing) as parts:
                before = self.pipeline.base.nfe
                pending = begun()
                nfe, at_once = self.pipeline.base.nfe - before, self.pipeline.memory.rows or 0
            with timed(parts, "fetch"):
                rows = pending()
        except torch.OutOfMemoryError as error:
            raise device_full(f"{self.stage}, shard {shard.index}", error) from error
        _require_finite(rows, shard)
        with timed(parts, "measure"):
            statistics = None if self.measure is None else self.measure(rows)
        if self.lease is not None:
            self.lease.require()
        with writing(self.store.root):
            return self._store(shard, rows, statistics, nfe, parts, at_once)

    def _store(
        self,
        shard: Shard,
        rows: Rows,
        statistics: Rows | None,
        nfe: int,
        parts: Parts,
        at_once: int,
    ) -> Receipt:
        stored: Rows = {name: rows[name] for name in self.table.arrays}
        tables = [(self.table, stored)]
        if self.statistics is not None and statistics is not None:
            tables.append((self.statistics, statistics))
        with timed(parts, "encode"):
            digest, *vouched = store_rows(self.store.root, shard, tables)
        with timed(parts, "write"):
            for table, _ in tables:
                persist_shard(table, shard)
        receipt = Receipt(
            stage=self.stage,
            shard=shard.index,
            start=shard.start,
            stop=shard.start + len(next(iter(rows.values()))),
            digest=digest,
            nfe=nfe,
            seconds=sum(seconds for name, seconds in parts.items() if name in OF_SHARD),
            writer=f"{socket.gethostname()}:{os.getpid()}",
            statistics=vouched[0] if vouched else "",
            parts={name: round(seconds, 6) for name, seconds in parts.items()},
            micro_batch=at_once,
        )
        self.store.ledger(self.stage).write(receipt)
        self.turns.stored()
        return receipt


def store_rows(root: Place, shard: Shard, tables: Sequence[tuple[ShardWriter, Rows]]) -> list[str]:
    """Store a shard of several tables and return the digests; where it goes far, all at once."""
    return each(root, lambda one: one[0].write(shard, one[1]), tables)


def _clock(pipeline: Pipeline) -> TimedDenoiser:
    assert isinstance(pipeline.network, TimedDenoiser), "so loaded by `load_pipeline`"
    return pipeline.network


def _require_finite(rows: Rows, shard: Shard) -> None:
    for name, values in rows.items():
        if np.isfinite(values).all():
            continue
        bad = shard.start + np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        raise FloatingPointError(f"{name}: not finite in rows {', '.join(map(str, bad))}")


def calibration_rows(run: RunStore, pipeline: Pipeline) -> Callable[[Shard], Begun]:
    """Rows of the calibration: one timestep per shard."""
    pipeline = frame_pipeline(run, pipeline)
    spec = pipeline.method.calibration
    halves = read_patches(run).halves if spec is not None and spec.patches else ((), ())
    calibrator = Calibrator(pipeline, halves)

    def rows(shard: Shard) -> Pending:
        timesteps = [int(pipeline.timesteps[i]) for i in range(shard.start, shard.stop)]
        found = [calibrator.weights_at(t) for t in timesteps]
        weights, gates, left = zip(*found, strict=True)
        stored = calibration_row(torch.stack(weights), Gate.stacked(gates), LeftOpen.stacked(left))
        return lambda: stored

    return lambda shard: partial(rows, shard)


def inversion_rows(run: RunStore, pipeline: Pipeline) -> Callable[[Shard], Begun]:
    """Rows of the latents: each shard a batch of fit targets, padded to one batch shape.

    Latents that the version before has of the same targets are taken from there.
    """
    kept = kept_latents(run, pipeline.targets)

    def rows(shard: Shard) -> Pending:
        wanted = range(shard.start, shard.stop)
        new = [row for row in wanted if row not in kept]
        target = {"target": np.arange(shard.start, shard.stop, dtype=np.int64)}
        if not new:
            return lambda: {**target, **_stacked([kept[row] for row in wanted])}
        done = pipeline.invert(new, shard.capacity)
        made = {name: leaving(getattr(done, name)) for name in INVERTED}

        def arrived() -> Rows:
            columns = {name: arrive().numpy() for name, arrive in made.items()}
            fresh = ({name: values[i] for name, values in columns.items()} for i in range(len(new)))
            return {**target, **_stacked([kept.get(row) or next(fresh) for row in wanted])}

        return arrived

    return lambda shard: partial(rows, shard)


def _stacked(rows: Sequence[Rows]) -> Rows:
    return {name: np.stack([row[name] for row in rows]) for name in INVERTED}


def sample_rows(run: RunStore, pipeline: Pipeline) -> Callable[[Shard], Begun]:
    """Rows of the data set: one shard of samples, in physical units.

    A shard is stored with its full capacity, the last one too: so a run grows by new shards alone.
    """
    sampler = load_sampler(run, pipeline)

    def begin(shard: Shard) -> Begun:
        seeds = SeedRange(pipeline.root, shard.start, shard.start + shard.capacity)
        return partial(rows, sampler.drawn(seeds))

    def rows(drawn: Drawn) -> Pending:
        made, seeds = sampler.decoded(drawn), drawn.seeds
        distance, maps = leaving(made.aim_distance), leaving(made.maps)
        made_of = {
            "sources": made.sources.numpy().astype(np.int32),
            "source_weights": made.source_weights.numpy().astype(np.float32),
        }
        return lambda: {
            "sample": np.arange(seeds.start, seeds.stop, dtype=np.int64),
            "maps": pipeline.physical(maps()),
            "attempts": made.attempts.numpy().astype(np.int16),
            "parents": made.parents.numpy().astype(np.int32),
            "aim_distance": distance().numpy().astype(np.float32),
            "refusals": made.refusals.numpy().astype(np.int16),
            **(made_of if made.sources.shape[1] else {}),
        }

    return begin


ROWS: dict[ShardedStage, Callable[[RunStore, Pipeline], Callable[[Shard], Begun]]] = {
    "calibrate": calibration_rows,
    "invert": inversion_rows,
    "generate": sample_rows,
}
"""What turns a shard into rows, for every sharded stage."""


def load_sampler(run: RunStore, pipeline: Pipeline) -> Sampler:
    """The sampler of a run whose prior is fitted."""
    prior, geometry = read_prior(run.root / PRIOR)
    limit, below = pipeline.method.round_trip_limit, pipeline.coarse
    coarse = None if below is None else load_sampler(run.coarse, below)
    held = held_latents(run, pipeline.targets, limit)
    return Sampler(pipeline, prior, geometry, *held, coarse)


def statistics_rows(table: ShardWriter, pipeline: Pipeline) -> Callable[[Rows], Rows] | None:
    """Rows of the statistics of a shard of samples; None where the table is of other ones.

    They are measured on the maps as they are stored, so that they can be measured again.
    """
    targets = pipeline.targets
    extractor = feature_extractor(targets)
    if not measured(table.attributes, extractor):
        return None
    return lambda rows: extracted_rows(extractor, targets, rows)
