"""What a run would cost: its own parts, tried at three time indices and on one batch.

Nothing is assumed of how a network or a statistic scales with the size of maps: the run's own
functions are called, on its targets and with its random numbers. So at the time indices that are
tried the experts are those of the run, and how often the base will be called is known but for the
indices between, which are taken to be like the nearest. Nothing is written.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event, Thread
from typing import Any, final

import joblib
import torch
from psutil import Process, virtual_memory

from actors.loading import NUMBERS, set_numbers
from flows.runs.planning import INVERSION_SHARD, WORK, inspect_inputs, shard_plans
from flows.runs.worker_pool import worker_count
from flows.settings import RunSettings
from ood_core.arrays import Maps
from ood_core.config.identity import digest, identity_record
from ood_core.config.method import Method
from ood_core.diffusion.denoiser import further
from ood_core.diffusion.sampling import evaluations_per_target
from ood_core.maps.paths import BOTH
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel, load_model
from ood_core.numerics.random import SeedRange, normal, root_key
from ood_core.store.plan import ShardPlan
from ood_core.store.schema import ShardedStage
from ood_core.store.statistics import feature_extractor
from ood_core.synthesis.pipeline import (
    Calibrator,
    ExpertPlan,
    PatchMixtures,
    Pipeline,
    choose_device,
    coarse_method,
    fit_mixtures,
    fit_prior_of,
    time_grid,
)
from ood_core.synthesis.preference import sample_evaluations
from ood_core.synthesis.sampler import Sampler

TRIED = 3  # time indices, at even places of the grid
PROBE_ROWS = 16
BATCHES = (1, 4, PROBE_ROWS, 64)
TICK = 0.005  # seconds from one look at the memory to the next
LEAST_SECONDS = 1.0  # of a measurement that is repeated: short ones vary by a quarter


@final
@dataclass(frozen=True, slots=True)
class Meter:
    """Seconds of blocks of work by name, and the memory of this process before and at its peak.

    On a CPU, seconds are those that threads were at work, over their number: what a block would
    take on a machine that has nothing else to do.
    """

    device: torch.device
    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, times: int = 1) -> Iterator[None]:
        """Measure a block that does a piece of work so many times."""
        process, over = Process(), Event()
        self.before[name] = self.peak[name] = process.memory_info().rss

        def look() -> None:
            self.peak[name] = max(self.peak[name], process.memory_info().rss)

        def watch() -> None:
            while not over.wait(TICK):
                look()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        began = self._now()
        try:
            yield
        finally:
            self.seconds[name] = (self._now() - began) / times
            look()
            over.set()
            watcher.join()

    def call(self, name: str, work: Callable[[], Any]) -> None:
        """Measure a piece of work after a first time, and repeat it where it is short."""
        work()
        with self(name):
            work()
        if (took := self.seconds[name]) < LEAST_SECONDS:
            times = min(10, math.ceil(LEAST_SECONDS / max(took, 1e-3)))
            with self(name, times):
                for _ in range(times):
                    work()

    def grown(self, name: str, rows: float) -> int:
        """Peak bytes of a block with so many times as many maps."""
        return self.before[name] + int(rows * (self.peak[name] - self.before[name]))

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time() / self.threads
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What was found, in seconds of one worker and bytes.

    Attributes:
        patches: fitting the mixtures of patches, on all CPUs.
        calibrate: calibrating each time index.
        prior: fitting the prior.
        build: until a worker of a stage can begin.
        denoise: the denoiser without steering at each time index, per map.
        calls: of the bases by each of these.
        steer: what steering adds to one of them, per map.
        other: drawing latents and aims, and measuring samples, per map.
        memory: most that a worker takes.
        per_map: what its memory grows by with every map of a batch.
    """

    patches: float
    calibrate: tuple[float, ...]
    prior: float
    build: dict[ShardedStage, float]
    denoise: tuple[float, ...]
    calls: tuple[int, ...]
    steer: float
    other: float
    memory: int
    per_map: int


