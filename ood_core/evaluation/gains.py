"""Records of what training with synthetic maps was worth, and the sentence that says it.

Filled by `ood_core.evaluation.downstream`, which says what is trained and how; read by the report.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from ood_core.errors import InputError
from ood_core.evaluation.learners import LEARNERS


@final
@dataclass(frozen=True, slots=True)
class ArmScore:
    """One training set by one learner: score and gain over the real maps alone, with intervals.

    `multiple` counts synthetic maps per real one; it is None for what has none of them.
    """

    learner: str
    arm: str
    title: str
    multiple: int | None
    maps: int
    score: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float

    @property
    def helps(self) -> bool:
        """Whether its gain is above 0 with 95 % confidence."""
        return self.gain_low > 0

    @property
    def hurts(self) -> bool:
        """Whether its gain is below 0 with 95 % confidence."""
        return self.gain_high < 0


@final
@dataclass(frozen=True, slots=True)
class Utility:
    """What training with synthetic maps was worth; `held_out` real maps were asked about.

    `labelled` of `samples` synthetic maps had a label; `multiple` is the k of the sentence.
    """

    task: str
    classes: tuple[str, ...]
    chance: float
    real: int
    held_out: int
    samples: int
    labelled: int
    multiple: int
    seeds: int
    arms: tuple[ArmScore, ...]
    sentence: str

    @property
    def measure(self) -> str:
        """Name of the score."""
        return "balanced accuracy" if self.classes else "R²"

    def arm(self, learner: str, name: str) -> ArmScore:
        """Return one training set's score."""
        return {(arm.learner, arm.arm): arm for arm in self.arms}[learner, name]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready numbers, lists and strings."""
        return {**asdict(self), "measure": self.measure}


def read_utility(record: Mapping[str, Any]) -> Utility:
    """Return what `as_dict` gave.

    Raises:
        InputError: the record is of another version.
    """
    known = {key: value for key, value in record.items() if key != "measure"}
    try:
        arms = tuple(ArmScore(**arm) for arm in known.pop("arms"))
        return Utility(**{**known, "classes": tuple(known["classes"]), "arms": arms})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"utility.json: got a record of another version of farfield ({error!r}); run "
            "`farfield utility` again"
        ) from error


def sentence(found: Utility) -> str:
    """Say whether synthetic maps help, and beside what; where no gain shows, say that too."""
    return "; ".join(_told(found, learner) for learner in LEARNERS) + "."


def _told(found: Utility, learner: str) -> str:
    alone, most = found.arm(learner, "real"), found.arm(learner, f"real+{found.multiple}")
    beside = (("flips", "flips"), ("fields", "Gaussian fields"), ("synthetic", "no real map"))
    others = ", ".join(f"{found.arm(learner, arm).score:.2f} with {word}" for arm, word in beside)
    word = "help" if most.helps else "hurt" if most.hurts else "do not help"
    first = learner == next(iter(LEARNERS))
    who = f"{LEARNERS[learner][0]} to tell {found.task}" if first else LEARNERS[learner][0]
    return (
        f"{'Synthetic maps' if first else 'they'} {word} {who}: {found.measure} {most.score:.2f} "
        f"with {found.multiple} per real map, {alone.score:.2f} without (gain {most.gain:+.2f}, "
        f"95 % {most.gain_low:+.2f} to {most.gain_high:+.2f}; {others})"
    )
