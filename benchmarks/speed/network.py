"""The network itself: FLOP/s over the matrix product of this machine, layouts, types, batches."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import Figure
from flows.settings import PROJECT, load_settings
from ood_core.models.loading import load_model
from ood_core.synthesis.pipeline import choose_device

BATCHES = (1, 4, 16, 64)
SIDE = 1024
INDEX = 500


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call: of this process on a CPU, however busy it is; of the wall on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def in_turns(
    calls: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, in turns, after one round of warming up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            took = seconds(call, device)
            if turn:
                taken[name].append(took)
    return taken


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Share of the peak, gains of layout and type, and seconds per map by batch."""
    settings = load_settings(PROJECT / arguments.config)
    device = choose_device(settings.execution.device)
    base = load_model(settings.base, device)
    network = base.denoiser.network
    maps = torch.randn(max(BATCHES), base.channels, base.size, base.size, device=device)
    matrix = torch.randn(SIDE, SIDE, device=device)
    half = matrix.bfloat16()
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: [matrix @ matrix for _ in range(8)],
        "product bfloat16": lambda: [half @ half for _ in range(8)],
    }
    for batch in BATCHES:
        calls[f"batch {batch}"] = lambda n=batch: [
            base.denoiser(x, INDEX) for x in maps.split(n)[: max(1, 64 // n // 4)]
        ]
    narrow = load_model(settings.base, device, torch.bfloat16)
    calls["bfloat16"] = lambda: narrow.denoiser(maps, INDEX)
    plain = load_model(settings.base, device).denoiser
    plain.network.to(memory_format=torch.contiguous_format)
    calls["channels first"] = lambda: plain(maps, INDEX)
    taken = in_turns(calls, arguments.repeats, device)
    with FlopCounterMode(display=False) as counter:
        network(maps[:1], INDEX)
    flops = counter.get_total_flops()
    peak = [8 * 2 * SIDE**3 / s for s in taken["product"]]
    best = [64 * flops / s for s in taken["batch 64"]]
    per_map = {n: [s / (n * max(1, 64 // n // 4)) for s in taken[f"batch {n}"]] for n in BATCHES}
    figures = {
        "share of the matrix product's FLOP/s": Figure.of(
            [b / p for b, p in zip(best, peak, strict=True)]
        ),
        "channels last over channels first": Figure.of(
            _quotients(taken["channels first"], taken["batch 64"])
        ),
        "bfloat16 over float32": Figure.of(_quotients(taken["batch 64"], taken["bfloat16"])),
        "bfloat16 product over float32": Figure.of(
            _quotients(taken["product"], taken["product bfloat16"])
        ),
        "batch 64 over one by one": Figure.of(_quotients(per_map[1], per_map[64])),
    }
    more = {
        "gflop_per_map_and_call": flops / 1e9,
        "peak_gflops": Figure.of(peak).value / 1e9,
        "milliseconds_per_map": {n: 1000 * Figure.of(s).value for n, s in per_map.items()},
        "best_batch": min(BATCHES, key=lambda n: Figure.of(per_map[n]).value),
        "device": str(device),
    }
    return figures, more


def _quotients(slow: list[float], fast: list[float]) -> list[float]:
    return [a / b for a, b in zip(slow, fast, strict=True)]
