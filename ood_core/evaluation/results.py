"""Results of an evaluation: what `ood_core.evaluation.evaluate` finds, and report and gate read.

`real` means held out: maps that nothing was fitted to. The classes are plain dataclasses;
`EvaluationResult.to_json` and `from_json` go by their annotations (pydantic). In JSON what is
infinite is null, and derived values (`inside`, `rejected`, ...) are written for readers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Annotated, Any, Literal, TypeVar, final

import torch
from jaxtyping import Float
from pydantic import (
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    computed_field,
)
from torch import Tensor

from ood_core.errors import InputError

ALPHA = 0.05  # significance level of adjusted p-values: false alarms over all families together
MIN_EFFECTIVE = 16  # independent maps that dependent ones must be worth for anything to be said

Record = TypeVar("Record")
Better = Literal["lower", "one", "half"]
Number = Annotated[float, BeforeValidator(lambda value: inf if value is None else value)]
_AS_LIST = (
    PlainValidator(lambda values: torch.as_tensor(values, dtype=torch.float64)),
    PlainSerializer(lambda values: values.tolist()),
)
Vector = Annotated[Float[Tensor, " _"], *_AS_LIST]
Curves = Annotated[Float[Tensor, "c bins"], *_AS_LIST]


@final
@dataclass(frozen=True, slots=True)
class Score:
    """One statistic of the samples beside real against real at the same set size.

    `value` and `real` are medians, `low` to `high` is the real-against-real band (5 to 95 %).
    `better` says which way is better: lower, nearer to one, or nearer to one half. `whole` is the
    same distance of all samples from all held-out maps, where sums tell it.
    """

    name: str
    title: str
    value: Number
    real: Number
    low: Number
    high: Number
    better: Better
    note: str
    whole: Number | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def inside(self) -> bool:
        """Whether the samples are as good as real maps; lower than the band counts as good."""
        return self.value <= self.high and (self.better != "one" or self.value >= self.low)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A curve per channel with a range around it."""

    median: Curves
    low: Curves
    high: Curves


@final
@dataclass(frozen=True, slots=True, eq=False)
class SpectrumCurves:
    """Power over wavenumber (cycles per pixel): medians and 16 to 84 % range of single maps."""

    k: Vector
    samples: Band
    real: Band


@final
@dataclass(frozen=True, slots=True, eq=False)
class HistogramCurves:
    """Density of pixels in model range; `real` has the 5 to 95 % range of random halves."""

    centres: Curves
    samples: Curves
    real: Band


@final
@dataclass(frozen=True, slots=True)
class ClosestPair:
    """A sample and the target it is nearest to, under a group element (see `symmetry.orbit`)."""

    sample: int
    target: int
    element: int
    distance: Number


@final
@dataclass(frozen=True, slots=True)
class FamilyTest:
    """Energy test of one family of statistics, in spreads of the fit targets (whitened features).

    `distance` is unbiased: 0 on average for equal distributions. `adjusted` is the p-value raised
    for the number of families (Holm). `real_*` is half of the held-out maps against the other half.
    `targets_*` is fit targets against held-out ones, whitened by both, with a p-value adjusted like
    that of the samples. A shift of one feature by `detectable_shift` standard deviations, and a
    distance of `detectable_distance`, are found with 80 % power. A steered family is there for
    reference: its p-value is not adjusted, and it never counts as rejected.
    """

    name: str
    title: str
    steered: bool
    features: int
    distance: Number
    p_value: float
    adjusted: float | None
    real_distance: Number
    real_p: float
    detectable_shift: Number
    detectable_distance: Number
    targets_distance: Number | None = None
    targets_adjusted: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rejected(self) -> bool:
        """Whether real maps would show such a difference too rarely."""
        return self.adjusted is not None and self.adjusted <= ALPHA

    @computed_field  # type: ignore[prop-decorator]
    @property
    def targets_differ(self) -> bool:
        """Whether fit and held-out targets are not draws from one distribution."""
        return self.targets_adjusted is not None and self.targets_adjusted <= ALPHA


@final
@dataclass(frozen=True, slots=True)
class ClassifierTest:
    """Accuracy on maps not trained on, by all unsteered features, with its exact p-value."""

    accuracy: float
    p_value: float
    real_accuracy: float
    real_p: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tell:
    """A sample that the network is surest of, and `where` in it: logits, positive for synthetic.

    Cells of `where` lie side by side from border to border, but for 4 px; at most 32 a side.
    """

    sample: int
    logit: Number
    where: Curves


@final
@dataclass(frozen=True, slots=True, eq=False)
class NetworkTest:
    """Accuracy of a small convolutional network on maps not trained on, with its p-value.

    `real_accuracy` and `real_p` are those of halves of the `held_out` maps, where these are enough.
    `tells` are the samples that it is surest of.
    """

    samples: int
    held_out: int
    accuracy: float
    p_value: float
    real_accuracy: float | None
    real_p: float | None
    tells: tuple[Tell, ...]


@final
@dataclass(frozen=True, slots=True)
class SlicedTest:
    """Sliced Wasserstein distance of samples to held-out maps, and of halves of these."""

    distance: Number
    p_value: float
    real_distance: Number
    real_p: float


@final
@dataclass(frozen=True, slots=True)
class Variety:
    """A number about fidelity or variety beside the same of real against real, at one set size."""

    name: str
    title: str
    value: Number
    real: Number
    low: Number
    high: Number
    note: str


