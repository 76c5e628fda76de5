"""The table that a command line asks for."""

from collections.abc import Sequence
from pathlib import Path

from flows.science.bench import ScienceSpec
from flows.science.methods import METHODS, MethodName
from ood_core.errors import ConfigError
from ood_core.maps.paths import SHIPPED

SETS = ("hubble", "sun", "perseus", "reionisation", "lognormal")


def read_spec(
    targets: Sequence[Path], methods: str, numbers: str, seeds: int, samples: int
) -> ScienceSpec:
    """Read lists as they are typed; what is left out is all of them.

    Raises:
        ConfigError: an unknown method, or numbers that are none.
    """
    return ScienceSpec(
        configs=tuple(targets) or tuple(SHIPPED / "examples" / f"{name}.yaml" for name in SETS),
        methods=_methods(methods),
        numbers=_numbers(numbers),
        seeds=seeds,
        samples=samples,
    )


def _methods(text: str) -> tuple[MethodName, ...]:
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in METHODS]
    if unknown:
        known = ", ".join(METHODS)
        raise ConfigError(f"--methods: got {', '.join(unknown)}; expected some of {known}")
    return tuple(name for name in METHODS if name in asked or not asked)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"--n: got {text!r}; expected numbers such as 16,64,256") from error
