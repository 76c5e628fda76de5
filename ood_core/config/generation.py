"""How many samples a run makes; part of the configuration file."""

from dataclasses import dataclass
from typing import final

from ood_core.errors import require, require_counts


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSpec:
    """How many samples are made, and in which units of work.

    Attributes:
        samples: number of synthetic maps.
        shard_size: samples per shard, which one worker computes in one batch and stores at once.
        seed: of all randomness, from 0; part of the identity.
    """

    samples: int = 1024
    shard_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"generation.samples: got {self.samples}; expected 1 or more")
        require(self.shard_size >= 1, "generation.shard_size: expected 1 or more")
        require_counts(self, "samples")
        require_counts(self, "shard_size", most=10**6)
        require(0 <= self.seed < 2**63, "generation.seed: expected 0 <= seed < 2^63")
