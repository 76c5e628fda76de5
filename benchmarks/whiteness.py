"""Are latents of held-out targets N(0, I)? Through the calibrated denoiser and through the base.

    python -m benchmarks.whiteness runs/hubble runs/sun --out runs/whiteness [--count 64] [--noised]

Held-out targets of each calibrated run are inverted twice with the run's own timesteps and
iterations; white noise stands beside them. A run takes a clean map as the point at the grid's
first timestep; with `--noised` its noise is added to it, as a denoiser expects there.

`power` is the mean square of a latent's entries; `octaves` the mean over octaves of wavenumber of
|ln(power)|, `mean image` the mean square of the mean latent times the number of latents (1 for
white ones), `kurtosis` the median excess of a latent's entries. `deviation` is the root mean
square, over latents and over these features of one latent (log powers of octaves, mean, skewness,
kurtosis), of their distance from white noise in its own standard deviations: 1 for white noise.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from actors.loading import load_pipeline
from benchmarks.nfe import say
from ood_core.arrays import Latents, Maps
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import Inversion, invert
from ood_core.metrics.spectra import power_spectrum
from ood_core.numerics.covariance import wavenumbers
from ood_core.numerics.random import SeedRange, normal, root_key
from ood_core.store.run import RunStore
from ood_core.synthesis.pipeline import Pipeline

HEADER = (
    "targets", "latents through", "power", "its spread", "octaves", "mean image", "kurtosis",
    "deviation", "round trip dB, median and least",
)  # fmt: skip
WHITE = 512  # draws that say what white noise has
AT_ONCE = 16


def octaves(latents: Latents) -> Tensor:
    """Mean power per latent and octave of wavenumber, channels together; 1 for white noise."""
    power = torch.fft.fft2(latents.double(), norm="ortho").abs().square().mean(dim=1)
    cycles = wavenumbers(*latents.shape[-2:]) * min(latents.shape[-2:])
    number = cycles.clamp(min=1).log2().floor()  # the last one reaches to the corners
    return torch.stack([power[:, number == n].mean(1) for n in number.unique()], 1)


def features(latents: Latents) -> Tensor:
    """Numbers of every latent whose distribution under N(0, I) is known by drawing."""
    flat = latents.double().flatten(1)
    mean, spread = flat.mean(1, keepdim=True), flat.std(1, keepdim=True)
    standard = (flat - mean) / spread
    moments = [mean[:, 0], standard.pow(3).mean(1), standard.pow(4).mean(1) - 3]
    return torch.cat([octaves(latents).log(), torch.stack(moments, 1)], 1)


def row(latents: Latents, white: Tensor) -> list[str]:
    """The numbers of a set of latents."""
    power = latents.double().square().flatten(1).mean(1)
    found = features(latents)
    gap = (found - white.mean(0)) / white.std(0)
    image = len(latents) * float(latents.double().mean(0).square().mean())
    values = (
        float(power.mean()), float(power.std()), float(octaves(latents).mean(0).log().abs().mean()),
        image, float(found[:, -1].median()), float(gap.square().mean().sqrt()),
    )  # fmt: skip
    return [f"{value:.3g}" for value in values]


def inverted(pipeline: Pipeline, denoisers: list[Denoiser], maps: Maps) -> Inversion:
    """Invert maps in blocks, each through its own denoiser, on the pipeline's grid."""
    blocks = zip(denoisers, maps.split(AT_ONCE), strict=True)
    done = [
        invert(denoiser, block, pipeline.timesteps, pipeline.method.fixed_point_iterations)
        for denoiser, block in blocks
    ]
    parts = [[getattr(part, name) for part in done] for name in Inversion.__slots__[:4]]
    return Inversion(*(torch.cat(part) for part in parts))


def decibels(found: Inversion, maps: Maps) -> str:
    """Median and least peak signal-to-noise ratio of round trips."""
    values = 20 * torch.log10((maps.max() - maps.min()) / found.error.clamp_min(1e-12))
    return f"{float(values.median()):.1f}, {float(values.min()):.1f}"


