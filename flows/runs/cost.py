"""What a run would cost: counted evaluations times speeds measured in a probe of two batches."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from psutil import virtual_memory

from flows.runs.planning import INVERSION_SHARD, WORK, inspect_inputs, shard_plans
from flows.runs.worker_pool import worker_count
from flows.settings import RunSettings
from ood_core.arrays import Maps, on_device
from ood_core.config.method import Method
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.statistics import Statistics
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import further
from ood_core.diffusion.patches import PatchDenoiser, PatchMixture
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.patches import patch_shapes, patch_stride
from ood_core.maps.paths import BOTH
from ood_core.models.loading import load_model
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange, normal
from ood_core.numerics.symmetry import orbit_size
from ood_core.synthesis.pipeline import choose_device, time_grid

PROBE_ROWS = 16
BATCHES = (1, 4, PROBE_ROWS, 64)
WORKING_COPIES = 400
"""Maps held per sample while decoding: network activations and wavelet responses with gradients."""


def estimate_cost(settings: RunSettings) -> dict[str, Any]:
    """Evaluations, seconds, bytes, shards and memory of a run; nothing is written."""
    targets, model, method = inspect_inputs(settings)
    fit, shape = targets.fit_count, targets.shape
    counts = evaluations(settings, method, fit)
    probe = torch.zeros(PROBE_ROWS, *model.code_shape(shape))
    device = choose_device(settings.execution.device)
    most = settings.execution.max_base_bytes
    base = load_model(settings.base, device, max_bytes=most)
    denoiser, shown = base.denoiser, base.show(targets.fit_ranged, root=0)
    probe = probe.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    asked = [shown, *((one,) for one in further(shown))]

    def network_of(x: Maps) -> Maps:
        return sum((denoiser(x, method.ends[1] // 2, *one) for one in asked), torch.zeros_like(x))

    by_batch = {rows: s / len(asked) for rows, s in _by_batch(network_of, probe).items()}
    network = by_batch[PROBE_ROWS]
    steering = _steering_seconds(method, probe, denoiser.schedule)
    patches = _patch_seconds(method, probe, denoiser.schedule)
    workers = worker_count(settings.execution)
    samples = settings.generation.samples
    seconds = (sum(counts.values()) * (network + patches) + samples * steering) / workers
    row_bytes, share = 4 * math.prod(shape), min(1.0, settings.execution.gpus_per_worker)
    plans = shard_plans(settings, method, fit)
    return {
        "targets": {"fit": fit, "held_out": len(targets) - fit, "shape": list(shape)},
        "network_evaluations": counts,
        "network_seconds_per_map": network,
        "network_seconds_per_map_by_batch": by_batch,
        "best_batch": min(by_batch, key=lambda rows: by_batch[rows]),
        "patches_seconds_per_map": patches,
        "steering_seconds_per_map": steering,
        "workers": workers,
        "seconds": seconds,
        "dataset_bytes": samples * row_bytes,
        "shards": {stage: len(plan) for stage, plan in plans.items()},
        "shard_bytes": settings.generation.shard_size * row_bytes,
        "device": str(device),
        "shard_size": settings.generation.shard_size,
        "micro_batch": min(settings.generation.shard_size, room(device, row_bytes, workers, share)),
        "memory_bytes_per_worker": _memory(model.parameters, fit, settings, row_bytes),
        "memory_available_bytes": virtual_memory().available,
    }


def room(device: torch.device, row_bytes: int, workers: int, share: float = 1.0) -> int:
    """Samples that a worker's memory has room for at once, of what is free now; 1 or more.

    On a GPU, of which a worker has a `share`, by the peak of the probe, of `max(BATCHES)` maps; on
    a CPU by `WORKING_COPIES`.
    """
    if device.type != "cuda":
        return max(1, int(virtual_memory().available) // (workers * WORKING_COPIES * row_bytes))
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


def _seconds_per_map(call: Callable[[Maps], Maps], x: Maps) -> float:
    call(x).cpu()  # warm-up, the first batch
    began = time.perf_counter()
    call(x).cpu()  # waits for a GPU
    return (time.perf_counter() - began) / len(x)


def _by_batch(call: Callable[[Maps], Maps], probe: Maps) -> dict[int, float]:
    """Seconds per map at several batches; the shard size of a run is its batch."""
    repeats = max(BATCHES) // len(probe)
    many = probe.repeat(repeats, 1, 1, 1)
    return {rows: _seconds_per_map(call, many[:rows]) for rows in BATCHES}


def _steering_seconds(method: Method, probe: Maps, schedule: NoiseSchedule) -> float:
    """Seconds of steering per map over the whole decode."""
    spec = method.steering
    if spec is None:
        return 0.0
    device, seeds = probe.device, SeedRange(0, 0, len(probe))
    statistics, noise = (
        Statistics(probe.shape[-2], spec.radial_bins, probe.shape[-1]),
        normal(seeds, probe.shape[1:]),
    )
    aims = StatisticAims.measure(statistics, noise, (), 1).to(device)
    white = on_device(isotropic(1.0, tuple(probe.shape[1:])), device)
    statistics, noise = statistics.to(device), noise.to(device)
    inner = GaussianDenoiser(schedule, noise[0], white)
    steered = SteeredDenoiser(inner, statistics, aims.values, aims, spec, seeds)
    timesteps = [int(t) for t in time_grid(schedule, method)]
    steered_at = [t for t in timesteps if schedule.noise_to_signal(t) <= spec.sigma_max]
    if not steered_at:
        return 0.0
    return _seconds_per_map(lambda x: steered(x, steered_at[0]), noise) * len(steered_at)


def _patch_seconds(method: Method, probe: Maps, schedule: NoiseSchedule) -> float:
    """Seconds that the mixtures of patches add to one evaluation of the network."""
    spec = method.calibration
    if spec is None or not spec.patches:
        return 0.0
    count, seconds = spec.patches, 0.0
    for side, scale in patch_shapes(*probe.shape[1:]):
        size = probe.shape[1] * side**2
        mixture = PatchMixture(
            weights=torch.full((count,), 1 / count),
            means=torch.zeros(count, size),
            values=torch.ones(count, size),
            vectors=torch.eye(size).expand(count, -1, -1),
            side=side,
            scale=scale,
            stride=patch_stride(side),
        )
        denoiser = PatchDenoiser(schedule, mixture).to(probe.device)
        seconds += _seconds_per_map(partial(denoiser, t=method.ends[1] // 2), probe)
    return seconds


def _memory(parameters: int, fit: int, settings: RunSettings, row_bytes: int) -> int:
    """Weights, targets with their symmetric images in float64, and a shard's working copies."""
    images = fit * orbit_size(settings.targets.symmetries)
    batch = max(settings.generation.shard_size, INVERSION_SHARD)
    return 4 * parameters + 2 * images * 2 * row_bytes + WORKING_COPIES * batch * row_bytes
