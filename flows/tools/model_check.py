"""Whether a base is what it says: digest, prediction type, schedule, samples, speed, round trip."""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch

from flows.progress import finite, listener
from flows.report.inputs import psnr
from flows.report.inspection import describe_base
from flows.settings import read_plain
from flows.tools.model_card import write_sheet
from ood_core.arrays import Maps
from ood_core.config.method import AUTO_NOISE
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError, ConfigError
from ood_core.models.checking import NOISE_LEVELS, Denoising, denoising, readings, recognised
from ood_core.models.galaxygrad import PREFIX, packaged
from ood_core.models.loading import BaseModel, load_model
from ood_core.models.pretrained import SeveralDenoisers
from ood_core.numerics.random import SeedRange, normal
from ood_core.store.files import write_json
from ood_core.synthesis.pipeline import choose_device

ROOT = 0
MAX_COMPARED = 8
"""Samples that prediction types and round trips are measured on; the sheet shows all."""
PASSES = 2
ROUND_TRIPS = (20, 50)
"""Network evaluations per map that inverting takes; decoding adds half as many."""
MAX_TEXT = 2**24
BATCHES, REPEATS = (1, 4, 16), 3
USUAL_RANGE = 1.5
"""Largest value, of either sign, of a base that works in model range."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was checked; a person judges the notes."""

    check: str
    result: Literal["pass", "fail", "note"]
    found: str