def show(axes: Any, name: str, sets: dict[str, Latents]) -> None:
    """Band powers, norms and entries of sets of latents."""
    for label, latents in sets.items():
        k, power = power_spectrum(latents.double())[:2]
        axes[0].plot(k[1:], power.mean((0, 1))[1:], label=label)
        radius = latents.double().square().flatten(1).mean(1).sqrt()
        axes[1].hist(radius.numpy(), np.linspace(0.3, 1.7, 57), histtype="step", label=label)
        bins = np.linspace(-5, 5, 101)
        axes[2].hist(latents.flatten().numpy(), bins, density=True, histtype="step", label=label)
    x = np.linspace(-5, 5, 201)
    axes[2].plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k:", lw=1)
    axes[0].axhline(1, color="k", ls=":", lw=1)
    axes[0].set(yscale="log", xlabel="cycles per pixel", title=f"{name}: power of latents")
    axes[1].set(xlabel="radius / sqrt(d)", title="radius")
    axes[2].set(yscale="log", ylim=(1e-6, 1), xlabel="entry", title="entries")
    axes[0].legend(fontsize=7)


def main() -> None:
    """Print one row per target set and denoiser, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--noised", action="store_true")
    arguments: Any = parser.parse_args()
    git = ["git", "rev-parse", "--short", "HEAD"]
    say("commit", subprocess.run(git, capture_output=True, text=True).stdout.strip())
    say(*HEADER)
    say(*["---"] * len(HEADER))
    arguments.out.mkdir(parents=True, exist_ok=True)
    count = len(arguments.runs)
    figure, axes = plt.subplots(count, 3, figsize=(12, 3 * count), constrained_layout=True)
    for uri, place in zip(arguments.runs, np.atleast_2d(axes), strict=True):
        run = RunStore.open(uri)
        pipeline, name = (
            load_pipeline(run, run.record["settings"]["base"], "cpu", "float32"),
            Path(uri).name,
        )
        maps = pipeline.targets.held_out_ranged[: arguments.count]
        shape = tuple(maps.shape[1:])
        seeds = SeedRange(root_key("whiteness"), 0, WHITE)
        white = features(normal(seeds, shape))
        if arguments.noised:
            name += ", noised"
            ratio = pipeline.base.schedule.noise_to_signal(int(pipeline.timesteps[0]))
            start = SeedRange(root_key("noise at the floor"), 0, len(maps))
            maps = maps + ratio * normal(start, shape)
        calibrated = [pipeline.denoiser(pipeline.labels(block)) for block in maps.split(AT_ONCE)]
        ways = {
            "the calibrated denoiser": calibrated,
            "the base": [pipeline.base] * len(calibrated),
        }
        per_octave: dict[str, str] = {}
        sets: dict[str, Latents] = {}  # kept, so that the figure can be drawn anew
        for way, denoisers in ways.items():
            found = inverted(pipeline, denoisers, maps)
            sets[way] = found.latents
            say(name, way, *row(found.latents, white), decibels(found, maps))
            per_octave[way] = " ".join(f"{float(p):.2f}" for p in octaves(found.latents).mean(0))
        sets["white noise"] = normal(SeedRange(seeds.root, WHITE, WHITE + len(maps)), shape)
        say(name, "(white noise)", *row(sets["white noise"], white), "")
        sys.stdout.write(f"power per octave, low to high: {per_octave}\n")
        kept = {way: latents.numpy() for way, latents in sets.items()}
        np.savez(arguments.out / f"{name}.npz", **kept)
        show(place, name, sets)
    figure.savefig(arguments.out / "whiteness.png", dpi=110)
    sys.stdout.write(f"{arguments.out / 'whiteness.png'}\n")


if __name__ == "__main__":
    main()
