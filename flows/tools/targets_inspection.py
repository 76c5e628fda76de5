"""What a set of targets holds and what suits it, before any run: `farfield inspect TARGETS`."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from flows.report.inspection import shipped_models
from flows.settings import load_settings
from ood_core.config.targets import MissingSpec, TargetsSpec
from ood_core.errors import BaseModelError, InputError, TargetError
from ood_core.maps import paths
from ood_core.maps.advice import advise_transform, symmetry_tests
from ood_core.maps.mapset import MapSet, listing
from ood_core.maps.missing import advised_missing, filled
from ood_core.maps.quantization import Quantization
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet
from ood_core.maps.tiles import cut_maps
from ood_core.maps.transforms import RangeTransform
from ood_core.models.loading import load_model
from ood_core.report.pictures import picture_kind, target_sheet
from ood_core.store.files import write_atomic

MAX_TITLE = 90  # characters of a picture's title
PERCENTILES = (0.1, 16, 50, 84, 99.9)


def spec_of(targets: str, chosen: Mapping[str, Any]) -> TargetsSpec:
    """Return how targets are read: by a configuration file, or as a path with what was chosen."""
    if targets.endswith((".yaml", ".yml")) and os.path.isfile(targets):
        return replace(load_settings(Path(targets)).targets, **chosen)
    return TargetsSpec(path=targets, **chosen)


def inspect_targets(spec: TargetsSpec) -> tuple[dict[str, Any], MapSet]:
    """Describe a set of targets, test its symmetries, and advise on transform and base.

    What a run would refuse is told in `refused`, and does not stop the description.

    Returns:
        The description, and the maps as they were read.

    Raises:
        TargetError: files that cannot be read.
    """
    if spec.tiles or spec.cutouts:
        maps, spec = cut_maps(spec)
    else:
        maps = read_maps(spec.path, spec.array, spec.limits, spec.axes, spec.missing)
    fit = spec.fit_count(len(maps))
    refused = None
    rule = advised_missing(maps.values, spec.missing)
    try:
        targets = TargetSet.of(spec if rule is None else replace(spec, missing=rule[0]))
        targets.check()
        notes, values = targets.notes, targets.known
    except TargetError as error:
        refused, notes, rule = str(error), maps.notes, None
        values = maps.values[np.isfinite(maps.values).all((1, 2, 3))]
    channels, height, width = maps.values.shape[1:]
    found: dict[str, Any] = {
        "source": maps.source,
        "maps": len(maps),
        "files": maps.files,
        "channels": channels,
        "size": f"{height} x {width} px",
        "unit": maps.unit,
        "header_cards": len(maps.header.splitlines()),
        "values": [_range(maps.values[:, channel]) for channel in range(channels)],
        "missing": {**_missing(maps), "advice": _rule(spec, rule)},
        "split": {
            "fitted": fit,
            "held_out": len(maps) - fit,
            "first_fitted": maps.ids[0],
            "first_held_out": maps.ids[fit] if fit < len(maps) else None,
        },
        "refused": refused if rule is None else _refusal(maps, fit, spec),
        "notes": list(notes),
    }
    known = values[np.isfinite(values)]
    if len(values) < 2 or known.min() == known.max():
        return found, maps
    advice = advise_transform(values[:fit] if len(values) == len(maps) else values)
    whole = values if refused else targets.values
    ranged = RangeTransform.measure(advice.kind, known).forward(whole)
    found["quantization"] = Quantization.measure(values).found
    found["transform"] = {
        "advice": advice.kind,
        "reason": advice.reason,
        "nats_per_pixel_beside_linear": advice.gains,
        "asinh_knee": advice.knee,
        "asinh_centre": advice.centre,
        "log_normal": advice.log_normal,
    }
    tests = symmetry_tests(ranged) if height == width else {}
    found["symmetries"] = {
        name: {
            "p": test.p,
            "effect": test.effect,
            "about": list(test.offset),
            "outcome": test.outcome,
        }
        for name, test in tests.items()
    }
    found["base"] = advise_base((channels, height, width), maps.source)
    return found, maps


def advise_base(shape: tuple[int, int, int], source: str) -> dict[str, Any]:
    """Name the shipped base whose size is nearest, and say why the others do not fit."""
    fitting, others = [], {}
    for known in shipped_models():
        model = load_model(str(paths.SHIPPED / known["model"]))
        try:
            model.check(_sized(shape, source))
            fitting.append((abs(np.log(shape[1] / model.size)), known["model"], model.size))
        except (TargetError, BaseModelError) as error:
            others[known["model"]] = str(error).partition(": ")[2]
    if not fitting:
        return {"advice": None, "reason": "no shipped base takes these maps", "others": others}
    _, name, size = min(fitting)
    reason = (
        f"trained on maps of {size} px, these have {shape[1]} px; its domain are dead leaves "
        "(flat shapes that hide each other)"
    )
    return {"advice": name, "reason": reason, "others": others}


def _sized(shape: tuple[int, int, int], source: str) -> TargetSet:
    """A set of any maps of this shape, to ask models whether they take it."""
    noise = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    return TargetSet.from_arrays(noise, source=source)


def write_configuration(place: Path, spec: TargetsSpec, found: Mapping[str, Any]) -> None:
    """Write a configuration that is ready to run; the reasons stand beside the values.

    Raises:
        InputError: the file is there already, or cannot be written, or a run would refuse these
            targets.
    """
    base = found.get("base", {}).get("advice")
    rule = found["missing"]["advice"]
    refused = found["refused"] if rule is None else None
    if refused or base is None:
        reason = refused or found.get("base", {}).get("reason", "too few maps")
        raise InputError(
            f"{place}: got targets that a run would refuse ({reason}); expected usable ones: "
            "nothing is written"
        )
    tests = found["symmetries"]
    kept = [n for n, t in tests.items() if n != "translate" and t["outcome"] != "contradicted"]
    told = ", ".join(f"{n} {t['outcome']} (p = {t['p']:.3g})" for n, t in tests.items())
    usual, own = asdict(TargetsSpec(path=spec.path)), asdict(spec)
    advised = ("transform", "symmetries", "held_out", "missing")
    chosen = {n: v for n, v in own.items() if v != usual[n] and n not in advised}
    lacking = {n: v for n, v in own["missing"].items() if v != usual["missing"][n]}
    why = ""
    if rule is not None:
        lacking, why = rule["settings"], f"    # {rule['reason']}"
    path = spec.path if "://" in spec.path else os.path.abspath(os.path.expanduser(spec.path))
    lines = [
        f"name: {_scalar(Path(spec.path.rstrip('/')).stem.strip('*?.') or 'maps')}",
        f"base: {base}    # {found['base']['reason']}",
        "targets:",
        f"  path: {_scalar(path)}",
        *(f"  {name}: {_scalar(value)}" for name, value in chosen.items()),
        *([f"  missing: {_scalar(lacking)}{why}"] if lacking else []),
        f"  transform: {found['transform']['advice']}    # {found['transform']['reason']}",
        f"  # Tests on these maps: {told}.",
        "  # Whether a symmetry holds is physics, and yours to say; translate is for periodic",
        "  # maps.",
        f"  symmetries: [{', '.join(kept)}]",
        f"  held_out: {spec.held_out:g}    # the last maps in file order",
        "method: {preset: calibrated}",
        "generation: {samples: 1024, shard_size: 64, seed: 0}",
    ]
    if place.exists():
        raise InputError(f"{place}: is there already; expected a new file: choose another --write")
    _write(place, ("\n".join(lines) + "\n").encode(), "--write")
    load_settings(place)


def write_picture(place: Path, maps: MapSet) -> None:
    """Draw maps and the distribution of their values, as PNG, SVG or PDF by the ending.

    Raises:
        InputError: another ending, or a place that cannot be written.
    """
    kind = picture_kind(str(place))
    _write(place, target_sheet(maps.values, maps.unit, _title(maps), kind), "--picture")


def _title(maps: MapSet) -> str:
    """The file, by its end if that is long, or how many, with the first and the last map."""
    if maps.files > 1:
        first, last = (name[-MAX_TITLE // 3 :] for name in (maps.ids[0], maps.ids[-1]))
        return f"{maps.files} files, {first} … {last}"
    source = maps.source
    return source if len(source) <= MAX_TITLE else f"…{source[-MAX_TITLE:]}"


def _write(place: Path, content: bytes, option: str) -> None:
    try:
        write_atomic(place, content)
    except OSError as error:
        raise InputError(
            f"{place}: cannot be written ({error}); choose another {option}"
        ) from error


def _scalar(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, width=10**6, allow_unicode=True, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _range(values: NDArray[np.float32]) -> dict[str, float]:
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return {}
    named = zip(PERCENTILES, np.percentile(known, PERCENTILES), strict=True)
    return {
        "min": float(known.min()),
        **{f"p{share:g}": float(value) for share, value in named},
        "max": float(known.max()),
        "mean": float(known.mean()),
        "std": float(known.std()),
        "share_negative": float((known < 0).mean()),
        "share_zero": float((known == 0).mean()),
    }


def _rule(spec: TargetsSpec, rule: tuple[MissingSpec, str] | None) -> dict[str, Any] | None:
    """Settings of `targets.missing` that a run needs, and why; None where it needs no others."""
    if rule is None:
        return None
    settings, reason = rule
    usual = asdict(MissingSpec())
    own = {name: value for name, value in asdict(settings).items() if value != usual[name]}
    return {"settings": {**own, "limit": settings.limit}, "reason": reason}


def _refusal(maps: MapSet, fit: int, spec: TargetsSpec) -> str | None:
    """What a run would say of missing pixels without a rule."""
    try:
        filled(maps.values, maps.ids, fit, spec.missing, maps.source)
    except TargetError as error:
        return str(error)
    return None


def _missing(maps: MapSet) -> dict[str, Any]:
    share = (~np.isfinite(maps.values)).mean((1, 2, 3))
    with_some = np.flatnonzero(share)
    return {
        "share": float(share.mean()),
        "maps": len(with_some),
        "worst_share": float(share.max()),
        "named": listing([f"{maps.ids[i]} {share[i]:.2%}" for i in with_some]),
    }
