"""One pass over the rows of a whole set, in blocks: sums of all, the extremes of all, a panel.

Memory is bounded whatever the number of samples: sums do not grow, of extremes a few are kept, and
what needs rows beside one another (resampling, tests of pairs, medians) sees a *panel* of rows that
the run's own randomness draws from the whole set, not the first ones. Blocks may be of any lengths;
they come in the order of the samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.evaluation.features import Rows
from ood_core.evaluation.memorization import nearest_rows
from ood_core.metrics.distances import Whitening
from ood_core.metrics.moments import Moments
from ood_core.numerics.random import Stream, generator

PANEL = 4096  # rows; more would not narrow the bands, which the held-out maps set
PANEL_INDEX = 2000  # of the random stream, past those of `judges`
SHOWN = 8  # closest and least typical samples


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums over rows: those of two sets merge to those of both, in any order and grouping.

    `features` are moments of whitened scattering rows. Numbers of pixels are whole and merge
    exactly; the others to rounding in float64.
    """

    power: Float[Tensor, "c bins"]
    pixels: Int[Tensor, "c edges"]
    beyond: Float[Tensor, "c 2"]
    features: Moments

    @classmethod
    def of(cls, rows: Rows, whitening: Whitening) -> "Tally":
        """Sum over some rows, none included."""
        return cls(
            rows["power"].double().sum(0),
            rows["pixels"].long().sum(0),
            rows["beyond"].double().sum(0),
            Moments.of(whitening(rows["scattering"])),
        )

    def merge(self, other: "Tally") -> "Tally":
        """Return the tally of both sets of rows together."""
        return Tally(
            self.power + other.power,
            self.pixels + other.pixels,
            self.beyond + other.beyond,
            self.features.merge(other.features),
        )

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.features.count


@final
@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What one pass found.

    `panel` are the rows of samples number `drawn`. `closest` are those of least distance, nearest
    first, with their rows; `worst` have the longest whitened features. `copies` counts the samples
    within each limit.
    """

    tally: Tally
    drawn: Int[Tensor, " p"]
    panel: Rows
    closest: Int[Tensor, " k"]
    closest_rows: Rows
    worst: tuple[int, ...]
    copies: dict[str, int]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Distances within which samples count as copies, and the whitened rows of the fit targets.

    `plain` is of the distance without shifts, `shifted` with them, `statistic` of whitened rows.
    """

    fit: Float[Tensor, "t f"]
    plain: float
    shifted: float
    statistic: float

    def within(self, rows: Rows, white: Float[Tensor, "n f"]) -> dict[str, Bool[Tensor, " n"]]:
        """Return per level which samples are within."""
        return {
            "plain": rows["distance"] <= self.plain,
            "shifted": rows["shifted"] <= self.shifted,
            "statistic": nearest_rows(white, self.fit) <= self.statistic,
        }


def survey(
    blocks: Iterable[Rows], count: int, whitening: Whitening, limits: Limits, root: int
) -> Survey:
    """Go once through the rows of `count` samples.

    Raises:
        TargetError: Rows have values that are not finite.
    """
    drawn = panel(count, root)
    tallies, panels, near, odd = None, [], _Extremes(), _Extremes()
    start, copies = 0, {"plain": 0, "shifted": 0, "statistic": 0}
    for rows in blocks:
        _require_finite(rows, start)
        stop = start + len(rows["distance"])
        low, high = torch.searchsorted(drawn, torch.tensor([start, stop])).tolist()
        panels.append(taken(rows, drawn[low:high] - start))
        tally = Tally.of(rows, whitening)
        tallies = tally if tallies is None else tallies.merge(tally)
        near.see(rows, rows["distance"], start)
        white = whitening(rows["scattering"])
        odd.see({}, -white.square().sum(1), start)
        for level, mask in limits.within(rows, white).items():
            copies[level] += int(mask.sum())
        start = stop
    assert start == count, "blocks hold the rows of the whole set"
    assert tallies is not None, "checked by the caller"
    closest, closest_rows = near.least()
    worst = tuple(odd.least()[0].tolist())
    return Survey(tallies, drawn, joined(panels), closest, closest_rows, worst, copies)


def panel(count: int, root: int) -> Int[Tensor, " p"]:
    """Draw which samples are looked at one beside another, in rising order; all of a small set."""
    if count <= PANEL:
        return torch.arange(count)
    rng = generator(root, PANEL_INDEX, stream=Stream.RESAMPLE)
    return torch.from_numpy(rng.choice(count, PANEL, replace=False)).sort().values


def taken(rows: Rows, places: Int[Tensor, " k"]) -> Rows:
    """Return some of the rows."""
    return {name: values[places] for name, values in rows.items()}


def joined(blocks: Sequence[Rows]) -> Rows:
    """Return the rows of several blocks as one."""
    return {name: torch.cat([rows[name] for rows in blocks]) for name in blocks[0]}


def _require_finite(rows: Rows, start: int) -> None:
    finite = torch.stack([v.isfinite().flatten(1).all(1) for v in map(_wide, rows.values())]).all(0)
    if not finite.all():
        first = start + int((~finite).nonzero()[0, 0])
        raise TargetError(
            f"got {int((~finite).sum())} samples with statistics that are not finite, the first of "
            f"them number {first}; drop them"
        )


def _wide(values: Tensor) -> Tensor:
    return values[:, None]


@final
class _Extremes:
    """The rows of the least keys so far."""

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, Tensor, Rows]] = []

    def see(self, rows: Rows, keys: Float[Tensor, " n"], start: int) -> None:
        """Look at a block; equal keys count in the order of the samples."""
        order = keys.argsort(stable=True)[:SHOWN]
        self._found.append((keys[order], order + start, taken(rows, order)))
        if len(self._found) > SHOWN:
            self._found = [self._shortened()]

    def least(self) -> tuple[Int[Tensor, " k"], Rows]:
        """Return numbers and rows, least key first."""
        return self._shortened()[1:]

    def _shortened(self) -> tuple[Tensor, Tensor, Rows]:
        keys = torch.cat([found[0] for found in self._found])
        numbers = torch.cat([found[1] for found in self._found])
        rows = joined([found[2] for found in self._found])
        order = keys.argsort(stable=True)[:SHOWN]
        return keys[order], numbers[order], taken(rows, order)
