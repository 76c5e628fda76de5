"""What every map is measured by: features from which all scores follow without the maps.

A `FeatureExtractor` is set up on the targets alone, so that every worker has the same one and may
measure the samples that it makes. Per map it gives

    power        mean power per annulus (`metrics.spectra`)
    cross        cross power of all pairs of channels per annulus, where there are several
    pixels       number of pixels at or below each edge; edges are quantiles of all targets,
                 and the even ones of the figure
    beyond       mean height over the last edge and mean depth under the first: what lies outside
                 of the targets' range counts in full
    one array per family of `FAMILIES` that is defined on maps of this shape
    distance, target, element                the nearest fit target (`metrics.novelty`)
    shifted, shifted_target, shifted_element, shift_y, shift_x
                 the same with shifts searched, in a map's own units
    whole, window, piece, waves, registered, and whole_target, window_target and so on
                 the nearest target at any angle, the one that most of a box is from, by two sizes,
                 the nearest by long waves, and after a smooth warp
                 (`metrics.pieces`, `metrics.overlap`, `metrics.registration`)

Where targets miss pixels (`TargetSet.missing`), all but the search for copies leaves these out:
samples get masks of the held-out maps in turn, sample `i` that of map `i` modulo their number, so
that both sides of a comparison lack the same pixels. Fractions of pixels are of those that are
there. Elsewhere a missing pixel has the mean of the others of its map and channel, and power is
divided by the share of pixels that are there, the pseudo-spectrum of Hivon et al. (2002). Copies
are looked for in whole maps, as the model saw them.

Floating-point features are float32 as they are stored, so that scores from memory and from disk
agree.

**To add a family of statistics**, write a function from maps `(n, c, y, x)` to features `(n, f)` in
a file of its own in `ood_core/metrics/` and add a line to `FAMILIES`. Extraction, storage, tests,
report and card follow, and no random number of another family changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ood_core.config.targets import Symmetry
from ood_core.metrics.bispectrum import bispectrum_features
from ood_core.metrics.channels import channel_features, colour_features
from ood_core.metrics.detail import detail_features
from ood_core.metrics.morphology import minkowski_features, peak_features
from ood_core.metrics.novelty import Reference, Shifted
from ood_core.metrics.objects import has_objects, object_features
from ood_core.metrics.one_point import cumulative, own_units, quantiles, uniform_edges
from ood_core.metrics.phases import phase_features
from ood_core.metrics.pieces import PieceSearch
from ood_core.metrics.scattering import scattering_features
from ood_core.metrics.spectra import cross_spectrum, power_spectrum

BLOCK_PIXELS = 2**20  # of maps that a family measures at once
BINS = 60  # of the figure of pixel values
_TAIL = 2.0 ** -torch.arange(6, 15, 0.5).double()
LEVELS = torch.cat([torch.linspace(0, 1, 64).double(), _TAIL, 1 - _TAIL]).sort().values
"""Of the quantiles of the targets' pixels that are edges: even, and ever closer in both tails."""

AnyMaps = Float[Tensor, "_ _ _ _"]  # sets differ in size
AnyMask = Bool[Tensor, "_ _ _ _"]
FeatureArray = Float[Tensor, "_ _"]
"""Features of one family; the first axis counts the maps."""
Features = Mapping[str, Tensor]
"""Features by name; the first axis counts the maps."""


