"""A walk between two inverted targets, decoded to maps, and the same direction from other targets.

Written beneath `walks/` of a run, or anywhere; nothing of the run is changed or read from there,
except what `farfield inspect` shows of it.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actors.line import Line
from flows.progress import listener
from flows.runs.reload import fitted_line
from flows.settings import RunSettings
from flows.tools.separability import (
    WALKS,
    separability,
    store_separability,
    stored_separability,
)
from flows.tools.walk_files import write_walk
from ood_core.arrays import Latents, Maps
from ood_core.decode import decode
from ood_core.errors import ConfigError
from ood_core.metrics.discrepancy import adjusted
from ood_core.metrics.novelty import nearest
from ood_core.metrics.spectra import power_spectrum
from ood_core.numerics.random import Stream, generator, root_key
from ood_core.numerics.sphere import Points, angle, exp_map, log_map, project, transport
from ood_core.report.record import PhysicalMaps
from ood_core.report.strip import Path
from ood_core.store.files import writing
from ood_core.store.latents import all_latents, held_targets, read_latents
from ood_core.store.place import place_at
from ood_core.store.run import RunStore
from ood_core.synthesis.directions import MIN_TARGETS, shared_direction

BATCH = 16
MAX_STEPS = 500
LONGEST = 100  # characters of a folder's name
FINE = 0.25  # cycles per pixel, above which power is of small scales

Numbers = Float[np.ndarray, " n"]


@final
@dataclass(frozen=True, slots=True)
class WalkSpec:
    """Which targets are walked between, in how many maps, and where else the direction is tried."""

    start: str
    end: str
    steps: int
    transfers: tuple[str, ...] = ()
    separability: bool = True


@final
@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """Latents of one path, with the target that it starts from and the one that it reaches."""

    start: int
    end: int | None
    latents: Latents
    labels: tuple[int, ...]


def walk(run: RunStore, settings: RunSettings, spec: WalkSpec, out: str | None) -> dict[str, Any]:
    """Decode a walk, test whether directions are shared, write pictures and numbers; tell all.

    Raises:
        InputError: no such target, or an impossible number of steps.
        RunIncomplete: the targets of the run are not inverted yet.
        StoreUnwritable: the place cannot be written to.
    """
    if not 2 <= spec.steps <= MAX_STEPS:
        raise ConfigError(f"--steps: got {spec.steps}; expected 2 to {MAX_STEPS}")
    line, latents = fitted_line(run, settings), all_latents(run)
    a, b, *others = (_target(line, name) for name in (spec.start, spec.end, *spec.transfers))
    if a == b:
        raise ConfigError(f"--to: got {spec.end}, where the walk starts; expected another target")
    shares = [float(s) for s in np.linspace(0, 1, spec.steps)]
    ways = _ways(latents, line.labels(line.targets.seen), a, b, others, shares)
    maps = _decoded(line, ways)
    root = root_key(run.record["identity"] + "/walk")
    told = {
        "from": line.targets.ids[a],
        "to": line.targets.ids[b],
        "transfers": [line.targets.ids[c] for c in others],
        "steps": spec.steps,
        "t_max": line.method.ends[1],
        **_angles(latents, a, b, others),
        "shared_attributes": _shared(run, line, root),
        "paths": [
            _path_numbers(line, way, made, shares) for way, made in zip(ways, maps, strict=True)
        ],
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{told['from']}-to-{told['to']}")
    place = run.root / WALKS / name[:LONGEST] if out is None else place_at(out)
    with writing(place):
        told["separability"] = _separability(run, line, spec, out)
        fit = line.targets.physical(line.targets.fit)
        title = f"{run.record['name']}: from {told['from']} to {told['to']}"
        told["files"] = write_walk(place, told, _paths(line, ways, maps, fit), fit, title)
    return {"place": str(place), **told}


def _target(line: Line, name: str) -> int:
    """Row of a fit target by its number or its name."""
    ids = line.targets.ids[: len(line.targets.fit)]
    if name in ids:
        return ids.index(name)
    if name.isdecimal() and int(name) < len(ids):
        return int(name)
    raise ConfigError(
        f"got target {name!r}; expected a fit target: a number from 0 to {len(ids) - 1}, or a name "
        f"such as {ids[0]}"
    )


def _ways(
    latents: Latents, labels: Tensor, a: int, b: int, others: Sequence[int], shares: Sequence[float]
) -> list[Way]:
    """The geodesic from `a` to `b` with norms interpolated, and its direction from elsewhere.

    A transported direction keeps the norm of the latent that it starts from. The cluster of a map
    is that of the nearer end; without an end, that of the start.
    """
    points, norms = project(latents)
    along = log_map(points[[a]], points[[b]])
    ways = []
    for start in (a, *others):
        v = along if start == a else transport(along, points[[a]], points[[start]])
        reached = b if start == a else None
        far = float(norms[b] if reached is not None else norms[start])
        found = [
            exp_map(points[[start]], s * v) * ((1 - s) * float(norms[start]) + s * far)
            for s in shares
        ]
        names = [start if reached is None or s < 0.5 else reached for s in shares]
        shaped = torch.cat(found).reshape(-1, *latents.shape[1:]).to(latents)
        ways.append(Way(start, reached, shaped, tuple(int(labels[i]) for i in names)))
    return ways


def _decoded(line: Line, ways: Sequence[Way]) -> list[Maps]:
    """Maps of all paths in model range, by the deterministic solver that undoes the inversion."""
    latents = torch.cat([way.latents for way in ways])
    labels = torch.tensor([label for way in ways for label in way.labels])
    made = []
    listener.get().begin("walk", len(latents), 0)
    for part, own in zip(latents.split(BATCH), labels.split(BATCH), strict=True):
        down = decode(
            line.denoiser(own), "ddim", part.to(line.device), line.timesteps, above=line.above
        )
        made.append(line.maps(down).cpu())
        listener.get().advance("walk", len(part))
    return list(torch.cat(made).split(len(ways[0].latents)))


def _angles(latents: Latents, a: int, b: int, others: Sequence[int]) -> dict[str, Any]:
    points, norms = project(latents)
    between = torch.rad2deg(angle(points[[a]], points[[b]]))
    return {
        "angle_degrees": float(between),
        "norms": {name: float(norms[i]) for name, i in (("from", a), ("to", b))},
        "norms_of_transfers": [float(norms[c]) for c in others],
    }


def attributes(maps: Maps) -> dict[str, Numbers]:
    """Numbers per map that pairs of targets can share: brightness, contrast, texture, centring."""
    height, width = maps.shape[-2:]
    centre, power, modes = power_spectrum(maps)
    total = (power * modes).mean(1)
    fine = total[:, centre > FINE].sum(1) / total.sum(1).clamp_min(1e-30)
    inner = maps[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    flat = maps.double().flatten(1)
    found = {
        "mean": flat.mean(1),
        "spread": flat.std(1),
        "small scales": fine.double(),
        "centre": inner.double().flatten(1).mean(1) - flat.mean(1),
    }
    return {name: values.numpy() for name, values in found.items()}


def _shared(run: RunStore, line: Line, root: int) -> list[dict[str, Any]]:
    """The shared-attribute test for every attribute, p-values adjusted for their number."""
    latents, targets = read_latents(run), line.targets.fit[held_targets(run)]
    if len(latents) < MIN_TARGETS:
        return []
    points: Points = project(latents)[0]
    measured = attributes(targets)
    found = [
        (name, shared_direction(points, values, generator(root, row, stream=Stream.RESAMPLE)))
        for row, (name, values) in enumerate(measured.items())
    ]
    holm = adjusted([result.p_value for _, result in found])
    return [
        {"attribute": name, **asdict(result), "adjusted": p}
        for (name, result), p in zip(found, holm, strict=True)
    ]


def _path_numbers(line: Line, way: Way, maps: Maps, shares: Sequence[float]) -> dict[str, Any]:
    measured = attributes(maps)
    near = nearest(maps, line.targets.fit, line.symmetries)
    radius = way.latents.double().flatten(1).norm(dim=1)
    frames = [
        {
            "share": share,
            "radius": float(radius[i]),
            "cluster": way.labels[i],
            **{name.replace(" ", "_"): float(values[i]) for name, values in measured.items()},
            "nearest_target": line.targets.ids[int(near.target[i])],
            "nearest_distance": float(near.distance[i]),
        }
        for i, share in enumerate(shares)
    ]
    end = None if way.end is None else line.targets.ids[way.end]
    return {"start": line.targets.ids[way.start], "end": end, "frames": frames}


def _separability(
    run: RunStore, line: Line, spec: WalkSpec, out: str | None
) -> dict[str, Any] | None:
    """What is stored of the run, or is measured now and stored, unless the walk goes elsewhere."""
    known = stored_separability(run)
    if known is not None or not spec.separability:
        return known
    root = root_key(run.record["identity"] + "/separability")
    found = separability(line, read_latents(run), root)
    if found is not None and out is None:
        store_separability(run, found)
    return found


def _paths(line: Line, ways: Sequence[Way], maps: Sequence[Maps], fit: PhysicalMaps) -> list[Path]:
    return [
        Path(
            "walk" if way.end is not None else f"from {line.targets.ids[way.start]}",
            fit[way.start],
            line.targets.physical(made),
            None if way.end is None else fit[way.end],
        )
        for way, made in zip(ways, maps, strict=True)
    ]
