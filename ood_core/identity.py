"""Run identity: a digest of content, never of place.

The record holds exactly what changes results: the resolved method, the seed, the reading of the
targets with their digest, and the digest of the base. Worker count, pool, device, paths, names and
the number of samples are not in it. The scheme is versioned: another version is another identity.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from ood_core.specs import GenerationSpec, Method, TargetsSpec

SCHEME = 1


def identity_record(
    targets: TargetsSpec,
    targets_digest: str,
    base_digest: str,
    method: Method,
    generation: GenerationSpec,
) -> dict[str, Any]:
    """Everything that changes results, as plain JSON values."""
    record = {
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
    return plain


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record, hexadecimal."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line per field that differs, as `field: old -> new`, sorted by field."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