@final
@dataclass(frozen=True, slots=True)
class Family:
    """A family of statistics: `measure` takes maps `(n, c, y, x)` and gives features `(n, f)`.

    Features of a map depend on that map alone. `title` is read in sentences ("differ in ..."). A
    `steered` family is among the aims of the decoder, so its test is shown for reference only.
    The family is defined on maps of `min_side` pixels and `min_channels` channels at least, and
    where it means something for the fit targets (`suits`).
    `BLOCK_PIXELS` are measured at once, which bounds the memory.
    """

    name: str
    title: str
    measure: Callable[[Tensor], Tensor]
    steered: bool = False
    min_side: int = 2
    min_channels: int = 1
    suits: Callable[[Tensor], bool] = lambda _: True

    def applies_to(self, fit: AnyMaps) -> bool:
        """Whether the family is defined on maps of this shape and means something for them."""
        large = min(fit.shape[-2:]) >= self.min_side and fit.shape[1] >= self.min_channels
        return large and self.suits(fit)

    def __call__(self, maps: AnyMaps) -> FeatureArray:
        """Measure maps, in blocks."""
        rows = max(1, BLOCK_PIXELS // maps[0].numel())
        return torch.cat([self.measure(block) for block in maps.split(rows)])


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("bispectrum", "the bispectrum", bispectrum_features, min_side=8),
        Family("phases", "phase coherence", phase_features, min_side=8),
        Family("minkowski", "boundaries and connectivity (Minkowski)", minkowski_features),
        Family("peaks", "peaks and minima", peak_features, min_side=3),
        Family("detail", "detail given the coarse map", detail_features, min_side=6),
        Family(
            "objects", "shapes of objects", object_features,
            min_side=8, suits=has_objects,
        ),
        Family("channels", "what channels have in common", channel_features, min_channels=2),
        Family(
            "colours", "colours and how they go with brightness", colour_features, min_channels=2
        ),
        Family("scattering", "scattering moments", scattering_features, steered=True),
    )
}  # fmt: skip
"""All families by name, in the order of the report. Those that are not steered are tested."""


