"""The model card of a trained base: recipe, seed, commit, data, loss curve, samples and limits."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ood_core.arrays import Maps
from ood_core.config.pretraining import PretrainSpec
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.random import SeedRange, normal
from ood_core.pretraining.domains import training_stream
from ood_core.pretraining.trainer import TrainingState
from ood_core.report.card import one_line
from ood_core.store.training import TrainingRecord

SHEET = 16
SAMPLING_STEPS = 40

CARD = """---
license: bsd-3-clause
library_name: diffusers
tags: [diffusion, unconditional, frozen-base, {tags}]
domain: {domain}
---

# {name}

Unconditional diffusion model of {domains}.
One channel, {size} x {size} pixels, values in [-1, 1].
Made as a frozen base: Farfield calibrates it to maps of kinds that it has never seen.

| | |
|---|---|
| network | `UNet2DModel`, {parameters:,} parameters |
| shape | widths {widths}, attention {attention}, patch {patch} |
| schedule | DDPM, linear betas 1e-4 to 0.02, 1000 steps; predicts `{prediction}`; no clipping |
| data | {data} |
| started from | {start} |
| recipe | {steps} steps of batch {batch}, AdamW, peak rate {rate:g}, cosine decay, EMA {ema} |
| seed | {seed} |
| commit | `{commit}` |
| compute | {hours:.2f} hours of CPU time (user + system, all cores) |
| final loss | {loss:.4f} (mean squared error of the network's target, last 250 steps) |
| weights | float16 safetensors of the averaged weights |

The recipe is `examples/pretrain-{name}.yaml`, for `farfield pretrain`. That a stopped
training resumes to the same weights is tested on a tiny recipe, not on this one.

## Loss curve

![Training loss against step, falling]({curve})

`training.json` has the numbers: one mean per 50 steps.

## Samples and data

![Samples of the model on the left, its training maps on the right]({sheet})

## Limits

- It knows its training domain and nothing else; used alone it makes maps of that domain.
- Trained on {size} px maps; other sizes run (multiples of {multiple} px) but were not trained for.
- Noise levels with sigma/alpha above about 30 were seen rarely in training.
- Small on purpose: {parameters:,} parameters, trained on two CPU cores.
"""


DOMAINS = {
    "dead_leaves": (
        "**dead leaves** (opaque ellipses of random place, size, shade and edge softness)",
        "procedural, `ood_core/pretraining/domains.py`",
    ),
    "random_fields": (
        "**random fields** (power-law, log-normal, filamentary, thresholded, sources; with beam "
        "and noise)",
        "procedural, `ood_core/pretraining/domains.py`",
    ),
    "mosaic": (
        "**cut-outs of a mosaic**",
        "cut-outs of `{mosaic}`, `ood_core/pretraining/domains.py`",
    ),
}


def draw_samples(state: TrainingState, spec: PretrainSpec) -> Maps:
    """Draw samples of the averaged network, for the card."""
    schedule = NoiseSchedule.linear()
    denoiser = PretrainedDenoiser(state.average, schedule, spec.prediction)
    grid = schedule.log_snr_grid(SAMPLING_STEPS, len(schedule) - 1)
    z = normal(SeedRange(spec.seed, 0, SHEET), (1, spec.size, spec.size))
    return decode(denoiser, "ddim", z, grid)


def write_card(folder: Path, spec: PretrainSpec, record: TrainingRecord, samples: Maps) -> None:
    """Write `README.md`, the training record, the loss curve and the sample sheet."""
    (folder / "training.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    _curve(record.curve, folder / "loss.png")
    data = training_stream(replace(spec, seed=spec.seed + 1))(0)[:: max(1, spec.batch // SHEET)]
    write_sheet({"samples": samples, "data": data[:SHEET]}, folder / "samples.png", (-1, 1))
    fields = {
        **record.recipe,
        "parameters": _parameters(folder),
        "commit": record.commit,
        "hours": record.cpu_seconds / 3600,
        "loss": float(torch.tensor(record.curve[-5:]).mean()),
        "curve": "loss.png",
        "sheet": "samples.png",
        "multiple": spec.multiple,
        "tags": ", ".join(domain.replace("_", "-") for domain in spec.domains),
        "domain": ", ".join(domain.replace("_", " ") for domain in spec.domains),
        "domains": " and ".join(DOMAINS[domain][0] for domain in spec.domains),
        "data": "; ".join(DOMAINS[d][1].format(mosaic=_code(spec.mosaic)) for d in spec.domains),
        "start": f"`{_code(spec.start_from)}`" if spec.start_from else "random weights",
    }
    (folder / "README.md").write_text(CARD.format(**fields))


def _code(text: str) -> str:
    """A path for a code span in a table."""
    return one_line(text).replace("`", "'").replace("|", "/")


def write_sheet(panels: dict[str, Maps], path: Path, limits: tuple[float, float]) -> None:
    """Draw maps in rows, one panel per set, first channel in grey between the limits."""
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    low, high = limits
    for panel, (title, maps) in zip(axes, panels.items(), strict=True):
        panel.imshow(_tiles(maps), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    figure.savefig(path, dpi=110)


def _tiles(maps: Maps) -> NDArray[np.float32]:
    rows = math.isqrt(len(maps))
    columns, (height, width) = len(maps) // rows, maps.shape[-2:]
    grid = maps[: rows * columns, 0].reshape(rows, columns, height, width)
    tiles: NDArray[np.float32] = grid.permute(0, 2, 1, 3).reshape(rows * height, -1).numpy()
    return tiles


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as tensors:
        return sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118


def _curve(losses: list[float], path: Path) -> None:
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.semilogy([50 * (i + 1) for i in range(len(losses))], losses, lw=1)
    axes.set(xlabel="step", ylabel="loss")
    figure.savefig(path, dpi=110)
