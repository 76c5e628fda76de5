"""Run identity: a digest of content, never of paths.

The record holds exactly what changes results: the resolved method, the seed, the reading of the
targets with their digest, and the digest of the base. Worker count, pool, device, paths, names and
the number of samples are not in it. `SCHEME` goes up whenever a recorded field is added, goes away
or changes its meaning, and when the same record would give other samples; runs of another scheme
are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ood_core.config.method import CalibrationSpec, DrawSpec, Method, SteeringSpec
from ood_core.config.steer import SteerSpec, WishSpec
from ood_core.errors import IdentityRefused

SCHEME = 10
UNSAID: dict[str, tuple[Any, ...]] = {"steer": (None,), "pyramid": (1, "auto")}
"""Fields that are no part of a record where they have these values, the first where it is read."""
SECTIONS = {"calibration": CalibrationSpec, "steering": SteeringSpec, "draw": DrawSpec}


def identity_record(
    targets: Mapping[str, Any], base_digest: str, method: Method, seed: int
) -> dict[str, Any]:
    """Everything that changes results, as plain JSON; the method must be resolved.

    `targets` is what `TargetSet.record` says of them.
    """
    record = {
        "scheme": SCHEME,
        "base": {"digest": base_digest},
        "targets": dict(targets),
        "method": method_record(method),
        "generation": {"seed": seed},
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def method_record(method: Method) -> dict[str, Any]:
    """All fields of a method; without those that say that nothing is wished for, or no pyramid."""
    found = asdict(method)
    return {k: v for k, v in found.items() if k not in UNSAID or v not in UNSAID[k]}


def read_method(record: Mapping[str, Any]) -> Method:
    """Rebuild the method from an identity record.

    Raises:
        IdentityRefused: its fields are not those of this version.
    """
    parts = _checked({k: v[0] for k, v in UNSAID.items()} | record["method"], Method, "method")
    if parts["steer"] is not None:
        steer = _checked(parts["steer"], SteerSpec, "method.steer")
        wishes = (_checked(one, WishSpec, "method.steer.wishes") for one in steer["wishes"])
        parts["steer"] = SteerSpec(**{**steer, "wishes": tuple(WishSpec(**w) for w in wishes)})
    for name, kind in SECTIONS.items():
        if parts[name] is not None:
            parts[name] = kind(**_checked(parts[name], kind, f"method.{name}"))
    if parts["timesteps"] is not None:
        parts["timesteps"] = tuple(parts["timesteps"])
    return Method(**parts)


def require_scheme(record: Mapping[str, Any], place: str) -> None:
    """Refuse a record whose fields this version would misread.

    Raises:
        IdentityRefused: the record is of another scheme.
    """
    if record.get("scheme") != SCHEME:
        raise IdentityRefused(
            f"{place} holds a run of identity scheme {record.get('scheme')}; this version of "
            f"farfield reads scheme {SCHEME}: use the version that `versions` in its run.json "
            "names, or give another folder"
        )


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record, hexadecimal."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per field that differs, as `field: old -> new`, sorted by field."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _checked(section: Mapping[str, Any], kind: type[Any], place: str) -> dict[str, Any]:
    known = {f.name for f in fields(kind)}
    if odd := sorted(known ^ section.keys()):
        raise IdentityRefused(
            f"run.json: {place} differs from this version of farfield in {', '.join(odd)}; use the "
            "version that planned the run"
        )
    return dict(section)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