@final
@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """Measures maps by the targets `fit` and `held_out`, all in model range.

    Maps that are measured lie on the device of the targets.

    `histogram_edges` are the even edges of the figure; `edges` holds them too, in rising order.
    `missing` pixels are of the fit maps, then of the held-out ones.
    """

    fit: AnyMaps
    held_out: AnyMaps
    symmetries: tuple[Symmetry, ...]
    edges: Float[Tensor, "c edges"]
    histogram_edges: Float[Tensor, "c shown"]
    pieces: PieceSearch
    missing: AnyMask | None = None

    @classmethod
    def of(
        cls,
        fit: AnyMaps,
        held_out: AnyMaps,
        symmetries: Sequence[Symmetry],
        missing: NDArray[np.bool_] | None = None,
    ) -> "FeatureExtractor":
        """Set the edges by the pixel values of all targets; fit and held-out ones count alike.

        `missing` says which pixels of the fit maps, then of the held-out ones, were filled.
        """
        targets = torch.cat([fit, held_out])
        holes = None if missing is None else torch.from_numpy(missing).to(fit.device)
        targets, _ = without_missing(targets, holes)
        even = uniform_edges(targets, BINS)
        follow = quantiles(targets, LEVELS)
        edges = torch.cat([follow, even], dim=-1).sort(dim=-1).values
        group = tuple(symmetries)
        return cls(fit, held_out, group, edges, even, PieceSearch.of(fit, group), holes)

    def extract(self, maps: AnyMaps, first: int = 0) -> Features:
        """Return the features of maps in model range; `first` is the number of the first one."""
        if self.missing is None:
            return self._measured(maps, None)
        held_out = self.missing[len(self.fit) :]
        turn = torch.arange(first, first + len(maps), device=held_out.device) % len(held_out)
        return self._measured(maps, held_out[turn])

    @property
    def spread(self) -> float:
        """Standard deviation of the held-out maps' pixels."""
        pixels = self.held_out.double()
        known = pixels if self.missing is None else pixels[~self.missing[len(self.fit) :]]
        return float(known.std())

    def _measured(self, whole: AnyMaps, missing: AnyMask | None) -> Features:
        maps, there = without_missing(whole, missing)
        near = self._near.nearest(maps)
        # Pixels that are missing lie beyond every edge, and so in no fraction.
        pixels = maps if missing is None else maps.masked_fill(missing, torch.inf)
        fractions = cumulative(pixels, self.edges) / there
        found = {
            "power": power_spectrum(maps)[1] / there,
            "pixels": (fractions * maps[0, 0].numel()).round().int(),
            "beyond": self._beyond(maps) / there,
            **self._cross(maps, there),
            **{family.name: family(maps) for family in self.families},
            "distance": near.distance,
            "target": near.target.int(),
            "element": near.element.int(),
            **self.copy_distances(whole),
        }
        return {name: v.float() if v.is_floating_point() else v for name, v in found.items()}

    def copy_distances(self, maps: AnyMaps) -> Features:
        """Return the features by which copies of fit targets are looked for."""
        shifted, pieces = self.nearest_shifted(maps), self.pieces.nearest(maps)
        return {
            "shifted": shifted.distance.float(),
            "shifted_target": shifted.target.int(),
            "shifted_element": shifted.element.int(),
            "shift_y": shifted.shift[:, 0].int(),
            "shift_x": shifted.shift[:, 1].int(),
            **{name: found.distance.float() for name, found in pieces.items()},
            **{f"{name}_target": found.target.int() for name, found in pieces.items()},
        }

    def nearest_shifted(self, maps: AnyMaps) -> Shifted:
        """Search fit targets with shifts, every map in units of its own.

        Without that, faint maps would be near to all faint targets, and no threshold would tell
        copies of bright ones from real maps. A copy of other brightness or contrast is one too.
        """
        return self._near_in_own_units.nearest_shifted(own_units(maps))

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """What is measured of maps like the fit targets."""
        return tuple(f for f in FAMILIES.values() if f.applies_to(self.fit))

    @property
    def _missing_of_fit(self) -> AnyMask | None:
        return None if self.missing is None else self.missing[: len(self.fit)]

    @cached_property
    def targets(self) -> tuple[Features, Features]:
        """Features of fit and of held-out maps, each without the pixels that it misses itself."""
        return self._measured(self.fit, self._missing_of_fit), self.extract(self.held_out)

    @cached_property
    def _near(self) -> Reference:
        return Reference(without_missing(self.fit, self._missing_of_fit)[0], self.symmetries)

    @cached_property
    def _near_in_own_units(self) -> Reference:
        return Reference(own_units(self.fit), self.symmetries)

    def _cross(self, maps: AnyMaps, there: Tensor | float) -> Features:
        """Power of pairs of channels, where there are several."""
        if maps.shape[1] == 1:
            return {}
        if not isinstance(there, float):
            there = (there[:, :, None] * there[:, None]).sqrt()
        return {"cross": cross_spectrum(maps)[1] / there}

    def _beyond(self, maps: AnyMaps) -> Float[Tensor, "n c 2"]:
        pixels = maps.double().flatten(-2)
        over = (pixels - self.edges[:, -1:]).clamp(min=0).mean(-1)
        under = (self.edges[:, :1] - pixels).clamp(min=0).mean(-1)
        return torch.stack([over, under], dim=-1)


def without_missing(
    maps: AnyMaps, missing: AnyMask | None
) -> tuple[AnyMaps, Float[Tensor, "n c one"] | float]:
    """Give missing pixels the mean of the others; return the share of those that are there, too."""
    if missing is None:
        return maps, 1.0
    count = (~missing).sum((-2, -1), keepdim=True).clamp(min=1)
    mean = maps.double().masked_fill(missing, 0).sum((-2, -1), keepdim=True) / count
    return torch.where(missing, mean.to(maps.dtype), maps), count[..., 0] / maps[0, 0].numel()


def picked(features: Features, index: Tensor) -> Features:
    """Return the features of some of the maps."""
    return {name: values[index] for name, values in features.items()}


def concatenated(blocks: Sequence[Features]) -> Features:
    """Return the features of several blocks of maps as one."""
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