def estimate_cost(settings: RunSettings) -> dict[str, Any]:
    """Evaluations, seconds, bytes, shards and memory of a run; nothing is written.

    Evaluations of the network per stage are what it takes if no expert is pruned. Seconds are
    those of a machine that has nothing else to do, from the first calibration to the last sample:
    evaluation and report come on top.
    """
    targets, model, method = inspect_inputs(settings)
    execution, fit, shape = settings.execution, targets.fit_count, targets.shape
    device = choose_device(execution.device)
    set_numbers(device, execution.number_type)
    number = NUMBERS[execution.number_type]
    model = load_model(settings.base, device, number, execution.max_base_bytes)
    workers, share = worker_count(execution), min(1.0, execution.gpus_per_worker)
    samples, shard = settings.generation.samples, settings.generation.shard_size
    row_bytes, plans = 4 * math.prod(shape), shard_plans(settings, method, fit)
    before = torch.get_num_threads()
    torch.set_num_threads(execution.cpus_per_worker)
    try:
        by_batch = network_seconds(model, targets, method, device)
        trial = tried(settings, targets, model, method)
        below: Trial | None = None
        if method.factor > 1:
            below = tried(settings, targets.coarsened(method.factor), model, coarse_method(method))
    finally:
        torch.set_num_threads(before)
    per_map, calls = seconds_per_map(trial, model, method), calls_per_map(trial, method)
    coarse: dict[str, float] = {}
    if below is not None:
        own, steer = coarse_method(method), method.steer
        ways = method.candidates if steer is not None and steer.wishes else 1
        per_map += ways * seconds_per_map(below, model, own)
        calls += ways * calls_per_map(below, own)
        coarse = stage_seconds(below, {**plans, "generate": ShardPlan(0, 1)}, own, 0.0, workers)
    stages = stage_seconds(trial, plans, method, per_map, workers)
    stages["calibrate"] += sum(coarse.values())
    return {
        "targets": {"fit": fit, "held_out": len(targets) - fit, "shape": list(shape)},
        "network_evaluations_at_most": evaluations(settings, method, fit),
        "network_evaluations_per_map": round(calls, 1),
        "network_seconds_per_map": by_batch[PROBE_ROWS],
        **({"network_seconds_per_map_by_batch": by_batch} if len(by_batch) > 1 else {}),
        "seconds_per_map": per_map,
        "stage_seconds": stages,
        "workers": workers,
        "seconds": sum(stages.values()),
        "dataset_bytes": samples * row_bytes,
        "shards": {stage: len(plan) for stage, plan in plans.items()},
        "shard_bytes": shard * row_bytes,
        "device": str(device),
        "shard_size": shard,
        "micro_batch": min(shard, room(device, trial.per_map, workers, share)),
        "memory_bytes_per_worker": max(trial.memory, below.memory if below else 0),
        "memory_available_bytes": virtual_memory().available,
    }


