"""Errors of the project, one family per cause, so that each has one exit code.

A message says what was got, what was expected and what to do about it.
"""

from typing import Any


class FarfieldError(Exception):
    """Base of every error that a user can cause or mend."""


class InputError(FarfieldError, ValueError):
    """Targets or configuration cannot be used as they are."""


class TargetError(InputError):
    """A target file is missing, unreadable, or holds maps that a run cannot take."""


class TargetWarning(UserWarning):
    """Something about the targets that is no fault, and that the user should know."""


class BaseModelError(InputError):
    """A base model cannot be loaded or does not fit the targets."""


class BaseModelMissing(BaseModelError):
    """There is no such base, or the hub did not give it."""


class ConfigError(InputError):
    """The configuration is wrong: unknown key, impossible value, contradiction."""


class PriorUnderdetermined(InputError):
    """Fewer latents than the requested estimator needs."""


class IdentityRefused(FarfieldError, ValueError):
    """The folder already holds a run with another identity or plan."""


class ShardCorrupt(FarfieldError, OSError):
    """A shard's bytes do not match its receipt."""


class RunIncomplete(FarfieldError, RuntimeError):
    """Some shards failed for good; the others are stored, with receipts."""


class Quarantined(FarfieldError, RuntimeError):
    """The gate refused the samples, and what was asked for would hand them on."""


class InUse(FarfieldError, RuntimeError):
    """Another driver holds the run, or took it over from this one."""


class StoreUnwritable(FarfieldError, RuntimeError):
    """The disk of the run is full or read-only, or permission is missing."""


class StoreUnreachable(FarfieldError, RuntimeError):
    """The object store of the run gives no answer, or has no such bucket, or refuses us."""


class DeviceFull(FarfieldError, RuntimeError):
    """The memory of a device is too small for the smallest part of the work."""


class ServiceLost(FarfieldError, RuntimeError):
    """What a session runs on, Ray's node or Prefect's server, is gone."""


def require(ok: bool, message: str) -> None:
    """Check one value of a spec.

    Raises:
        ConfigError: it is not as it should be.
    """
    if not ok:
        raise ConfigError(message)


def require_counts(spec: Any, *names: str, most: int = 10**9) -> None:
    """Numbers beyond any use would run for ever, or not fit the types of arrays."""
    for name in names:
        value = getattr(spec, name)
        require(value is None or value <= most, f"{name}: got {value}; expected at most {most}")
