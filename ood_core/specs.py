"""What was asked for, as frozen records of plain scalars; ranges are checked where they are built.

The records are the fields of the configuration file as well (`flows.settings`), so that there is
one definition of each. Digests of them name a run; see `RunIdentity`.
"""

from dataclasses import dataclass
from typing import Literal, final

from ood_core.errors import ConfigError

Prediction = Literal["epsilon", "v_prediction", "sample"]
Symmetry = Literal["flip", "rotate90", "translate"]
TransformKind = Literal["linear", "log", "asinh"]


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsSpec:
    """Which files hold the targets, and how they are read and split.

    `path` is a FITS, `.npy`, `.npz` or Zarr path or a glob of them; `array` names the HDU, the
    `.npz` member or the Zarr array where there is a choice. `held_out` is a fraction in (0, 1) or a
    number of maps; the last maps in file order are held out, so that a file can order its maps by
    place and keep both splits apart in space.
    """

    path: str
    array: str | None = None
    transform: TransformKind = "linear"
    symmetries: tuple[Symmetry, ...] = ()
    held_out: float = 0.5
    max_bytes: int = 2**32

    def __post_init__(self) -> None:
        _require(self.held_out > 0, f"held_out: got {self.held_out}; expected more than 0")
        _require(
            self.held_out < 1 or float(self.held_out).is_integer(),
            f"held_out: got {self.held_out}; expected a fraction below 1 or a whole number of maps",
        )
        _require(len(set(self.symmetries)) == len(self.symmetries), "symmetries: named twice")

    def fit_count(self, maps: int) -> int:
        """Number of maps, counted from the first, that are fitted to; the others are held out."""
        held = self.held_out if self.held_out >= 1 else round(maps * self.held_out)
        return maps - int(held)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSpec:
    """Recipe of a base model: procedural domain, network, optimisation."""

    name: str
    seed: int = 0
    size: int = 32
    widths: tuple[int, ...] = (24, 64, 128, 128)
    layers: int = 1
    attention: tuple[bool, ...] = (False, False, True, True)
    norm_groups: int = 8
    prediction: Prediction = "v_prediction"
    steps: int = 6500
    batch: int = 32
    rate: float = 4e-4
    ema: float = 0.999

    def __post_init__(self) -> None:
        _require(len(self.widths) == len(self.attention), "widths and attention: one per level")
        _require(
            all(w % self.norm_groups == 0 for w in self.widths),
            f"got widths {self.widths}; expected multiples of norm_groups {self.norm_groups}",
        )
        _require(
            self.size % 2 ** (len(self.widths) - 1) == 0,
            f"got size {self.size}; expected a multiple of {2 ** (len(self.widths) - 1)}",
        )
        _require(self.steps > 0 and self.batch > 0, "steps and batch must be positive")
        _require(0 <= self.ema < 1 and self.rate > 0, "ema in [0, 1) and a positive rate")