@final
@dataclass(frozen=True, slots=True)
class TwoSampleTests:
    """Tests by statistics that no part of the method optimises.

    `samples`, `held_out` and `fit` count the maps compared; `effective` is the number of
    independent maps that all held-out ones are worth, of which those that lie `block` sides apart
    are compared; `attainable_p` is the least adjusted p-value that so many maps can give. With too
    few maps `classifier`, `sliced`, `network` and `mass_p` are None and `variety` empty. `mass_p`
    is the p-value of PQMass; `network` is None as well where maps were not at hand or miss pixels.
    """

    samples: int
    held_out: int
    families: tuple[FamilyTest, ...]
    attainable_p: float
    classifier: ClassifierTest | None
    variety: tuple[Variety, ...]
    fit: int = 0
    effective: Number = 0.0
    block: int = 1
    sliced: SlicedTest | None = None
    mass_p: float | None = None
    network: NetworkTest | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def min_p(self) -> float:
        """Smallest adjusted p-value of all unsteered families; 1 without any."""
        adjusted = (test.adjusted for test in self.families if test.adjusted is not None)
        return min(adjusted, default=1.0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def conclusive(self) -> bool:
        """Whether there are enough maps, and independent ones, for any difference to be found."""
        return self.attainable_p <= ALPHA and self.enough

    @property
    def enough(self) -> bool:
        """Whether held-out maps, where neighbours are alike, are worth enough independent ones."""
        return self.block == 1 or self.effective >= MIN_EFFECTIVE


@final
@dataclass(frozen=True, slots=True)
class MemorizationCheck:
    """How many samples lie so near to a fit target that real maps rarely do, in one space.

    `space` is `pixels` (over symmetries and shifts), `scattering` or `latents`. `threshold` is
    calibrated on the distances of held-out maps to fit targets, such that a further real map is
    within it with probability `rate`. `flagged` of `samples` are; `p_value` is how often as many
    real maps would be or more. `power` has, per noise in standard deviations of the copied map, the
    share of planted copies that are flagged.
    """

    space: str
    title: str
    threshold: Number
    rate: float
    flagged: int
    p_value: float
    power: tuple[tuple[float, float], ...] = ()
    samples: int = 0


@final
@dataclass(frozen=True, slots=True)
class Copy:
    """A sample so near to a fit target that no real map would be, in the space that shows it best.

    `nearness` is its distance in parts of the limit of that space, 0 to 1.
    """

    sample: int
    target: int
    space: str
    nearness: float


@final
@dataclass(frozen=True, slots=True)
class CopySearch:
    """The search for single copies: what it found, within which limits, and what it can see.

    `found` are all samples within a limit, by number. `limits` are distances by space
    (`ood_core.evaluation.copies.SPACES`), set by held-out maps such that a set of as many real maps
    has one within any limit with a probability of about `false_alarms`. `power` has, by kind of
    copy, the share of planted copies that are found. `shared` are the held-out maps that are copies
    of fit targets themselves: they set no limits. `repeats` counts the samples that have all pixel
    values of an earlier one, wherever these lie in the map, `real_repeats` the same of held-out
    maps.
    """

    found: tuple[Copy, ...] = ()
    limits: Mapping[str, Number] = field(default_factory=dict)
    power: Mapping[str, float] = field(default_factory=dict)
    false_alarms: float = 0.0
    shared: tuple[int, ...] = ()
    repeats: int = 0
    real_repeats: int = 0

    @property
    def samples(self) -> tuple[int, ...]:
        """Numbers of the samples that are copies."""
        return tuple(copy.sample for copy in self.found)


@final
@dataclass(frozen=True, slots=True)
class DomainLeakage:
    """Shares of `samples` maps and of held-out maps that look like the base's own domain.

    `base` counts the maps that were drawn of the base itself; see `metrics.leak`.
    """

    share: float
    real: float
    p_value: float
    base: int
    samples: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """Scores, curves and the maps worth looking at; distances are RMS per pixel in model range.

    `summary` is one sentence on what was found, `scores` are by name. `count` samples were
    measured: sums, `closest`, `least_typical` (sample numbers) and `copies` are of all of them;
    scores, spectra and `nearest_samples` of a random subsample (`ood_core.evaluation.streaming`).
    `leakage` is None where it was not measured.
    """

    summary: str
    scores: Mapping[str, Score]
    spectrum: SpectrumCurves
    histogram: HistogramCurves
    nearest_samples: Vector
    nearest_real: Vector
    closest: tuple[ClosestPair, ...]
    least_typical: tuple[int, ...]
    count: int
    tests: TwoSampleTests
    copies: CopySearch = CopySearch()
    memorization: tuple[MemorizationCheck, ...] = ()
    leakage: DomainLeakage | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def near_copies(self) -> int:
        """Number of samples that are copies of a target."""
        return len(self.copies.found)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def subsample(self) -> int:
        """Number of samples that scores and tests draw from."""
        return len(self.nearest_samples)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready numbers, lists and strings; infinite becomes None."""
        return written(_adapter(), self)

    @staticmethod
    def from_json(record: Any) -> "EvaluationResult":
        """Return the result whose `to_json` the record is; null is infinite again.

        Raises:
            InputError: the record is of another version.
        """
        return read_back(_adapter(), record, "report.json", "validate")


@cache
def _adapter() -> TypeAdapter[EvaluationResult]:
    return TypeAdapter(EvaluationResult)


def written(adapter: TypeAdapter[Record], result: Record) -> dict[str, Any]:
    """Return a result as JSON-ready numbers, lists and strings."""
    record: dict[str, Any] = json.loads(adapter.dump_json(result))
    return record


def read_back(adapter: TypeAdapter[Record], record: Any, name: str, verb: str) -> Record:
    """Return the result whose `written` the record is; `verb` computes what `name` holds.

    Raises:
        InputError: the record is of another version.
    """
    try:
        return adapter.validate_python(record)
    except ValidationError as error:
        raise InputError(
            f"{name}: got a record of another version of farfield ({error!r}); expected one of "
            f"this version: run `farfield {verb}` to compute it again"
        ) from error
