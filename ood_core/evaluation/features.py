"""What every map is measured by: rows of numbers from which all scores follow without the maps.

A ruler is laid on the targets alone, so that every worker has the same one and may measure the
samples that it makes. Its rows are

    power        mean power per annulus (`metrics.spectra`)
    pixels       number of pixels at or below each edge; edges are quantiles of all targets,
                 and the even ones of the figure
    beyond       mean height over the last edge and mean depth under the first: what lies outside
                 of the targets' range counts in full
    scattering   log-scattering moments
    bispectrum, phases, minkowski, peaks     what nothing steers; see `judges`
    channels     the same between channels, where there are several
    distance, target, element                the nearest fit target (`metrics.novelty`)
    shifted, shifted_target, shifted_element, shift_y, shift_x
                 the same with shifts searched, in a map's own units

Floating-point rows are float32 as they are stored, so that scores from memory and from disk agree.
Every map and channel is brought to its own mean and spread where levels matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.config.targets import Symmetry
from ood_core.metrics.bispectrum import bispectrum
from ood_core.metrics.morphology import minkowski
from ood_core.metrics.novelty import Shifted, nearest, nearest_shifted
from ood_core.metrics.one_point import cumulative, quantiles, uniform_edges
from ood_core.metrics.peaks import minimum_density, peak_density
from ood_core.metrics.phases import phase_coherence
from ood_core.metrics.scattering import Scattering
from ood_core.metrics.spectra import cross_spectrum, power_spectrum

AREA_LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # in a map's own sigma
PEAK_LEVELS = (-1.0, 0.0, 1.0, 2.0)
BINS = 60  # of the figure of pixel values
QUANTILES = 64  # edges that follow the targets' law
BLOCK_PIXELS = 2**20  # measured at once, which bounds the memory
FEATURE_PIXELS = 2**18  # of scattering, at about half a kilobyte each

AnyMaps = Float[Tensor, "_ _ _ _"]  # sets differ in size
Rows = Mapping[str, Tensor]
"""Statistics by name; the first axis counts the maps."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Ruler:
    """Targets in model range and the edges of pixel values that were laid on them.

    `shown` are the even edges of the figure; `edges` holds them too, in rising order.
    """

    fit: AnyMaps
    held_out: AnyMaps
    symmetries: tuple[Symmetry, ...]
    edges: Float[Tensor, "c edges"]
    shown: Float[Tensor, "c shown"]

    @classmethod
    def lay(cls, fit: AnyMaps, held_out: AnyMaps, symmetries: Sequence[Symmetry]) -> "Ruler":
        """Lay edges on the pixel values of all targets; fitted and held-out ones count alike."""
        targets = torch.cat([fit, held_out])
        shown = uniform_edges(targets, BINS)
        follow = quantiles(targets, torch.linspace(0, 1, QUANTILES))
        edges = torch.cat([follow, shown], dim=-1).sort(dim=-1).values
        return cls(fit, held_out, tuple(symmetries), edges, shown)

    def measure(self, maps: AnyMaps) -> Rows:
        """Return the rows of maps in model range."""
        near = nearest(maps, self.fit, self.symmetries)
        shifted = self.nearest_shifted(maps)
        counts = (cumulative(maps, self.edges) * maps[0, 0].numel()).round()
        found = {
            "power": power_spectrum(maps)[1],
            "pixels": counts.int(),
            "beyond": self._beyond(maps),
            "scattering": _scattering(maps),
            **{name: measure(maps) for name, measure in families(maps)},
            "distance": near.distance,
            "target": near.target.int(),
            "element": near.element.int(),
            "shifted": shifted.distance,
            "shifted_target": shifted.target.int(),
            "shifted_element": shifted.element.int(),
            "shift_y": shifted.shift[:, 0].int(),
            "shift_x": shifted.shift[:, 1].int(),
        }
        return {name: v.float() if v.is_floating_point() else v for name, v in found.items()}

    def nearest_shifted(self, maps: AnyMaps) -> Shifted:
        """Search fit targets with shifts, all maps in units of their own.

        Without that, faint maps would be near to all faint targets, and no threshold would tell
        copies of bright ones from real maps. A copy of other brightness or contrast is one too.
        """
        return nearest_shifted(own_units(maps), own_units(self.fit), self.symmetries)

    def _beyond(self, maps: AnyMaps) -> Float[Tensor, "n c 2"]:
        pixels = maps.double().flatten(-2)
        over = (pixels - self.edges[:, -1:]).clamp(min=0).mean(-1)
        under = (self.edges[:, :1] - pixels).clamp(min=0).mean(-1)
        return torch.stack([over, under], dim=-1)


