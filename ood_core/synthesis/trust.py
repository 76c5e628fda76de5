"""How much each expert of a fitted method is trusted."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """How much each expert is trusted, per timestep and band of wavenumber.

    Attributes:
        experts: names; `base` is the frozen model.
        noise_to_signal: `sigma/alpha` of every timestep, rising.
        knots: band centres in cycles per pixel.
        weights: of every expert, `(timesteps, bands, experts)`; 0 where it is not evaluated.
    """

    experts: tuple[str, ...]
    noise_to_signal: Float[np.ndarray, " timesteps"]
    knots: Float[np.ndarray, " bands"]
    weights: Float[np.ndarray, "timesteps bands experts"]

    @property
    def evaluations(self) -> dict[str, int]:
        """At how many of the timesteps each expert is evaluated when one map is made."""
        evaluated = (self.weights != 0).any(axis=1).sum(axis=0)
        return {name: int(count) for name, count in zip(self.experts, evaluated, strict=True)}

    def __str__(self) -> str:
        timesteps = len(self.noise_to_signal)
        return "\n".join(
            f"{name}: {n} of {timesteps} timesteps" for name, n in self.evaluations.items()
        )
