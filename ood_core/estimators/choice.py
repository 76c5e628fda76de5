"""The prior of a run: the kind that was asked for, or the one that left-out latents favour."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from ood_core.arrays import Maps
from ood_core.config.method import GaussianKind, PriorKind
from ood_core.config.targets import Symmetry
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.families import GAUSSIANS, fit_scored, likeliest
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.mixture import MixturePrior, fit_mixture_prior
from ood_core.estimators.moments import Norms, norms

Prior = GaussianPrior | MixturePrior
Scored = tuple[float, Callable[[], Prior]]
"""Score of left-out latents, and what fits the prior to all of them."""


def _gaussian(latents: Maps, symmetries: Sequence[Symmetry], kind: GaussianKind) -> Scored:
    index, score = likeliest(latents, kind, symmetries)
    return score, lambda: fit_scored(latents, kind, symmetries, index, score)


def _mixture(latents: Maps, symmetries: Sequence[Symmetry]) -> Scored:
    prior = fit_mixture_prior(latents, symmetries)
    if not math.isfinite(prior.held_out_log_density):
        raise PriorUnderdetermined("a mixture of these latents has no finite likelihood")
    return prior.held_out_log_density, lambda: prior


PRIORS: dict[PriorKind, Callable[[Maps, Sequence[Symmetry]], Scored]] = {
    **{kind: partial(_gaussian, kind=kind) for kind in GAUSSIANS},
    "mixture": _mixture,
}
"""Every kind of prior, by name; the Gaussian ones are those of `GAUSSIANS`."""
CANDIDATES: tuple[PriorKind, ...] = (
    "isotropic", "diagonal", "low_rank", "ledoit_wolf", "oas",
    "spectral", "spectral_low_rank", "spectral_factors", "mixture",
)  # fmt: skip
"""What `auto` chooses from, simplest first; of equal scores the first wins.

The list is spelled out because it belongs to the identity scheme: a further kind must not change
what `auto` draws in runs that have the same identity. Add it here only with a new `SCHEME`.
"""


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """What was fitted and why: `scores` has all kinds that were tried, by what they are chosen by.

    They are mean log densities of left-out latents, nats per dimension (`fit_gaussian`).
    """

    kind: PriorKind
    scores: dict[PriorKind, float]
    norms: Norms

    @property
    def words(self) -> str:
        """One line for people."""
        tried = f", likeliest of {len(self.scores)}" if len(self.scores) > 1 else ""
        n, needed = self.norms.n, self.norms.needed
        unknown = "" if self.norms.identified else f"; mean not identified: n = {n} < {needed:.0f}"
        return f"{self.kind}{tried}{unknown}"


def fit_prior(
    latents: Maps, kind: PriorKind, symmetries: Sequence[Symmetry] = ()
) -> tuple[Prior, Choice]:
    """Fit one kind, or with `auto` all of them and keep the likeliest.

    Kinds that need more latents, or that the symmetries rule out, are no candidates of `auto`.

    Raises:
        PriorUnderdetermined: the kind needs more latents, or `translate` rules it out.
        ValueError: no such kind.
    """
    if kind != "auto" and kind not in PRIORS:
        raise ValueError(f"got a prior of kind {kind}; expected auto, {', '.join(PRIORS)}")
    found: dict[PriorKind, Scored] = {}
    for candidate in CANDIDATES if kind == "auto" else (kind,):
        try:
            found[candidate] = PRIORS[candidate](latents, symmetries)
        except PriorUnderdetermined:
            if kind != "auto" or candidate == "isotropic":
                raise
    scores = {candidate: score for candidate, (score, _) in found.items()}
    best = max(scores, key=lambda candidate: scores[candidate])
    return found[best][1](), Choice(best, scores, norms(latents))
