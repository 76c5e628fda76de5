"""What a report is made of: values only, gathered by the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Float

from ood_core.config.targets import Symmetry
from ood_core.errors import InputError
from ood_core.evaluation.downstream import DownstreamResult
from ood_core.evaluation.results import EvaluationResult
from ood_core.synthesis.met import Met

# Sizes that must agree are checked where the records are built, with errors that say what to do.
PhysicalMaps = Float[np.ndarray, "_ c y x"]


@final
@dataclass(frozen=True, slots=True)
class TimingRow:
    """Cost of one stage, summed over its shards; `nfe` counts network evaluations.

    `shares` says where the seconds of its workers went, as shares; empty where none were counted.
    """

    stage: str
    shards: int
    rows: int
    nfe: int
    seconds: float
    shares: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrustMap:
    """Weights that the calibration gave to its experts, per timestep and wavenumber band.

    `weights` is `(timesteps, bands, experts)`; `noise_to_signal` is `sigma / alpha`; `bands` are
    wavenumbers in cycles per pixel.
    """

    noise_to_signal: Float[np.ndarray, " _"]
    bands: Float[np.ndarray, " _"]
    weights: Float[np.ndarray, "_ _ _"]
    experts: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = (len(self.noise_to_signal), len(self.bands), len(self.experts))
        if self.weights.shape != expected:
            raise InputError(f"got weights of shape {self.weights.shape}; expected {expected}")

    @property
    def evaluations(self) -> tuple[int, ...]:
        """At how many timesteps each expert is evaluated: where one of its weights is not zero."""
        return tuple(int(n) for n in (self.weights != 0).any(axis=1).sum(axis=0))


@final
@dataclass(frozen=True, slots=True)
class WalkStrip:
    """Picture of a walk between two targets, and where its numbers lie from the page."""

    title: str
    picture: bytes
    data: str


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportInput:
    """Everything a report shows. Maps are in physical units; `result` is in model range.

    `samples` are those that are shown, taken at even steps from all and with the ones that
    `result` names; `sample_numbers` says which, in rising order, and is empty where they are
    all samples. `fit` has all fit targets. `round_trips[i]` is `round_trip_targets[i]` inverted
    and decoded, with peak signal-to-noise ratio `psnr[i]` in dB. `downstream` is there where it was
    measured, `wishes` where samples were steered by the user's.
    """

    name: str
    identity: str
    state: str
    unit: str
    fit: PhysicalMaps
    held_out: PhysicalMaps
    samples: PhysicalMaps
    round_trips: PhysicalMaps
    round_trip_targets: PhysicalMaps
    psnr: Float[np.ndarray, " _"]
    result: EvaluationResult
    symmetries: Sequence[Symmetry]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    timings: tuple[TimingRow, ...]
    base: Mapping[str, Any]
    trust: TrustMap | None = None
    downstream: DownstreamResult | None = None
    walks: tuple[WalkStrip, ...] = ()
    sample_numbers: tuple[int, ...] = ()
    wishes: Met | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of each map of `samples`."""
        return self.sample_numbers or tuple(range(len(self.samples)))

    def __post_init__(self) -> None:
        counts = {len(self.round_trips), len(self.round_trip_targets), len(self.psnr)}
        if len(counts) > 1:
            raise InputError(f"got {sorted(counts)} round trips, targets and PSNR; expected equal")