def own_units(maps: AnyMaps) -> AnyMaps:
    """Bring every map and channel to mean 0 and spread 1; a constant one to 0."""
    own = maps.double()
    own = own - own.mean((-2, -1), keepdim=True)
    spread = own.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, own / spread, 0)


def families(maps: AnyMaps) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Return what nothing steers on maps of this size: below 8 pixels no triangles close."""
    side = min(maps.shape[-2:])
    on_pixels = [("minkowski", _blocked(_minkowski)), ("peaks", _blocked(_peaks))]
    if maps.shape[1] > 1:
        on_pixels.append(("channels", _channels))
    if side < 8:
        return on_pixels
    shells = 4 if side >= 16 else 2  # wide enough for every shell to hold modes
    edges = [float(edge) for edge in np.geomspace(1, side / 3, shells + 1)]
    return [
        ("bispectrum", lambda maps: _bispectrum(maps, edges)),
        ("phases", lambda maps: _phases(maps, edges)),
        *on_pixels,
    ]


def _scattering(maps: AnyMaps) -> Tensor:
    size = min(maps.shape[-2:])  # of an oblong map, its first square
    scattering = _filters(size)
    rows = max(1, FEATURE_PIXELS // maps[0].numel())
    blocks = torch.split(maps[..., :size, :size].float(), rows)
    return torch.cat([scattering.log_moments(block) for block in blocks])


@cache
def _filters(size: int) -> Scattering:
    return Scattering(size, scales=min(3, size.bit_length() - 2))


def _bispectrum(maps: AnyMaps, edges: Sequence[float]) -> Tensor:
    """Bispectra over the root of the product of a map's own powers: its power is divided out."""
    found = bispectrum(maps, edges)
    scale = found.power[:, :, found.triples].prod(-1).sqrt()
    return torch.where(scale > 0, found.value / scale, 0).flatten(1)


def _phases(maps: AnyMaps, edges: Sequence[float]) -> Tensor:
    found = phase_coherence(maps, edges)
    return (found.value / found.noise).flatten(1)


def _minkowski(maps: AnyMaps) -> Tensor:
    levels = torch.tensor(AREA_LEVELS)
    return minkowski(own_units(maps), levels)[:, :, 1:].flatten(1)


def _peaks(maps: AnyMaps) -> Tensor:
    levels, own = torch.tensor(PEAK_LEVELS), own_units(maps)
    return torch.cat([peak_density(own, levels), minimum_density(own, -levels)], -1).flatten(1)


def _channels(maps: AnyMaps) -> Tensor:
    """Coherence of each pair of channels in shells, and the means of `a^2 b` and `a b^2`.

    Correlation tells what is common on a scale, third moments whether it is so of bright places.
    """
    _, cross, modes = cross_spectrum(maps)
    bins = cross.shape[-1]
    shells = min(4, bins)
    shell = (shells * torch.arange(1, bins + 1).log() / np.log(bins + 1)).long()
    weight = modes * (shell == torch.arange(shells)[:, None])
    pooled = torch.einsum("nabk,sk->nabs", cross, weight.double())
    power = torch.diagonal(pooled, dim1=1, dim2=2).movedim(-1, 1)
    scale = (power[:, :, None] * power[:, None]).sqrt()
    coherent = torch.where(scale > 0, pooled / scale.clamp_min(1e-300), 0)
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1)
    own = own_units(maps)
    a, b = own[:, first], own[:, second]
    thirds = torch.stack([(a * a * b).mean((-2, -1)), (a * b * b).mean((-2, -1))], -1)
    return torch.cat([coherent[:, first, second].flatten(1), thirds.flatten(1)], 1)


def _blocked(measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def measured(maps: Tensor) -> Tensor:
        rows = max(1, BLOCK_PIXELS // maps[0].numel())
        return torch.cat([measure(block) for block in maps.split(rows)])

    return measured
