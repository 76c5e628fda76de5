"""The network's number type: as asked, or `fastest`, settled when the run is planned.

`fastest` takes bfloat16 where this device gains by it and the estimates stay what they are on
noised targets at every level; else float32, and a line says why. The plan keeps the choice, since
one set is never of two types.
"""

import time

import torch

from actors.line import choose_device, time_grid
from flows.progress import listener
from flows.settings import RunSettings
from ood_core.maps.target_set import TargetSet
from ood_core.method import Method
from ood_core.models.loading import load_base
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.models.rounding import rounding_share
from ood_core.store.run import RunStore

TOLERANCE = 0.1
"""Most that rounding may be of the error of an estimate, at any level."""
GAIN = 1.1
"""Least gain in speed that is worth it."""
PROBE = 16
TURNS = 3


def settle_type(settings: RunSettings, targets: TargetSet, method: Method, run: RunStore) -> str:
    """The number type of a run that is asked for: that of the plan, where there is one."""
    execution = settings.execution
    if execution.dtype != "fastest":
        return execution.number_type
    if run.exists:
        return run.dtype
    began = time.monotonic()
    chosen, why = probe(settings, targets, method)
    listener.get().end("probe", time.monotonic() - began, f"{chosen}: {why}")
    return chosen


def probe(settings: RunSettings, targets: TargetSet, method: Method) -> tuple[str, str]:
    """The fastest type whose estimates stay within the tolerance, and why it was taken."""
    device = choose_device(settings.execution.device)
    base = load_base(settings.base, device, max_bytes=settings.execution.max_base_bytes)
    exact, narrow = base.denoiser, base.denoiser.in_type(torch.bfloat16)
    seen = targets.fit_ranged[:PROBE]
    x0 = seen if base.codes is None else base.codes.encode(seen)
    x0 = x0.to(device)
    grid = [int(t) for t in time_grid(exact.schedule, method)]
    gain = _seconds(exact, x0, grid[-1]) / _seconds(narrow, x0, grid[-1])
    if gain < GAIN:
        return "float32", f"bfloat16 is {gain:.2f} times as fast on this device"
    share = rounding_share(exact, narrow, x0, grid)
    if share > TOLERANCE:
        return (
            "float32",
            f"bfloat16 adds {share:.2f} of the error of an estimate, above {TOLERANCE}",
        )
    return "bfloat16", f"{gain:.2f} times as fast as float32, rounding {share:.3f} of the error"


def _seconds(denoiser: PretrainedDenoiser, x: torch.Tensor, t: int) -> float:
    """Least seconds of a call, after one to warm up."""
    taken = []
    for _ in range(TURNS + 1):
        began = time.perf_counter()
        float(denoiser(x, t).sum())  # waits for the device
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