@final
@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a base did: its samples, how it denoises by each prediction type, its round trips."""

    samples: Maps
    types: dict[str, Denoising]
    round_trips: list[dict[str, float]]


@final
class _Watched:
    """A denoiser that reports its evaluations as progress."""

    def __init__(self, inner: Denoiser) -> None:
        self._inner = inner

    @property
    def schedule(self) -> NoiseSchedule:
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        clean = self._inner(x_t, t)
        listener.get().advance("check", len(x_t))
        return clean


def check_model(
    source: str, samples: int = 16, steps: int = 20, out: Path | None = None
) -> dict[str, Any]:
    """Check a base on this device; write `check.json` and `check.png` if a folder is given.

    Raises:
        BaseModelError: the base cannot be loaded, or its card cannot be read.
        ConfigError: fewer than 2 samples, more steps than the schedule has, `out` is a file.
    """
    device = choose_device("auto")
    model, card = load_model(source, device), read_card(source)
    _require(model, samples, steps, out)
    began = time.monotonic()
    measured = _measure(model, samples, steps)
    values = _values(measured.samples)
    rows = [
        _digest_row(card["digest"], model.digest),
        *_denoising_rows(measured.types, model.prediction),
        _values_row(values),
    ]
    record = {
        "model": source,
        "passed": all(row.result != "fail" for row in rows),
        "checks": [asdict(row) for row in rows],
        "domain": card["domain"],
        "base": describe_base(model),
        "device": str(device),
        "cost": [{"batch": n, "ms_per_map": _milliseconds(model, n)} for n in BATCHES],
        "round_trips": measured.round_trips,
        "values": values,
        "noise_levels": list(NOISE_LEVELS),
        "predictions": {kind: {"loss": d.loss, **asdict(d)} for kind, d in measured.types.items()},
    }
    listener.get().end("check", time.monotonic() - began, source)
    if out is not None:
        write_json(out / "check.json", finite(record))
        sheet = {"samples": measured.samples.cpu().nan_to_num()}
        write_sheet(sheet, out / "check.png", (values["low"], values["high"]))
    return record


def read_card(source: str) -> dict[str, str | None]:
    """Domain and digest that a base states, in its card's front matter or `training.json`.

    Raises:
        BaseModelError: front matter or record that cannot be read.
    """
    if source.startswith(PREFIX):
        return {"domain": packaged(source).domain, "digest": None}
    card, training = Path(source) / "README.md", Path(source) / "training.json"
    try:
        text = _text(card)
        block = text[4:].partition("\n---\n")[0] if text.startswith("---\n") else ""
        stated = {**(read_plain(block) or {})}
        record = json.loads(_text(training) or "{}")
        stated |= {k: v for k, v in record.items() if k == "digest"}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BaseModelError(
            f"{source}: cannot read README.md or training.json ({error}); expected YAML front "
            "matter between lines of --- and a JSON object: mend or remove them"
        ) from error
    return {key: str(stated[key]) if key in stated else None for key in ("domain", "digest")}


def _text(path: Path) -> str:
    """Text of a file of a base; '' where there is none."""
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path.name} has more than {MAX_TEXT} bytes")
    return path.read_text()


def _require(model: BaseModel, samples: int, steps: int, out: Path | None) -> None:
    most = len(model.denoiser.schedule) - 1
    if samples < 2 or not 1 <= steps <= most:
        raise ConfigError(
            f"got {samples} samples in {steps} steps; expected at least 2 samples in 1 to {most} "
            "steps, as the base's schedule allows"
        )
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: got a file; expected a folder, or a name that is free")


def _measure(model: BaseModel, samples: int, steps: int) -> Measured:
    few = min(samples, MAX_COMPARED)
    if isinstance(model.denoiser, SeveralDenoisers):
        raise ConfigError(f"{model.source}: got several bases; expected one; check each by itself")
    kinds = readings(model.denoiser, model.prediction)
    inverting = sum(nfe + nfe // PASSES for nfe in ROUND_TRIPS)
    per_kind = few * (steps + len(NOISE_LEVELS))
    total = (samples - few) * steps + len(kinds) * per_kind + few * inverting
    listener.get().begin("check", total, 0)
    own, types = torch.empty(0), {}
    for kind, inner in kinds.items():
        denoiser = _Watched(inner)
        declared = kind == model.prediction
        drawn = _draw(model, denoiser, samples if declared else few, steps)
        types[kind] = denoising(denoiser, drawn[:few], ROOT)
        own = drawn if declared else own
    trips = [_round_trip(model, own[:few], nfe // PASSES) for nfe in ROUND_TRIPS]
    return Measured(own, types, trips)


def _draw(model: BaseModel, denoiser: Denoiser, count: int, steps: int) -> Maps:
    schedule = denoiser.schedule
    grid = schedule.log_snr_grid(steps + 1, len(schedule) - 1)
    return decode(denoiser, "ddim", _noise(model, count), grid)


def _noise(model: BaseModel, count: int) -> Maps:
    z = normal(
        SeedRange(ROOT, 0, count), model.code_shape((model.channels, model.size, model.size))
    )
    return z.to(next(model.denoiser.network.parameters()).device)


def _round_trip(model: BaseModel, maps: Maps, steps: int) -> dict[str, float]:
    """Invert samples to the `t_max` of runs and decode them; return medians over maps."""
    schedule = model.denoiser.schedule
    t_max = schedule.index_of(AUTO_NOISE)
    grid = schedule.log_snr_grid(min(steps, t_max) + 1, t_max)
    error = invert(_Watched(model.denoiser), maps, grid, PASSES).error.cpu()
    relative = error / maps.flatten(1).std(dim=1).cpu()
    return {
        "nfe": PASSES * steps,
        "steps": steps,
        "psnr_db": float(statistics.median(psnr(maps, error.numpy()))),
        "relative_rms": float(relative.median()),
    }


def _milliseconds(model: BaseModel, batch: int) -> float:
    """Median time of a call per map; reading one value waits for the device."""
    x, times = _noise(model, batch), []
    for _ in range(REPEATS + 1):  # the first one warms up
        began = time.perf_counter()
        float(model.denoiser(x, len(model.denoiser.schedule) // 2)[0, 0, 0, 0])
        times.append(1e3 * (time.perf_counter() - began) / batch)
    return statistics.median(times[1:])


def _values(samples: Maps) -> dict[str, float]:
    values = samples.double().cpu().numpy()
    low, median, high = (float(q) for q in np.quantile(values, (0.001, 0.5, 0.999)))
    return {"low": low, "median": median, "high": high, "std": float(values.std())}


def _digest_row(stated: str | None, digest: str) -> Row:
    if stated is None:
        return Row("digest", "note", f"{digest[:16]}...; the card states none to compare with")
    if stated == digest:
        return Row("digest", "pass", f"{digest[:16]}..., as stated")
    return Row("digest", "fail", f"{digest[:16]}...; the card states {stated}: not the same base")


def _denoising_rows(types: dict[str, Denoising], declared: str) -> list[Row]:
    own, right = types[declared], recognised(types)
    losses = ", ".join(f"{kind} {found.loss:.3g}" for kind, found in types.items())
    said = f"declared {declared}; losses by type: {losses}"
    if right is None:
        kind = Row("prediction type", "note", f"{said}; none is clearly right")
    elif right == declared:
        kind = Row("prediction type", "pass", said)
    else:
        kind = Row("prediction type", "fail", f"{said}; the network predicts {right}")
    useful = Row(
        "denoises",
        "pass" if own.useful else "fail",
        f"loss {own.loss:.3g} on own samples, where a linear denoiser has 1",
    )
    slopes = ", ".join(f"{slope:.2f}" for slope in own.slopes)
    fits = f"true noise on estimated noise, by noise level: {slopes}; right is 1"
    return [kind, useful, Row("noise levels", "pass" if own.noise_fits else "fail", fits)]


def _values_row(values: dict[str, float]) -> Row:
    low, high = values["low"], values["high"]
    found = f"{low:.3g} to {high:.3g}, spread {values['std']:.3g}"
    if max(-low, high) <= USUAL_RANGE:
        return Row("values", "pass", found)
    return Row("values", "note", f"{found}; runs give it maps in about [-1, 1]")
