"""Run identity: a digest of content, never of place.

The record holds exactly what changes results: the resolved method, the seed, the reading of the
targets with their digest, and the digest of the base. Worker count, pool, device, paths, names and
the number of samples are not in it.

Old runs outlive new fields by one rule. A field that came after the scheme was fixed is listed in
`LATER` with the value that means what runs did before it was there, and is left out of the record
while it has this value; whoever reads a record fills it in again. So an old run keeps its identity
and resumes, and a field's default may change without renaming anyone. `SCHEME` goes up only when a
recorded field changes its meaning or goes away, or when the same record would give other samples.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from ood_core.errors import IdentityRefused
from ood_core.method import Method
from ood_core.specs import GenerationSpec, TargetsSpec

SCHEME = 1
LATER: dict[str, Any] = {
    "method.floor": 0,
    "method.calibration.patches": 0,
    "method.steering.coordinates": "pixels",
    "method.steering.rings": 0,
    "method.steering.start": 0.0,
    "method.draw": None,
    "method.eta_floor": 0,
    "method.extra_passes": 0,
    "method.inverter": "fixed_point",
    "method.eta": 0.0,
    "method.teleport": 0,
    "method.round_trip_limit": 0.0,
    "method.calibration.tolerance": 0.0,
    "method.calibration.least_variance": 1e-3,
    "method.calibration.thinned": False,
    "method.steering.thinned": False,
    "method.grid": None,
    "method.cache_interval": 1,
    "method.floor_noise": False,
    "method.steering.large_waves": 1.0,
    "method.coarsening": False,
}
"""Place in the record, such as `method.steering.rate`, to the value that runs without it had.

Entries are added and never changed. The value is the old behaviour, whatever the default is today.
"""


def identity_record(
    targets: TargetsSpec,
    targets_digest: str,
    base_digest: str,
    method: Method,
    generation: GenerationSpec,
) -> dict[str, Any]:
    """Everything that changes results, as plain JSON; later fields only where they differ."""
    record: dict[str, Any] = {
        "scheme": SCHEME,
        "base": {"digest": base_digest},
        "targets": {
            "digest": targets_digest,
            "transform": targets.transform,
            "symmetries": sorted(targets.symmetries),
            "held_out": float(targets.held_out),
        },
        "method": asdict(method),
        "generation": {"seed": generation.seed},
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    for place, before in LATER.items():
        section, name = _section(plain, place)
        if section is not None and name in section and section[name] == before:
            del section[name]
    return plain


def complete(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the later fields that it left out."""
    whole: dict[str, Any] = json.loads(json.dumps(record))
    for place, before in LATER.items():
        section, name = _section(whole, place)
        if section is not None:
            section.setdefault(name, before)
    return whole


def require_scheme(record: dict[str, Any], place: str) -> None:
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


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record, hexadecimal."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line per field that differs, as `field: old -> new`, sorted by field."""
    before, after = _flat(complete(old)), _flat(complete(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _section(record: dict[str, Any], place: str) -> tuple[dict[str, Any] | None, str]:
    """Return the mapping that holds a place and the last name; None where a part is not used."""
    *parents, name = place.split(".")
    for parent in parents:
        inner = record.get(parent)
        if not isinstance(inner, dict):
            return None, name
        record = inner
    return record, name


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
