"""Records of the evidence about a set of samples.

Filled by `ood_core.evaluation.evaluate`; read by the gate and by the report. `real` means held
out: maps that nothing was fitted to.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor

COPY_RATIO = 0.9  # nearer to the targets than this, relative to real maps, is copying
COPY_DISTANCE = 0.5  # of the least distance of a held-out map: a single copy
LEVEL = 0.05  # of adjusted p-values: false alarms over all families together

Better = Literal["lower", "one", "half"]


@final
@dataclass(frozen=True, slots=True)
class Score:
    """One statistic of the samples beside real against real at the same set size.

    `whole` is the same distance of all samples from all held-out maps, where sums tell it.
    """

    name: str
    title: str
    value: float
    real: float
    low: float
    high: float
    better: Better
    note: str
    whole: float | None = None

    @property
    def inside(self) -> bool:
        """Whether the samples are as good as real maps; lower than the band counts as good."""
        return self.value <= self.high and (self.better != "one" or self.value >= self.low)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A curve per channel with a range around it."""

    median: Float[Tensor, "c bins"]
    low: Float[Tensor, "c bins"]
    high: Float[Tensor, "c bins"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class SpectrumCurves:
    """Power over wavenumber (cycles per pixel): medians and 16 to 84 % range of single maps."""

    k: Float[Tensor, " bins"]
    samples: Band
    real: Band


@final
@dataclass(frozen=True, slots=True, eq=False)
class HistogramCurves:
    """Density of pixels in model range; `real` has the 5 to 95 % range of random halves."""

    centres: Float[Tensor, "c bins"]
    samples: Float[Tensor, "c bins"]
    real: Band


@final
@dataclass(frozen=True, slots=True)
class ClosestPair:
    """A sample and the target it is nearest to, under a group element (see `symmetry.orbit`)."""

    sample: int
    target: int
    element: int
    distance: float


@final
@dataclass(frozen=True, slots=True)
class FamilyTest:
    """Energy test of one family of statistics, in spreads of the fit targets (whitened features).

    `distance` is unbiased, so that equal laws have 0 on average. `real_*` is half of the held-out
    maps against the other half. `targets_*` is fit targets against held-out ones, whitened by both,
    with a p adjusted like that of the samples. `visible_shift` of one feature, in standard
    deviations, and `visible_distance` are seen with 80 % power. A steered family is there for
    reference; its p is not adjusted, and it never counts as rejected.
    """

    name: str
    title: str
    steered: bool
    features: int
    distance: float
    p_value: float
    adjusted: float | None
    real_distance: float
    real_p: float
    visible_shift: float
    visible_distance: float
    targets_distance: float | None = None
    targets_adjusted: float | None = None

    @property
    def rejected(self) -> bool:
        """Whether real maps would show such a difference too rarely."""
        return self.adjusted is not None and self.adjusted <= LEVEL

    @property
    def targets_differ(self) -> bool:
        """Whether fit and held-out targets are no draws of one law."""
        return self.targets_adjusted is not None and self.targets_adjusted <= LEVEL


@final
@dataclass(frozen=True, slots=True)
class ClassifierTest:
    """Accuracy on rows not trained on, of all unsteered features, with its exact p-value."""

    accuracy: float
    p_value: float
    real_accuracy: float
    real_p: float


@final
@dataclass(frozen=True, slots=True)
class Variety:
    """A number about fidelity or variety beside the same of real against real, at one set size."""

    name: str
    title: str
    value: float
    real: float
    low: float
    high: float
    note: str


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """What statistics say that no part of the method optimises.

    `samples`, `held_out` and `fit` count the maps compared; `least_p` is the least adjusted p-value
    that so many maps can give. Without maps enough, `classifier` is None and `variety` empty.
    """

    samples: int
    held_out: int
    families: tuple[FamilyTest, ...]
    least_p: float
    classifier: ClassifierTest | None
    variety: tuple[Variety, ...]
    fit: int = 0

    @property
    def smallest_p(self) -> float:
        """Smallest adjusted p-value of all unsteered families."""
        return min(test.adjusted for test in self.families if test.adjusted is not None)

    @property
    def decided(self) -> bool:
        """Whether there are maps enough for any difference to be seen."""
        return self.least_p <= LEVEL


@final
@dataclass(frozen=True, slots=True)
class CopyCheck:
    """How many samples lie so near to a fit target that real maps rarely do, on one level.

    `threshold` is calibrated on the distances of held-out maps to fit targets, such that a further
    real map is within it with probability `rate`. `flagged` of all samples are; `p_value` is how
    often as many real maps would be or more. `power` has, per noise in standard deviations of the
    copied map, the share of planted copies that are. `asked` counts the samples looked at.
    """

    level: str
    title: str
    threshold: float
    rate: float
    flagged: int
    p_value: float
    power: tuple[tuple[float, float], ...] = ()
    asked: int = 0


@final
@dataclass(frozen=True, slots=True)
class LeakCheck:
    """Shares of samples and of held-out maps that look like the base's own domain; see `leak`.

    `base` counts the maps that were drawn of the base itself, `samples` those that were asked.
    """

    share: float
    real: float
    p_value: float
    base: int
    samples: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class ValidationReport:
    """Scores, curves and the maps worth looking at; distances are RMS per pixel in model range.

    `count` samples were validated: sums, `closest`, `worst` and `copies`, the number of single
    samples far nearer to a target than any held-out map is, are of all of them; scores, spectra and
    `nearest_samples` of a panel drawn at random from them (`ood_core.evaluation.streaming`).
    `leak` is None where it was not measured.
    """

    scores: tuple[Score, ...]
    spectrum: SpectrumCurves
    histogram: HistogramCurves
    nearest_samples: Float[Tensor, " n"]
    nearest_real: Float[Tensor, " m"]
    closest: tuple[ClosestPair, ...]
    worst: tuple[int, ...]
    count: int
    copies: int
    judgement: Judgement
    verdict: str
    copying: tuple[CopyCheck, ...] = ()
    leak: LeakCheck | None = None

    @property
    def panel(self) -> int:
        """Number of samples that were looked at one beside another."""
        return len(self.nearest_samples)

    def score(self, name: str) -> Score:
        """Return the score of that name."""
        return {score.name: score for score in self.scores}[name]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready numbers, lists and strings; infinite becomes None."""
        record = _plain(asdict(self))
        for row, score in zip(record["scores"], self.scores, strict=True):
            row["inside"] = score.inside
        judged = record["judgement"]
        for row, test in zip(judged["families"], self.judgement.families, strict=True):
            row |= {"rejected": test.rejected, "targets_differ": test.targets_differ}
        judged |= {"smallest_p": self.judgement.smallest_p, "decided": self.judgement.decided}
        return dict(record) | {"panel": self.panel}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
