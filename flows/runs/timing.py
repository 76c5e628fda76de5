"""Where the seconds of a stage's workers go: parts of shards, summed over a session."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

PARTS = ("build", "wait", "compute", "fetch", "measure", "encode", "write")
"""Parts of a shard that do not contain one another; `network` is within `compute`."""


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """What `slots` workers have done since a moment."""

    slots: int
    began: float
    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @classmethod
    def begin(cls, slots: int) -> "Spent":
        """Start the clock."""
        return cls(slots, time.monotonic())

    def add(self, parts: Mapping[str, float]) -> None:
        """Count the parts of one shard."""
        for name, seconds in parts.items():
            self.parts[name] += seconds

    def end(self) -> dict[str, float]:
        """Seconds of every part, of all slots, and what is left of these: `idle`.

        Where shards are stored while others are computed, parts overlap, and `idle` is a least.
        """
        slots = self.slots * (time.monotonic() - self.began)
        idle = max(0.0, slots - sum(self.parts[name] for name in PARTS))
        return {"slots": slots, **self.parts, "idle": idle}


def shares(split: Mapping[str, float]) -> dict[str, float]:
    """Every part as a share of the seconds that the stage's workers had."""
    slots = split["slots"] or 1.0
    return {name: round(seconds / slots, 4) for name, seconds in split.items() if name != "slots"}