def tried(settings: RunSettings, targets: TargetSet, model: BaseModel, method: Method) -> Trial:
    """Calibrate at a few time indices, then denoise, steer and measure one batch."""
    record = identity_record(targets.record(), model.digest, method, settings.generation.seed)
    identity, codes = digest(record), model.codes
    root, symmetries = root_key(identity), targets.symmetries
    seen = targets.encoded(codes and codes.encode)
    meter = Meter(model.device, settings.execution.cpus_per_worker)
    pipeline, places = _calibrated(meter, model, seen, method, identity)
    grid = pipeline.timesteps.tolist()
    nearest = [min(places, key=lambda j: abs(i - j)) for i in range(len(grid))]
    white = normal(SeedRange(root, 0, len(seen.fit_seen)), seen.fit_seen.shape[1:])
    with meter("prior"):  # of white noise, which is what latents are nearly
        fitted = fit_prior_of(method, white, symmetries, identity)
    feature_extractor(targets)  # a first one imports and compiles, which runs do when planned
    with meter("sampler"):
        sampler = Sampler(pipeline, fitted.prior, fitted.geometry, white, range(len(white)))
        extractor = feature_extractor(targets)
        extractor.extract(targets.fit_ranged[:1])  # features of the targets are kept
    rows = min(PROBE_ROWS, settings.generation.shard_size)
    seeds, calls = SeedRange(root, 0, rows), {}
    drawn = sampler.drawn(seeds)
    meter.call("draw", lambda: sampler.drawn(seeds))
    steered, plain = sampler.denoiser(seeds), pipeline.denoiser(drawn.labels)
    x = drawn.draws.latents.to(model.device)
    for i in places:
        calls[i] = -pipeline.base.nfe
        plain(x, grid[i])
        calls[i] = (calls[i] + pipeline.base.nfe) // rows
        meter.call(f"denoise {i}", partial(plain, x, grid[i]))
    meter.call("steer", lambda: steered(x, grid[places[0]]))
    maps = targets.fit_ranged[torch.arange(rows) % len(white)]
    meter.call("measure", lambda: extractor.extract(maps))
    seconds, batch = meter.seconds, max(settings.generation.shard_size, INVERSION_SHARD)
    denoise = [f"denoise {i}" for i in places]
    memory = [
        *meter.peak.values(),
        *(meter.grown(name, batch / rows) for name in (*denoise, "measure")),
    ]
    build = dict.fromkeys(WORK, seconds["pipeline"])
    build["calibrate"] += seconds.get("folds", 0.0)
    build["generate"] += seconds["sampler"]
    return Trial(
        patches=seconds["patches"] * meter.threads / joblib.cpu_count(),
        calibrate=tuple(seconds.get(f"calibrate {i}", 0.0) for i in nearest),
        prior=seconds["prior"],
        build=build,
        denoise=tuple(seconds[f"denoise {i}"] / rows for i in nearest),
        calls=tuple(calls[i] for i in nearest),
        steer=max(0.0, seconds["steer"] - seconds[denoise[0]]) / rows,
        other=(seconds["draw"] + seconds["measure"]) / rows,
        memory=max(memory),
        per_map=max(1, *((meter.peak[name] - meter.before[name]) // rows for name in denoise)),
    )


def _calibrated(
    meter: Meter, model: BaseModel, seen: TargetSet, method: Method, identity: str
) -> tuple[Pipeline, list[int]]:
    """The pipeline of a run, calibrated at a few places of its grid, and these."""
    plan: ExpertPlan | None = None
    mixtures: tuple[PatchMixtures, PatchMixtures, PatchMixtures] = ((), (), ())
    spec, symmetries = method.calibration, seen.symmetries
    with meter("patches"):
        if spec is not None:
            plan = ExpertPlan.of(seen.fit_seen, symmetries, spec, len(model.each))
            mixtures = fit_mixtures(seen.fit_seen, spec, symmetries, identity)
    with meter("pipeline"):
        pipeline = Pipeline.of(
            model, seen, method, root_key(identity), model.device, plan=plan, patches=mixtures[0]
        )
    grid = pipeline.timesteps.tolist()
    places = sorted({int((i + 0.5) / TRIED * len(grid)) for i in range(TRIED)})
    if spec is None:
        return pipeline, places
    with meter("folds"):
        calibrator = Calibrator(pipeline, mixtures[1:])
    found = {}
    for i in places:
        with meter(f"calibrate {i}"):
            found[grid[i]] = calibrator.weights_at(grid[i])
    return pipeline.calibrated(calibrator.weights(found)), places


def seconds_per_map(trial: Trial, model: BaseModel, method: Method) -> float:
    """Seconds of one worker for one sample, statistics included."""
    spec, schedule = method.steering, model.denoiser.schedule
    grid = time_grid(schedule, method).tolist()
    steered = sum(spec is not None and schedule.noise_to_signal(t) <= spec.sigma_max for t in grid)
    denoised = sum(trial.denoise) + steered * trial.steer
    return times_evaluated(method, len(grid)) * denoised + trial.other


def calls_per_map(trial: Trial, method: Method) -> float:
    """Calls of the bases for one sample, its coarse map apart."""
    return times_evaluated(method, len(trial.calls)) * sum(trial.calls)


def times_evaluated(method: Method, grid: int) -> float:
    """How often a sample is denoised at each index of the grid, in the mean."""
    return sample_evaluations(replace(method, pyramid=1)) / grid


def stage_seconds(
    trial: Trial,
    plans: dict[ShardedStage, ShardPlan],
    method: Method,
    per_map: float,
    workers: int,
) -> dict[str, float]:
    """Wall seconds of every stage up to the last sample."""
    target = sum(trial.denoise) / len(trial.denoise)
    target *= evaluations_per_target(method.steps, method.fixed_point_iterations)
    row = {"calibrate": sum(trial.calibrate) / len(trial.calibrate), "invert": target}
    seconds = {}
    for stage, plan in plans.items():
        rounds = math.ceil(len(plan) / workers)
        work = rounds * plan.shard_rows * row.get(stage, per_map)
        seconds[str(stage)] = work + (trial.build[stage] if plan.rows else 0.0)
    seconds["calibrate"] += trial.patches
    return {**seconds, "fit": trial.prior}


def network_seconds(
    model: BaseModel, targets: TargetSet, method: Method, device: torch.device
) -> dict[int, float]:
    """Seconds of all bases per map; on a GPU at several batches, of which one is the fastest."""
    probe = torch.zeros(PROBE_ROWS, *model.code_shape(targets.shape), device=device)
    shown = model.show(targets.fit_ranged, root=0)
    asked = [shown, *((one,) for one in further(shown))]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def network(x: Maps) -> Maps:
        t = method.ends[1] // 2
        return sum((model.denoiser(x, t, *one) for one in asked), torch.zeros_like(x))

    found = {}
    for rows in BATCHES if device.type == "cuda" else (PROBE_ROWS,):
        x = probe.repeat(-(-rows // PROBE_ROWS), 1, 1, 1)[:rows]
        meter = Meter(device, torch.get_num_threads())
        meter.call("network", partial(network, x))
        found[rows] = meter.seconds["network"] / (rows * len(asked))
    return found


def room(device: torch.device, map_bytes: int, workers: int, share: float = 1.0) -> int:
    """Samples that a worker's memory has room for at once, of what is free now; 1 or more.

    On a GPU, of which a worker has a `share`, by the peak of the probe, of `max(BATCHES)` maps; on
    a CPU by the bytes that a map of a batch takes.
    """
    if device.type != "cuda":
        return max(1, int(virtual_memory().available) // (workers * map_bytes))
    free, _ = torch.cuda.mem_get_info(device)
    held, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return max(1, int(share * free * max(BATCHES) / max(1, peak - held)))


def evaluations(settings: RunSettings, method: Method, fit: int) -> dict[str, int]:
    """Network evaluations per stage, as the receipts will count them.

    An upper bound: calibration may leave the base out at some timesteps, which it measures first.
    Of several bases each is evaluated.
    """
    plans, bases = shard_plans(settings, method, fit), len(settings.base.split(BOTH))
    return {
        stage: bases * work.evaluations(plans[stage], method, fit) for stage, work in WORK.items()
    }
