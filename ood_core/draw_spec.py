"""How latents are drawn: part of a method, and so of the run's identity."""

from dataclasses import dataclass, replace
from typing import Literal, final

from ood_core.errors import require

ConstructKind = Literal["prior", "slerp", "norm", "combination", "cluster"]

SHARE, PARENTS = 0.15, 3  # of draws that leave them open


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DrawSpec:
    """What a latent is made of, and what it is held against before it is decoded.

    `prior` draws from the fitted prior. `slerp` and `norm` go from the latent of a random fit
    target towards such a draw, by `share` of the way; `grid` takes one of the published 20 shares
    at random. `combination` adds `parents` latents with random weights that keep mean and variance.
    `cluster` draws a tangent at the Fréchet mean of the latents' directions.

    Intervals of accepted radii, distances and angles are measured on draws of the same `construct`,
    or, as published, on the `latents` of the targets themselves.
    """

    construct: ConstructKind = "prior"
    share: float | Literal["grid"] | None = None
    parents: int | None = None
    accept: Literal["construct", "latents"] = "construct"

    def __post_init__(self) -> None:
        between, summed = self.construct in ("slerp", "norm"), self.construct == "combination"
        require(
            self.share is None or between,
            f"draw.share: got {self.share} for {self.construct}; expected it for slerp or norm",
        )
        require(
            self.parents is None or summed,
            f"draw.parents: got {self.parents} for {self.construct}; expected it for combination",
        )
        require(
            self.share in (None, "grid") or 0 < float(self.share) < 1,
            f"draw.share: got {self.share}; expected grid or a number between 0 and 1",
        )
        require(
            self.parents is None or 2 <= self.parents <= 10**6,
            f"draw.parents: got {self.parents}; expected at least 2",
        )

    @property
    def sources(self) -> int:
        """Number of latents that a draw is made of; 0 where it is of all of them alike."""
        return {"slerp": 1, "norm": 1, "combination": self.parents or PARENTS}.get(
            self.construct, 0
        )

    def filled(self) -> "DrawSpec":
        """Return the spec with what its construct needs and was left open."""
        between, summed = self.construct in ("slerp", "norm"), self.construct == "combination"
        share = SHARE if between and self.share is None else self.share
        return replace(self, share=share, parents=self.sources if summed else None)
