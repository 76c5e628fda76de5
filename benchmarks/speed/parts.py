"""Small parts beside a decode: drawing, storing, and the starts of what is underneath."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec

from actors.loading import load_pipeline
from actors.workers import sample_rows
from benchmarks.record import FOLDER, Figure
from benchmarks.speed.network import in_turns
from flows.settings import PROJECT, load_settings
from ood_core.numerics.random import SeedRange
from ood_core.store.fitted import read_prior
from ood_core.store.plan import Shard
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.targets import read_latents
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import draw

ROWS = 16
MANY = 640
CODECS = {
    "uncompressed": None,
    "lz4": BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"),
    "zstd": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
}
STARTS = {
    "--help": "import sys; sys.argv = ['farfield', '--help']; "
    "from flows.cli.main import main; main()",
    "imports of a worker": "import actors.workers, diffusers.models.unets.unet_2d",
    "Ray": "from actors.ray_pool import connect; connect(2)",
    "Prefect": (
        "from prefect import flow\n@flow(persist_result=False)\ndef nothing(): pass\nnothing()"
    ),
    "Python": "pass",
}


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Shares of a decode, and seconds of starts."""
    settings = load_settings(PROJECT / arguments.config)
    run = RunStore.open(str(FOLDER / "run"))
    pipeline = load_pipeline(run, settings.base, "cpu", run.dtype)
    rows = sample_rows(run, pipeline)
    prior, geometry = read_prior(run.root / PRIOR)
    latents = read_latents(run)
    sampler = latent_sampler(pipeline.method.draw, prior, latents)
    maps = rows(Shard(0, 0, ROWS, ROWS))()()["maps"]
    many = np.concatenate([maps] * (MANY // ROWS))
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "decode": lambda: rows(Shard(0, 0, ROWS, ROWS))()(),
            "draw": lambda: draw(sampler, SeedRange(pipeline.root, 0, MANY), geometry, latents),
            **{
                name: lambda n=name, c=codec: write(Path(folder) / n, many, c)
                for name, codec in CODECS.items()
            },
        }
        taken = in_turns(calls, arguments.repeats, torch.device("cpu"))
        sizes = {name: _bytes(Path(folder) / name) / many.nbytes for name in CODECS}
    per_map = [s / ROWS for s in taken.pop("decode")]
    figures = {
        f"{name} over decode": Figure.of(
            [s / MANY / d for s, d in zip(seconds, per_map, strict=True)], higher_is_better=False
        )
        for name, seconds in taken.items()
    }
    starts = {
        name: [_start(code) for _ in range(arguments.repeats)] for name, code in STARTS.items()
    }
    for name, pairs in starts.items():
        for clock, number in (("seconds", 0), ("CPU seconds", 1)):
            values = [pair[number] for pair in pairs]
            figures[f"start of {name}, {clock}"] = Figure.of(
                values, ratio=False, higher_is_better=False
            )
    return figures, {"stored_over_raw": sizes}


def write(folder: Path, maps: np.ndarray, codec: BloscCodec | None) -> None:
    """Store maps as a run does, in shards of 64."""
    array = zarr.create_array(
        store=str(folder), shape=maps.shape, dtype=maps.dtype, overwrite=True,
        chunks=(64, *maps.shape[1:]), shards=(64, *maps.shape[1:]), compressors=codec,
    )  # fmt: skip
    for start in range(0, len(maps), 64):
        array[start : start + 64] = maps[start : start + 64]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _start(code: str) -> tuple[float, float]:
    """Wall and CPU seconds of a process that does so much; those it leaves behind not counted."""
    import resource

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call = [sys.executable, "-c", code]
    subprocess.run(call, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu
