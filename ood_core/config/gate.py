"""Conditions on a set of samples before it is published: no part of a run's identity."""

from dataclasses import dataclass
from typing import final

from ood_core.errors import require

KINDS_OF_COPIES = (
    "verbatim", "symmetry", "shift", "noise", "contrast", "inversion", "rotation", "rescaling",
    "window", "quadrant", "squeezed", "detail", "warp",
)  # fmt: skip
"""What is planted to measure what the search for copies can see (`ood_core.evaluation.copies`)."""
ASKED = KINDS_OF_COPIES[:-1]
"""Warps are found in part on most sets: to ask for them would leave most sets undecided."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GateSpec:
    """What must hold on held-out targets before a set is published.

    Copies are looked for whatever is asked: they are listed, and left out of the set. How good the
    maps must be, only you can say: without a condition on that, a set is complete, neither
    published nor quarantined.

    Attributes:
        spectrum_error: most that the mean absolute log ratio of power spectra may be. None, not
            asked: how exact a spectrum must be depends on what the maps are for.
        pixel_wasserstein: most that the Wasserstein distance of pixel values may be, in standard
            deviations of real pixels. None, not asked. The tests behind `unsteered_p` take every
            map in units of its own, so they do not see another brightness or contrast; this does.
        nearest_ratio: least ratio of distances to the nearest fit target, samples to real maps; 1
            is as novel as real maps, copies alone have 0. None: steered maps may be less typical.
        c2st: most that the accuracy of the two-sample classifier may be; 0.5 is perfect. None: it
            uses statistics that are steered.
        unsteered_p: least adjusted p-value of the tests by statistics that were not steered. None:
            with many maps every model fails it, as every model is wrong. 0.05 publishes 95 % of
            sets that are as the real maps.
        copies: most of the samples, as a share, that may be copies of fit targets and be left out;
            above 0, one always may. 0.01: a method that copies more is no source of new maps. As
            many may repeat other samples, where held-out maps never do.
        copy_kinds: kinds of copies that the search must be able to see; else the outcome is
            undecided. All but "warp" by default: on small, smooth or almost round maps some cannot
            be told from real maps. A set that is published without a kind says so.
        copy_power: least share of planted copies of each of these kinds that are found. 0.8, of 20
            planted: a search that finds all of them fails by chance in no case.
        copies_p: least p-value of so many samples near to a target in pixels, for copies that are
            too far for a single one to be told. 0.01: it holds in 99 % of sets of real maps.
        min_held_out: held-out maps that a decision needs; with fewer, or with neighbours so alike
            that all are worth fewer, the outcome is undecided. 30: quantiles that limits are set by
            are then off by less than a tenth of the maps.
    """

    spectrum_error: float | None = None
    pixel_wasserstein: float | None = None
    nearest_ratio: float | None = None
    c2st: float | None = None
    unsteered_p: float | None = None
    copies: float = 0.01
    copy_kinds: tuple[str, ...] = ASKED
    copy_power: float = 0.8
    copies_p: float = 0.01
    min_held_out: int = 30

    def __post_init__(self) -> None:
        require(self.min_held_out >= 2, "gate.min_held_out: expected 2 or more")
        require(0 <= self.copies <= 1, "gate.copies: expected a share, 0 to 1")
        require(0 < self.copy_power <= 1, "gate.copy_power: expected a number between 0 and 1")
        require(0 < self.copies_p < 1, "gate.copies_p: expected a number between 0 and 1")
        unknown = [kind for kind in self.copy_kinds if kind not in KINDS_OF_COPIES]
        require(not unknown, f"gate.copy_kinds: got {unknown}; expected {KINDS_OF_COPIES}")
        p = self.unsteered_p
        require(p is None or 0 < p < 1, "gate.unsteered_p: expected a number between 0 and 1")
