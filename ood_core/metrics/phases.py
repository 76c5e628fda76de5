"""Phase coherence: are the phases of modes that close to a triangle related?

A power spectrum is blind to phases, and in a Gaussian field they are independent and uniform. The
statistic is the mean cosine of the sum of three phases over all closed triangles between three
shells, that is, the bispectrum of the map with every mode brought to modulus one:

    q(1, 2, 3) = mean over k1 + k2 + k3 = 0 of cos(theta_1 + theta_2 + theta_3)

It is the Fourier twin of the line correlation function (Obreschkow et al. 2013), lies in [-1, 1],
is 1 for a single point, and is 0 on average for a Gaussian field, with a variance of at most
`s / triangles` per map (`s` and the triangles of `bispectrum`). Shifts, and every filter whose
transfer function is positive, leave it as it is. For weak non-Gaussianity
`q = (pi^1/2 / 2)^3 B / (N P_1 P_2 P_3)^1/2` (Matsubara 2003).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError
from ood_core.metrics.bispectrum import block_rows, shell_edges, shells_of

MIN_MODULUS = 1e-12  # of the largest modulus: rounding has no phase


@final
@dataclass(frozen=True, slots=True, eq=False)
class PhaseCoherence:
    """Mean cosines of single maps over triples of shells; `k` in cycles per pixel, per shell.

    `noise` is the standard deviation of a map's value if phases were independent.
    """

    k: Float[Tensor, " shells"]
    triples: Int[Tensor, "triples 3"]
    value: Float[Tensor, "n c triples"]
    noise: Float[Tensor, " triples"]


def phase_coherence(maps: Maps, edges: Sequence[float]) -> PhaseCoherence:
    """Measure phase coherence between shells of wavenumbers, edges as for `bispectrum`.

    Raises:
        TargetError: If there are no maps, or edges are not those of `Shells`.
    """
    if not len(maps):
        raise TargetError("got no maps; expected at least 1 to measure phases")
    height, width = maps.shape[-2:]
    shells = shells_of(height, width, tuple(edges))
    values = []
    for block in torch.split(maps, block_rows(maps, shells)):
        phases = _phases(torch.fft.rfft2(block.double()))
        values.append(shells.sums(shells.filtered(phases)) / shells.point_sums)
    noise = (shells.orders / shells.triangles).sqrt()
    return PhaseCoherence(shells.k, shells.triples, torch.cat(values), noise)


def phase_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return the phase coherence of maps over its noise, in the shells of `shell_edges`.

    Maps have at least 8 pixels on a side.
    """
    found = phase_coherence(maps, shell_edges(min(maps.shape[-2:])))
    return (found.value / found.noise).flatten(1)


def _phases(modes: Complex[Tensor, "n c y half"]) -> Complex[Tensor, "n c y half"]:
    """Bring every mode to modulus one; modes without power stay at zero."""
    modulus = modes.abs()
    floor = MIN_MODULUS * modulus.amax((-2, -1), keepdim=True)
    return torch.where(modulus > floor, modes / modulus.clamp(min=1e-300), 0)
