"""What sums over rows say of whole sets: laws of pixels, distances without a band, curves."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.evaluation.features import Rows, Ruler
from ood_core.evaluation.results import Band, HistogramCurves, Score
from ood_core.evaluation.streaming import Tally
from ood_core.metrics.distances import frechet_of_moments
from ood_core.metrics.one_point import cumulative_distance
from ood_core.metrics.spectra import spectrum_distance

BAND = (0.05, 0.95)
MAP_RANGE = (0.16, 0.84)  # of single maps, in curves


def with_whole(
    scores: Sequence[Score], tally: Tally, real: Tally, ruler: Ruler
) -> tuple[Score, ...]:
    """Return the scores, each with the same distance of the whole set where sums tell it."""
    whole = {
        "spectrum_error": spectrum_distance(_mean_power(tally), _mean_power(real)),
        "pixel_wasserstein": pixel_distance(_pooled(tally, ruler), _pooled(real, ruler), ruler),
        "fsd": frechet_of_moments(tally.features, real.features),
    }
    return tuple(replace(score, whole=whole.get(score.name)) for score in scores)


def fractions(rows: Rows, ruler: Ruler) -> Float[Tensor, "n c columns"]:
    """Return cumulative fractions at the edges, then mean height over and depth under them."""
    fractions = rows["pixels"].double() / ruler.held_out[0, 0].numel()
    return torch.cat([fractions, rows["beyond"].double()], dim=-1)


def pixel_distance(a: Tensor, b: Tensor, ruler: Ruler) -> float:
    """Return the distance of two pooled laws in spreads of held-out pixels.

    It is exact in the limit of many edges. Beyond them it compares means, which is exact where only
    one of the laws reaches there.
    """
    inside = cumulative_distance(a[None, :, :-2], b[None, :, :-2], ruler.edges)
    outside = float((a - b)[:, -2:].abs().sum(-1).mean())
    return (inside + outside) / float(ruler.held_out.double().std().clamp(min=1e-12))


def histograms(
    tally: Tally, real: Rows, ruler: Ruler, halves: Sequence[Int[Tensor, " m"]]
) -> HistogramCurves:
    """Return densities between the even edges, of all samples and of all held-out maps.

    The range is that of `halves` of the held-out maps.
    """
    places = torch.searchsorted(ruler.edges, ruler.shown)
    width = ruler.shown.diff(dim=-1) * ruler.held_out[0, 0].numel()

    def density(pixels: Tensor) -> Tensor:
        at = places.expand(*pixels.shape[:-1], -1)
        return pixels.double().gather(-1, at).diff(dim=-1) / width

    each = density(real["pixels"])
    means = torch.stack([each[half].mean(0) for half in halves])
    low, high = means.quantile(torch.tensor(BAND, dtype=means.dtype), dim=0)
    centres = (ruler.shown[:, 1:] + ruler.shown[:, :-1]) / 2
    samples = density(tally.pixels) / tally.count
    return HistogramCurves(centres, samples, Band(each.mean(0), low, high))


def range_of_maps(rows: Float[Tensor, "n c bins"]) -> Band:
    """Return median and 16 to 84 % range over single maps."""
    levels = torch.tensor([0.5, *MAP_RANGE], dtype=torch.float64)
    return Band(*rows.double().quantile(levels, dim=0))


def _mean_power(tally: Tally) -> Float[Tensor, "one c bins"]:
    return tally.power[None] / tally.count


def _pooled(tally: Tally, ruler: Ruler) -> Float[Tensor, "c columns"]:
    pixels = tally.pixels.double() / ruler.held_out[0, 0].numel()
    return torch.cat([pixels, tally.beyond], dim=-1) / tally.count
