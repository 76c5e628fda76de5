"""A walk between two inverted targets, decoded to maps, and the same direction from other targets.

Written beneath `walks/` of a run, or anywhere; nothing of the run is changed or read from there,
except what `farfield inspect` shows of it.

Do inverted targets lie apart from inverted maps of the base's own domain? The base makes maps of
noise, which are inverted as the targets were. Both are then told apart by a direction that was
found on others of them: of the latents themselves, and of their power spectra.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flows.progress import listener
from flows.report.inputs import SEPARABILITY, WALK_NUMBERS, WALKS, stored_separability
from flows.runs.domain import MAX_MAPS, MIN_MAPS, STEPS
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from ood_core.arrays import Latents, Maps
from ood_core.diffusion.sampling import decode
from ood_core.errors import ConfigError
from ood_core.metrics.discrepancy import adjusted
from ood_core.metrics.novelty import nearest
from ood_core.metrics.spectra import power_spectrum
from ood_core.metrics.two_sample import separation
from ood_core.numerics.random import SeedRange, Stream, generator, normal, root_key
from ood_core.numerics.sphere import angle, project
from ood_core.report.pictures import Path, Stretch, animation, strip
from ood_core.report.record import PhysicalMaps
from ood_core.store.files import as_bytes, write_atomic, write_json, writing
from ood_core.store.place import Place, place_at
from ood_core.store.run import RunStore
from ood_core.store.targets import all_latents, held_latents, read_latents
from ood_core.synthesis.pipeline import Pipeline, padded
from ood_core.synthesis.walks import MIN_TARGETS, geodesic, shared_directions, transported

BATCH = 16
MAX_STEPS = 500
MAX_NAME = 100  # characters of a folder's name
FINE = 0.25  # cycles per pixel; small scales have more

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
    """Decode a walk, test whether directions are shared, write pictures and numbers; return these.

    Raises:
        InputError: no such target, or an impossible number of steps.
        RunIncomplete: the targets of the run are not inverted yet.
        StoreUnwritable: the folder cannot be written to.
    """
    if not 2 <= spec.steps <= MAX_STEPS:
        raise ConfigError(f"--steps: got {spec.steps}; expected 2 to {MAX_STEPS}")
    pipeline, latents = fitted_pipeline(run, settings), all_latents(run)
    a, b, *others = (_target(pipeline, name) for name in (spec.start, spec.end, *spec.transfers))
    if a == b:
        raise ConfigError(f"--to: got {spec.end}, where the walk starts; expected another target")
    shares = [float(s) for s in np.linspace(0, 1, spec.steps)]
    ways = _ways(latents, pipeline.labels(pipeline.targets.fit_seen), a, b, others, shares)
    maps = _decoded(pipeline, ways)
    root = root_key(run.record["identity"] + "/walk")
    found = {
        "from": pipeline.targets.ids[a],
        "to": pipeline.targets.ids[b],
        "transfers": [pipeline.targets.ids[c] for c in others],
        "steps": spec.steps,
        "t_max": pipeline.method.ends[1],
        **_angles(latents, a, b, others),
        "shared_attributes": _shared(run, pipeline, root),
        "paths": [
            _path_numbers(pipeline, way, made, shares) for way, made in zip(ways, maps, strict=True)
        ],
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{found['from']}-to-{found['to']}")
    place = run.root / WALKS / name[:MAX_NAME] if out is None else place_at(out)
    with writing(place):
        found["separability"] = _separability(run, pipeline, spec, out)
        fit = pipeline.targets.fit
        title = f"{run.record['name']}: from {found['from']} to {found['to']}"
        found["files"] = _write_walk(place, found, _paths(pipeline, ways, maps, fit), fit, title)
    return {"place": str(place), **found}


def _target(pipeline: Pipeline, name: str) -> int:
    """Row of a fit target by its number or its name."""
    ids = pipeline.targets.ids[: pipeline.targets.fit_count]
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
    ways = []
    for start in (a, *others):
        reached = b if start == a else None
        if reached is not None:
            shaped = geodesic(latents, a, b, shares)
        else:
            shaped = transported(latents, a, b, start, shares)
        names = [start if reached is None or s < 0.5 else reached for s in shares]
        ways.append(Way(start, reached, shaped, tuple(int(labels[i]) for i in names)))
    return ways


def _decoded(pipeline: Pipeline, ways: Sequence[Way]) -> list[Maps]:
    """Maps of all paths in model range, by the deterministic solver that undoes the inversion."""
    latents = torch.cat([way.latents for way in ways])
    labels = torch.tensor([label for way in ways for label in way.labels])
    made = []
    listener.get().begin("walk", len(latents), 0)
    for part, own in zip(latents.split(BATCH), labels.split(BATCH), strict=True):
        made.append(
            pipeline.maps(pipeline.lower(pipeline.denoiser(own), part.to(pipeline.device))).cpu()
        )
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


def _shared(run: RunStore, pipeline: Pipeline, root: int) -> list[dict[str, Any]]:
    """The shared-attribute test for every attribute, p-values adjusted for their number."""
    limit = pipeline.method.round_trip_limit
    latents, held = held_latents(run, pipeline.targets, limit)
    targets = pipeline.targets.fit_ranged[held]
    if len(latents) < MIN_TARGETS:
        return []
    rng = generator(root, 0, stream=Stream.RESAMPLE)
    found = shared_directions(project(latents)[0], attributes(targets), rng)
    holm = adjusted([result.p_value for result in found.values()])
    return [
        {"attribute": name, **asdict(result), "adjusted": p}
        for (name, result), p in zip(found.items(), holm, strict=True)
    ]


def _path_numbers(
    pipeline: Pipeline, way: Way, maps: Maps, shares: Sequence[float]
) -> dict[str, Any]:
    measured = attributes(maps)
    near = nearest(maps, pipeline.targets.fit_ranged, pipeline.targets.symmetries)
    radius = way.latents.double().flatten(1).norm(dim=1)
    frames = [
        {
            "share": share,
            "radius": float(radius[i]),
            "cluster": way.labels[i],
            **{name.replace(" ", "_"): float(values[i]) for name, values in measured.items()},
            "nearest_target": pipeline.targets.ids[int(near.target[i])],
            "nearest_distance": float(near.distance[i]),
        }
        for i, share in enumerate(shares)
    ]
    end = None if way.end is None else pipeline.targets.ids[way.end]
    return {"start": pipeline.targets.ids[way.start], "end": end, "frames": frames}


def _separability(
    run: RunStore, pipeline: Pipeline, spec: WalkSpec, out: str | None
) -> dict[str, Any] | None:
    """What is stored of the run, or is measured now and stored, unless the walk goes elsewhere."""
    known = stored_separability(run)
    if known is not None or not spec.separability:
        return known
    root = root_key(run.record["identity"] + "/separability")
    found = separability(pipeline, read_latents(run), root)
    if found is not None and out is None:
        store_separability(run, found)
    return found


def _paths(
    pipeline: Pipeline, ways: Sequence[Way], maps: Sequence[Maps], fit: PhysicalMaps
) -> list[Path]:
    return [
        Path(
            "walk" if way.end is not None else f"from {pipeline.targets.ids[way.start]}",
            fit[way.start],
            pipeline.targets.physical(made),
            None if way.end is None else fit[way.end],
        )
        for way, made in zip(ways, maps, strict=True)
    ]


def _write_walk(
    place: Place,
    found: dict[str, Any],
    paths: Sequence[Path],
    fit: PhysicalMaps,
    title: str,
) -> list[str]:
    """Write everything that a walk found, the numbers last; return the names of the files.

    The fit targets set the colour scale. `found["paths"]` has the numbers of each path's maps.
    """
    stretch = Stretch.fit(fit[:, 0])
    shares = [frame["share"] for frame in found["paths"][0]["frames"]]
    stream = io.BytesIO()
    np.save(stream, np.stack([path.maps for path in paths]))
    contents = {
        "strip.png": strip(paths, shares, stretch, title),
        "walk.gif": animation(paths, stretch),
        "walk.csv": _table(found["paths"]),
        "maps.npy": stream.getvalue(),
    }
    files = [*contents, WALK_NUMBERS]
    contents[WALK_NUMBERS] = as_bytes({**found, "synthetic": True, "files": files})
    for name, content in contents.items():
        write_atomic(place / name, content)
    return files


def _table(paths: Sequence[dict[str, Any]]) -> bytes:
    """One row per map, as CSV."""
    text = io.StringIO()
    names = ["start", "end", "frame", *paths[0]["frames"][0]]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for path in paths:
        for number, frame in enumerate(path["frames"]):
            ends = {"start": path["start"], "end": path["end"] or ""}
            writer.writerow({**ends, "frame": number, **frame})
    return text.getvalue().encode()


def separability(pipeline: Pipeline, latents: Latents, root: int) -> dict[str, Any] | None:
    """Held-out AUC of targets against the base's own maps at the method's `t_max`.

    Returns None where fewer than `MIN_MAPS` targets are fitted, or the base makes maps that are not
    finite.
    """
    count = min(MAX_MAPS, len(latents))
    if count < MIN_MAPS:
        return None
    domain = in_domain_latents(pipeline, count, root)
    if not bool(domain.isfinite().all()):
        return None
    features = {
        "latents": (domain.flatten(1), latents.flatten(1)),
        "spectra": log_spectra(domain, latents),
    }
    found = {
        name: asdict(separation(*pair, generator(root, number, stream=Stream.RESAMPLE)))
        for number, (name, pair) in enumerate(features.items())
    }
    return {"t_max": pipeline.method.ends[1], "in_domain": count, "targets": len(latents), **found}


def store_separability(run: RunStore, found: dict[str, Any]) -> None:
    """Keep what was measured, beside the walks of the run."""
    write_json(run.root / WALKS / SEPARABILITY, found)


def in_domain_latents(pipeline: Pipeline, count: int, root: int) -> Latents:
    """Latents of maps that the base makes of noise, inverted as the targets were."""
    schedule = pipeline.base.schedule
    grid = schedule.log_snr_grid(STEPS + 1, len(schedule) - 1)
    noise = normal(SeedRange(root, 0, count), pipeline.targets.fit_seen.shape[1:])
    found = []
    listener.get().begin("separate", count, 0)
    for part in noise.split(BATCH):
        batch = padded(part, min(BATCH, count)).to(pipeline.device)
        made = decode(pipeline.base, "ddim", batch, grid)
        denoiser = pipeline.denoiser(pipeline.labels(made.cpu()))
        done = pipeline.lift(denoiser, made)
        found.append(done.latents.cpu()[: len(part)])
        listener.get().advance("separate", len(part))
    return torch.cat(found)


def log_spectra(a: Latents, b: Latents) -> tuple[torch.Tensor, torch.Tensor]:
    """Log power per annulus of each latent, standardised over both sets together."""
    spectra = [power_spectrum(latents)[1].clamp_min(1e-30).log().flatten(1) for latents in (a, b)]
    both = torch.cat(spectra)
    spread = both.std(dim=0).clamp_min(1e-12)
    first, second = ((part - both.mean(dim=0)) / spread for part in spectra)
    return first, second
