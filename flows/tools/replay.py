"""One sample again: recomputed from what the run stored, and held against the stored map."""

import io
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from actors.workers import Rows, sample_rows
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from ood_core.errors import ConfigError, RunIncomplete
from ood_core.exporting.exports import answering_of, renamed
from ood_core.exporting.fits_files import write_cube
from ood_core.exporting.source import SAMPLE, MemorySource, Part, RunSource
from ood_core.metrics.novelty import nearest
from ood_core.numerics.random import SeedRange
from ood_core.report.pictures import Stretch, map_figure, map_png, picture_kind
from ood_core.store.files import write_atomic
from ood_core.store.fitted import read_prior
from ood_core.store.plan import Shard
from ood_core.store.run import PRIOR, RunStore
from ood_core.store.statistics import read_drawn
from ood_core.store.targets import read_latents
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.pipeline import Pipeline

TOLERANCE = 1e-3
"""Largest difference that counts as rounding, in standard deviations of the stored map."""

STEERED = (
    "steering over many steps amplifies rounding, so this may be no more than another batch shape, "
    "thread count, device or version; where these are the same, bits are equal"
)

Outcome = Literal["equal", "within tolerance", "differs", "not generated yet"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A sample's rows now and as they are stored, None where they are not generated yet."""

    sample: int
    shard: Shard
    now: Rows
    stored: Rows | None

    @property
    def difference(self) -> float | None:
        """Largest difference of the two maps, in standard deviations of the stored one."""
        if self.stored is None:
            return None
        now, then = (rows["maps"].astype(np.float64) for rows in (self.now, self.stored))
        return float(np.abs(now - then).max() / max(float(then.std()), 1e-30))

    @property
    def outcome(self) -> Outcome:
        """Whether both are the same bits, the same up to rounding, or neither."""
        if self.stored is None:
            return "not generated yet"
        if all(np.array_equal(self.now[name], self.stored[name]) for name in self.stored):
            return "equal"
        same = all(np.array_equal(self.now[n], self.stored[n]) for n in ("attempts", "parents"))
        close = self.difference is not None and self.difference <= TOLERANCE
        return "within tolerance" if same and close else "differs"


def replay_sample(
    run: RunStore, settings: RunSettings, sample: int, alone: bool, out: str | None
) -> dict[str, Any]:
    """Recompute a sample, compare it with the stored one and say where it comes from.

    With `alone` it is computed as a batch of one, else its whole shard is computed again: the same
    batch shape runs the same kernels, so that bits can be equal.

    Raises:
        InputError: no such sample, base, or kind of `out`.
        IdentityRefused: another base than the run's.
        RunIncomplete: the latents are not fitted yet.
        ShardCorrupt: the stored map cannot be decoded.
    """
    save = _writer(out, run) if out is not None else None
    pipeline = _load(run, settings, sample)
    size = run.plan("generate").shard_rows
    first = sample if alone else sample // size * size
    shard = Shard(sample // size, first, first + (1 if alone else size), 1 if alone else size)
    rows = sample_rows(run, pipeline)(shard)()()
    now = {name: values[sample - first] for name, values in rows.items()}
    again = Replay(sample, shard, now, _stored(run, sample))
    if save is not None:
        with answering_of(Path(str(out))):
            save(now, sample, pipeline)
    return _comparison(run, pipeline, again, alone) | ({"out": out} if out is not None else {})


def _load(run: RunStore, settings: RunSettings, sample: int) -> Pipeline:
    if sample < 0:
        raise ConfigError(f"--sample: got {sample}; expected 0 or more")
    pipeline = fitted_pipeline(run, settings)
    if not run.has_prior:
        raise RunIncomplete(f"{run.root}: the prior is not fitted; `farfield run` it first")
    return pipeline


def _stored(run: RunStore, sample: int) -> Rows | None:
    plan = run.plan("generate")
    if sample >= plan.rows or run.ledger("generate").read(plan[sample // plan.shard_rows]) is None:
        return None
    row = slice(sample, sample + 1)
    rows = {**run.table("generate").rows(sample, sample + 1), **read_drawn(run, row)}
    return {name: values[0] for name, values in rows.items()}


def _comparison(run: RunStore, pipeline: Pipeline, again: Replay, alone: bool) -> dict[str, Any]:
    record, sample, shard = run.record, again.sample, again.shard
    whole = f"samples {shard.start} to {shard.stop - 1}, as in its shard"
    found = {
        "sample": sample,
        "outcome": again.outcome,
        "difference_in_std": again.difference,
        "tolerance_in_std": TOLERANCE,
        "batch": "the sample alone" if alone else whole,
        "seed": {
            "generation": record["identity_record"]["generation"]["seed"],
            "philox_key": [pipeline.root, sample],
            "attempt": int(again.now["attempts"]) - 1,
        },
        "noise": _noise(run, pipeline, sample, int(again.now["attempts"]) - 1),
        "parents": _names(pipeline, again.now["parents"]),
        "sources": _names(pipeline, again.now.get("sources", ())),
        "scores": _scores(pipeline, again.now),
        "unit": pipeline.targets.unit,
        "values": _range(again.now["maps"]),
        "versions": _versions(record),
    }
    steered = again.outcome == "differs" and pipeline.method.steering is not None
    return {**found, "note": STEERED} if steered else found


def _names(pipeline: Pipeline, rows: Iterable[int]) -> list[str]:
    return [pipeline.targets.ids[int(row)] for row in rows]


def _noise(run: RunStore, pipeline: Pipeline, sample: int, attempt: int) -> dict[str, float]:
    """The accepted latent, by numbers that can be compared: radius is 1 for white noise."""
    prior, _ = read_prior(run.root / PRIOR)
    sampler = latent_sampler(pipeline.method.draw, prior, read_latents(run))
    latent = sampler.sample(SeedRange(pipeline.root, sample, sample + 1), attempt).latents[0]
    return {
        "radius": float(latent.double().square().mean().sqrt()),
        "mean": float(latent.double().mean()),
        "first": float(latent.flatten()[0]),
    }


def _scores(pipeline: Pipeline, rows: Rows) -> dict[str, Any]:
    """Distance to the aim, and to the nearest fit target in model range."""
    maps = pipeline.targets.ranged(rows["maps"][None])
    found = nearest(maps, pipeline.targets.fit_ranged, pipeline.targets.symmetries)
    return {
        "aim_distance": float(rows["aim_distance"]),
        "nearest_target": pipeline.targets.ids[int(found.target[0])],
        "nearest_distance": float(found.distance[0]),
    }


def _range(values: NDArray[Any]) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "mean": float(values.mean()),
        "max": float(values.max()),
        "std": float(values.std()),
    }


def _versions(record: Mapping[str, Any]) -> dict[str, str]:
    """What each was at planning; what it is now is added where it differs."""
    now = {name: version(name) for name in record["versions"]}
    then = {**record["versions"], "python": record["machine"]["python"]}
    now["python"] = platform.python_version()
    return {
        name: before if before == now[name] else f"{before}, now {now[name]}"
        for name, before in then.items()
    }


def _writer(out: str, run: RunStore) -> Callable[[Rows, int, Pipeline], None]:
    """The function that writes a sample in the format that the name ends with."""
    path = Path(out)

    def as_npy(rows: Rows, sample: int, pipeline: Pipeline) -> None:
        stream = io.BytesIO()
        np.save(stream, rows["maps"])
        write_atomic(path, stream.getvalue())

    def as_fits(rows: Rows, sample: int, pipeline: Pipeline) -> None:
        about = RunSource(run, run.state, 1).about
        columns = {name: np.asarray(values)[None] for name, values in rows.items()}
        columns[SAMPLE] = np.array([sample], dtype=np.int64)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with renamed(path.absolute()) as partial:
            write_cube(partial, Part(MemorySource(about, columns), 0, 1))

    def as_picture(rows: Rows, sample: int, pipeline: Pipeline) -> None:
        stretch = Stretch.fit(pipeline.targets.fit)
        field = np.concatenate(list(rows["maps"]), axis=-1)  # channels side by side
        kind = picture_kind(out)
        if kind == "png":
            write_atomic(path, map_png(field, stretch))
            return
        name = f"{run.record['name']}, sample {sample}"
        write_atomic(path, map_figure(field, stretch, pipeline.targets.unit, name, kind))

    match path.suffix.lower():
        case ".npy":
            return as_npy
        case ".fits" | ".fit" | ".fts":
            return as_fits
        case ".png" | ".svg" | ".pdf":
            return as_picture
        case other:
            raise ConfigError(
                f"--out {out}: got the ending {other!r}; expected .fits, .npy, .png, .svg or .pdf"
            )
