"""The gate: what is added to the stack of experts where its estimate is faint, or bright.

Weights per wavenumber are the same everywhere in a map, so the faint sky, which is most of the
pixels, decides them for the bright ones too. The gate corrects the stack's estimate `e` by weights
that depend on its local mean `c` as well:

    D = mu + e + sum_b h_b(c) ( F^-1[ sum_i v_i(b, k) F[e_i - mu] ] + o_b )

`h_b` are hats over quantiles of `c`, `v` is piecewise linear in `k` with `KNOTS` knots. Weights are
those of a ridge regression of what the stack leaves of noised targets, in pixels. With few targets
they can overfit, in the brightest bin first. So each bin is scaled by the factor, from 0 to 1, that
is best for weights of the other half of the targets: least squares, in closed form. Details given a
coarse map need small neighbourhoods alone (Kadkhodaie et al., arXiv 2303.02984).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps, wide
from ood_core.denoising.hats import (
    BRIGHTNESS,
    band_knots,
    brightness_edges,
    brightness_hats,
    hat_functions,
)
from ood_core.metrics.detail import local_mean

KNOTS = 3  # of the gate's weights over wavenumbers
RIDGE = 3e-3  # of the power of each of the regression's features
BINS = len(BRIGHTNESS)
BLOCK = 2**16  # numbers whose features are held at once


@final
@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Edges of the bins of brightness, and what each bin adds; of one timestep or of several."""

    edges: Float[Tensor, "*timesteps bins"]
    weights: Float[Tensor, "*timesteps bins knots experts"]
    offsets: Float[Tensor, "*timesteps bins"]

    @classmethod
    def stacked(cls, gates: "Sequence[Gate]") -> "Gate":
        """Those of several timesteps as one."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.stack([getattr(gate, name) for gate in gates]) for name in names))

    def gains(self, evaluated: Sequence[int], y: int, x: int) -> "GateGains":
        """The gate of one timestep for maps of `y` by `x` pixels and some of the experts."""
        hats = _hats(y, x)[..., : x // 2 + 1]
        gains = torch.einsum("bke,kyx->beyx", self.weights[..., list(evaluated)], hats)
        return GateGains(self.edges, gains, self.offsets)


@final
@dataclass(frozen=True, slots=True, eq=False)
class GateGains:
    """A gate of one timestep for maps of one shape."""

    edges: Float[Tensor, " bins"]
    gains: Float[Tensor, "bins experts y half"]
    offsets: Float[Tensor, " bins"]

    def added(self, modes: Tensor, estimate: Maps) -> Maps:
        """What is added to an estimate; `modes` are half spectra `(experts, n, c, y, half)`.

        Both are without the mean.
        """
        shares = brightness_hats(local_mean(estimate), self.edges)
        gains = self.gains[:, :, None, None].to(modes.dtype)
        summed = torch.stack([(modes * gain).sum(dim=0) for gain in gains])
        added = torch.fft.irfft2(summed, s=estimate.shape[-2:])
        total: Tensor = (shares * (added + self.offsets.view(-1, 1, 1, 1, 1))).sum(dim=0)
        return total


def fit_gate(
    modes: Sequence[Tensor], clean: Sequence[Maps], weights: Float[Tensor, "bands experts"]
) -> Gate:
    """Fit to noised targets in two folds, whose experts were fitted to the other one each.

    `modes` are those of the experts, `(experts, n, c, y, x)`, `clean` maps about the mean, per
    fold; `weights` are those of the stack. The gate is on the host.
    """
    y, x = clean[0].shape[-2:]
    hats = hat_functions(band_knots(y, x, len(weights)), y, x)
    gains = torch.einsum("be,byx->eyx", weights.cpu().float(), hats)[:, None, None].to(clean[0])
    estimates = [torch.fft.ifft2((fold * gains).sum(dim=0)).real for fold in modes]
    edges = brightness_edges(torch.cat([local_mean(estimate) for estimate in estimates]))
    folds = [_sums(*fold, edges) for fold in zip(modes, estimates, clean, strict=True)]
    shrink = _shrinkage(folds)
    both = _solved(*(sum(parts[1:], parts[0]) for parts in zip(*folds, strict=True)))
    found = (both.reshape(BINS, -1) * shrink[:, None]).float()
    by_bin = found[:, :-1].reshape(BINS, KNOTS, len(weights.T))
    return Gate(edges.float().cpu(), by_bin, found[:, -1].contiguous())


def _hats(y: int, x: int) -> Float[Tensor, "knots y x"]:
    return hat_functions(band_knots(y, x, KNOTS), y, x)


def _sums(
    modes: Tensor, estimate: Maps, clean: Maps, edges: Float[Tensor, " bins"]
) -> tuple[Tensor, Tensor]:
    """Sums of the products of all features, `(bins, knots, experts)` and one, and with the rest.

    In double precision: what the stack leaves is a small difference of large numbers.
    """
    hats = _hats(*clean.shape[-2:]).to(clean)[:, None, None, None]
    size = BINS * (KNOTS * len(modes) + 1)
    gram, moment = (wide(torch.zeros(*shape).to(clean)) for shape in ((size, size), (size,)))
    rows = max(1, BLOCK // clean[0].numel())
    for at in range(0, len(clean), rows):
        some = slice(at, at + rows)
        parts = torch.fft.ifft2(modes[None, :, some] * hats).real.flatten(0, 1).flatten(1)
        parts = torch.cat([parts, torch.ones_like(parts[:1])])
        shares = brightness_hats(local_mean(estimate[some]), edges).flatten(1)
        features = wide((shares[:, None] * parts).flatten(0, 1))
        gram += features @ features.T
        moment += features @ wide((clean - estimate)[some].flatten())
    return gram.double().cpu(), moment.double().cpu()


def _solved(gram: Tensor, moment: Tensor) -> Tensor:
    power = gram.diagonal()
    ridge = RIDGE * power + 1e-9 * power.mean() + torch.finfo(gram.dtype).tiny
    solved: Tensor = torch.linalg.solve(gram + torch.diag(ridge), moment)
    return solved


def _shrinkage(folds: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, " bins"]:
    """Factor of each bin that is best for weights of the other fold, 0 to 1."""
    normal = torch.zeros(BINS, BINS, dtype=torch.float64)
    right = torch.zeros(BINS, dtype=torch.float64)
    for (gram, moment), other in zip(folds, folds[::-1], strict=True):
        by_bin = torch.block_diag(*_solved(*other).reshape(BINS, 1, -1)).T
        normal += by_bin.T @ gram @ by_bin
        right += by_bin.T @ moment
    # Bins touch where hats overlap; one without a pixel stays at 0.
    scaled: Tensor = torch.linalg.lstsq(normal, right[:, None], driver="gelsd").solution[:, 0]
    return scaled.clamp(0, 1)
