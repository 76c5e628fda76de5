"""Seconds and peak memory of fitting each kind of prior to many large latents, one process each.

python -m benchmarks.priors --targets 1000 --shape 3 256 256
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import get_args

import numpy as np
import torch

from ood_core.arrays import Maps
from ood_core.config.method import PriorKind
from ood_core.config.targets import Symmetry
from ood_core.estimators.prior import fit_gaussian
from ood_core.numerics.covariance import filtered, wavenumbers

MIB = 1024  # getrusage counts KiB on Linux
COLUMNS = ("kind", "seconds", "CPU seconds", "peak MiB", "of it latents", "score", "found")


def synthetic(targets: int, shape: list[int], factors: int = 3, seed: int = 0) -> Maps:
    """Latents of a red spectrum with a smooth mean and a few smooth factors, in one array."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(targets, *shape, generator=generator)
    gain = (1 + 1 / (0.02 + wavenumbers(*shape[1:]))) ** 0.25
    smooth = (wavenumbers(*shape[1:]) < 4 / min(shape[1:])).float() * min(shape[1:]) / 4
    extra = filtered(torch.randn(factors + 1, *shape, generator=generator), smooth)
    weights = torch.randn(targets, factors, generator=generator)
    for row in range(targets):
        made = filtered(latents[row : row + 1], gain)[0]
        latents[row] = made + torch.tensordot(weights[row], extra[1:], dims=1) + extra[0]
    return latents


def measure(kind: PriorKind, file: str, symmetries: list[Symmetry]) -> None:
    """Fit in this process and print one line of JSON."""
    latents = torch.from_numpy(np.load(file))
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    prior = fit_gaussian(latents, kind, symmetries)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {
        "kind": kind,
        "seconds": f"{seconds:.1f}",
        "CPU seconds": f"{used:.1f}",
        "peak MiB": str(round(after.ru_maxrss / MIB)),
        "of it latents": str(round(4 * latents.numel() / 2**20)),
        "score": f"{prior.held_out_log_density:.5f}",
        "found": prior.description,
    }
    print(json.dumps(row))


def alone(arguments: list[str]) -> dict[str, str]:
    """Run this script in a process of its own and read its line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.priors", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        return {"found": f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    row: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return row


def show(columns: tuple[str, ...], row: dict[str, str]) -> None:
    """Print one row of a Markdown table."""
    print("| " + " | ".join(row.get(column, "") for column in columns) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 256, 256])
    parser.add_argument("--symmetries", nargs="*", default=["flip", "rotate90"])
    parser.add_argument("--kinds", nargs="*", default=list(get_args(PriorKind)))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone:
        measure(*given.alone, given.symmetries)
        return
    show(COLUMNS, {column: column for column in COLUMNS})
    show(COLUMNS, dict.fromkeys(COLUMNS, "---"))
    passed = [f"--threads={given.threads}", "--symmetries", *given.symmetries]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/latents.npy"
        np.save(file, synthetic(given.targets, given.shape).numpy())
        for kind in given.kinds:
            show(COLUMNS, {"kind": kind, **alone([*passed, "--alone", kind, file])})


if __name__ == "__main__":
    main()
