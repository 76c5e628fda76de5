"""Do inverted targets lie apart from inverted maps of the base's own domain?

The base makes maps of noise, which are inverted as the targets were. Both are then told apart by a
direction that was found on others of them: of the latents themselves, and of their power spectra.
"""

from dataclasses import asdict
from typing import Any

import torch

from actors.line import Line
from actors.workers import padded
from flows.progress import listener
from flows.runs.domain import MAX_MAPS, MIN_MAPS, STEPS
from ood_core.arrays import Latents
from ood_core.decode import decode
from ood_core.metrics.separation import separation
from ood_core.metrics.spectra import power_spectrum
from ood_core.numerics.random import SeedRange, Stream, generator, normal
from ood_core.store.files import exists, read_json, write_json
from ood_core.store.run import RunStore

BATCH = 16
WALKS = "walks"
STORED = "separability.json"


def separability(line: Line, latents: Latents, root: int) -> dict[str, Any] | None:
    """Held-out AUC of targets against the base's own maps at the method's level.

    Returns None where fewer than `MIN_MAPS` targets are fitted, or the base makes maps that are not
    finite.
    """
    count = min(MAX_MAPS, len(latents))
    if count < MIN_MAPS:
        return None
    domain = in_domain_latents(line, count, root)
    if not bool(domain.isfinite().all()):
        return None
    rows = {
        "latents": (domain.flatten(1), latents.flatten(1)),
        "spectra": spectrum_rows(domain, latents),
    }
    found = {
        name: asdict(separation(*pair, generator(root, row, stream=Stream.RESAMPLE)))
        for row, (name, pair) in enumerate(rows.items())
    }
    return {"t_max": line.method.ends[1], "in_domain": count, "targets": len(latents), **found}


def stored_separability(run: RunStore) -> dict[str, Any] | None:
    """What was measured of a run; None where nothing was."""
    place = run.root / WALKS / STORED
    return read_json(place) if exists(place) else None


def store_separability(run: RunStore, found: dict[str, Any]) -> None:
    """Keep what was measured, beside the walks of the run."""
    write_json(run.root / WALKS / STORED, found)


def in_domain_latents(line: Line, count: int, root: int) -> Latents:
    """Latents of maps that the base makes of noise, inverted as the targets were."""
    schedule = line.base.schedule
    grid = schedule.log_snr_grid(STEPS + 1, len(schedule) - 1)
    noise = normal(SeedRange(root, 0, count), line.targets.seen.shape[1:])
    found = []
    listener.get().begin("separate", count, 0)
    for part in noise.split(BATCH):
        batch = padded(part, min(BATCH, count)).to(line.device)
        made = decode(line.base, "ddim", batch, grid)
        denoiser = line.denoiser(line.labels(made.cpu()))
        done = line.invert(denoiser, made)
        found.append(done.latents.cpu()[: len(part)])
        listener.get().advance("separate", len(part))
    return torch.cat(found)


def spectrum_rows(a: Latents, b: Latents) -> tuple[torch.Tensor, torch.Tensor]:
    """Log power per annulus of each latent, standardised over both sets together."""
    rows = [power_spectrum(latents)[1].clamp_min(1e-30).log().flatten(1) for latents in (a, b)]
    both = torch.cat(rows)
    spread = both.std(dim=0).clamp_min(1e-12)
    first, second = ((part - both.mean(dim=0)) / spread for part in rows)
    return first, second
