"""The unit sphere in `d` dimensions: geodesics, exp and log maps, parallel transport, means.

Ramachandran et al. (AAAI 2024) say in their abstract that diffusion latents lie on a bounded
hypersphere, that manipulation is traversal of geodesics, and that different geodesics share
attributes. Their formulas are not known here: these are the textbook ones (Absil, Mahony &
Sepulchre 2008, *Optimization Algorithms on Matrix Manifolds*, chapters 5 and 8), in float64.
Points are unit rows `(n, d)`; a tangent at `u` is a row `v` with `u.v = 0`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Latents, PerSample

Points = Float[Tensor, "n d"]
Tangents = Float[Tensor, "n d"]

ROUNDS = 500
TOLERANCE = 1e-12  # of the mean log map, radians: the Fréchet mean has none


def project(latents: Latents) -> tuple[Points, PerSample]:
    """Return the directions of latents on the unit sphere, and their norms."""
    rows = latents.flatten(1).double()
    norms = rows.norm(dim=1)
    return rows / norms[:, None], norms


def angle(a: Points, b: Points) -> PerSample:
    """Return the angle between points, radians: by chords, exact for near and far ones too."""
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def log_map(a: Points, b: Points) -> Tangents:
    """Return the tangents at `a` that lead to `b`, of the length of the arc.

    Of a point's antipode no direction is the shortest; the answer there is zero.
    """
    along: Tensor = b - (a * b).sum(1, keepdim=True) * a
    length = along.norm(dim=1, keepdim=True)
    tangents: Tensor = along / length.clamp_min(1e-300) * angle(a, b)[:, None]
    return tangents


def exp_map(a: Points, v: Tangents) -> Points:
    """Return where the geodesics end that leave `a` along `v`, after the length of `v`."""
    length = v.norm(dim=1, keepdim=True)
    end = torch.cos(length) * a + torch.sinc(length / torch.pi) * v
    unit: Tensor = end / end.norm(dim=1, keepdim=True)
    return unit


def transport(v: Tangents, a: Points, b: Points) -> Tangents:
    """Move tangents at `a` to `b` along the geodesic; norms and inner products stay.

    `v - (b.v) / (1 + a.b) (a + b)`; not defined between antipodes.
    """
    share: Tensor = (b * v).sum(1, keepdim=True) / (1 + (a * b).sum(1, keepdim=True))
    return v - share * (a + b)


def geodesic(a: Points, b: Points, share: float) -> Points:
    """Return the points that part the arcs from `a` to `b` at `share`: slerp (Shoemake 1985)."""
    return exp_map(a, share * log_map(a, b))


def coordinates(points: Points) -> tuple[Points, Float[Tensor, "d k"]]:
    """Return the same points in an orthonormal basis of their span, and the basis.

    Geodesics between them and their mean stay in the span, so that few points in many dimensions
    cost as little as in `k = min(n, d)` dimensions.
    """
    basis, inner = torch.linalg.qr(points.T)
    return inner.T.contiguous(), basis


def frechet_mean(points: Points) -> Float[Tensor, " d"]:
    """Return the point with the least sum of squared arcs to all points (Karcher 1977).

    Fixed-point iteration of exp and log maps from the normalised mean. It is unique where all
    points lie within a right angle of it, as few high-dimensional draws always do.
    """
    inner, basis = coordinates(points)
    mean = inner.mean(dim=0)
    here = (mean / mean.norm())[None]
    for _ in range(ROUNDS):
        step = log_map(here.expand_as(inner), inner).mean(dim=0, keepdim=True)
        here = exp_map(here, step)
        if float(step.norm()) < TOLERANCE:
            break
    found: Tensor = basis @ here[0]
    return found
