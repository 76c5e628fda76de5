"""Latent samplers side by side on the latents of one run, as a Markdown table.

    python -m benchmarks.draws runs/discovery --out runs/draws [--samples 64] [--steps 16]

The run is one of the bare base (preset `discovery` or `cluster`). Base, targets, inversion and
prior are those of the run; only what a latent is made of differs. All are decoded by
DPM-Solver++(2M) in a few steps uniform in `ln(sigma/alpha)`, without steering. `round trips` are
the targets' own latents, so copies. `real maps` are as many held-out maps against the others.
Behind the scores: the share of draws that intervals of their own sampler refuse, and the shares
that those of the latents among themselves refuse: all, by distance, origin angle, pair angle. A
picture of each row's first maps goes to DIR/draws.png. Lower is better but for the nearest ratio,
where 1 is as novel as real.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from actors.loading import load_pipeline
from ood_core.arrays import Latents, Maps
from ood_core.config.method import DrawSpec
from ood_core.diffusion.sampling import decode
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.numerics.random import Root, SeedRange
from ood_core.report.pictures import COLOURS, Stretch
from ood_core.store.fitted import read_prior
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.targets import read_latents
from ood_core.synthesis.latent_samplers import Candidates, latent_sampler
from ood_core.synthesis.latents import ShellGeometry, measure_geometry
from ood_core.synthesis.pipeline import Pipeline

SPECS = {
    "prior": DrawSpec(),
    "slerp 0.15": DrawSpec(sampler="slerp"),
    "norm 0.15": DrawSpec(sampler="norm"),
    "combination of 3": DrawSpec(sampler="combination"),
    "cluster": DrawSpec(sampler="cluster"),
}
SCORES = ("fsd", "spectrum_error", "pixel_wasserstein", "c2st", "nearest_ratio")
SHOWN = 12


def decoded(pipeline: Pipeline, latents: Latents, steps: int) -> Maps:
    """Maps in model range, without steering, in batches of 16."""
    grid = pipeline.base.schedule.log_snr_grid(steps + 1, pipeline.method.ends[1])
    made = []
    for part in latents.split(16):
        labels = torch.zeros(len(part), dtype=torch.int64)
        down = decode(pipeline.denoiser(labels), "ddim", part.to(pipeline.device), grid)
        made.append(pipeline.maps(down).cpu())
    return torch.cat(made)


def refused(
    spec: DrawSpec, prior: GaussianPrior, found: Candidates, references: Latents, root: int
) -> str:
    """Shares of draws that the sampler's own intervals and the published tests refuse."""
    own = measure_geometry(spec, latent_sampler(spec, prior, references), root, references)
    used = found.used(len(references))
    of_own = own.refusals(found.latents, references, used).any(0).float().mean()
    published = ShellGeometry.published(references).refusals(found.latents, references, used)
    shares = [published.any(0), *published[1:]]
    return f"{of_own:.2f} | " + " ".join(f"{share.float().mean():.2f}" for share in shares)


def scores(samples: Maps, pipeline: Pipeline, held_out: Maps) -> list[str]:
    """Scores of maps in model range against held-out ones."""
    found = evaluate_maps(
        samples,
        pipeline.targets.fit_ranged,
        held_out,
        pipeline.targets.symmetries,
        Root(pipeline.root),
    ).scores
    return [f"{found[name].value:.3g}" for name in SCORES]


def picture(rows: dict[str, Maps], pipeline: Pipeline, out: Path) -> None:
    """One row of maps per latent sampler, on the targets' colour scale."""
    stretch = Stretch.fit(pipeline.targets.fit[:, 0])
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=(SHOWN, 1.05 * len(rows)))
    for row_axes, (name, maps) in zip(axes, rows.items(), strict=True):
        for ax, field in zip(row_axes, pipeline.targets.physical(maps[:SHOWN])[:, 0], strict=False):
            ax.imshow(stretch(field), COLOURS, vmin=0, vmax=1, origin="lower")
            ax.set(xticks=[], yticks=[])
        row_axes[0].set_ylabel(name, fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(out / "draws.png", dpi=120)


def main() -> None:
    """Print the table, keep it with its commit, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    run = RunStore.open(arguments.run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(run, run.record["settings"]["base"], "auto", "float32")
    references, (prior, _) = read_latents(run), read_prior(run.root / PRIOR)
    held_out = pipeline.targets.held_out_ranged
    table, shown = [], {"real maps": held_out[:SHOWN]}
    for name, spec in SPECS.items():
        filled = spec.filled()
        seeds = SeedRange(pipeline.root, 0, arguments.samples)
        found = latent_sampler(filled, prior, references).sample(seeds)
        maps = decoded(pipeline, found.latents, arguments.steps)
        shown[name] = maps
        cells = refused(filled, prior, found, references, pipeline.root + 1)
        table.append(f"| {name} | {' | '.join(scores(maps, pipeline, held_out))} | {cells} |")
        sys.stdout.write(table[-1] + "\n")
        sys.stdout.flush()
    own = decoded(pipeline, references, arguments.steps)
    table.append(f"| round trips | {' | '.join(scores(own, pipeline, held_out))} | | |")
    real = scores(held_out[: arguments.samples], pipeline, held_out[arguments.samples :])
    table.append(f"| real maps | {' | '.join(real)} | | |")
    sys.stdout.write("\n".join(table[-2:]) + "\n")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    record = {"commit": commit.stdout.strip(), "arguments": sys.argv[1:], "rows": table}
    (arguments.out / "draws.json").write_text(json.dumps(record, indent=1) + "\n")
    picture({**shown, "round trips": own}, pipeline, arguments.out)


if __name__ == "__main__":
    main()
