"""What the judge decides of planted faults, and of the true law: tables of outcomes with intervals.

    OMP_NUM_THREADS=1 PYTHONPATH=. python -m benchmarks.judge --trials 4 --releases 200

Targets are windows of Gaussian fields with power `k^-2.5`, drawn anew in every trial: 32 to fit and
64 held out. Copies of every kind are set among 1,024 samples of the true law, 1, 6 and 48 of them;
other laws are smoother, rougher, half mixed, or of another brightness; sets that are made up have
24 samples which are made of targets, or are one sample again and again. *Another place*: targets
are neighbouring tiles of one field, fit ones beside held-out ones, and samples are from elsewhere.
`releases` are sets of 64 samples of the true law, and every fourth with one verbatim copy as well.

The gate asks for `unsteered_p` of 0.05, for a `pixel_wasserstein` of at most 0.5 (sets of the true
law have 0.03 to 0.07), and for a search that sees every kind of copy but warps; `published` are the
sets that it publishes, with 95 % of Clopper-Pearson. Copies that are found are left out of a
published set: `copies found` is their share among those that were planted, `left in` counts the
others in all published sets of a row. The last table has the power that the judge states of itself,
by kind.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.gate import KINDS_OF_COPIES, GateSpec
from ood_core.evaluation.copies import planted
from ood_core.evaluation.dependence import Places
from ood_core.evaluation.evaluate import STATISTICS, evaluate_features
from ood_core.evaluation.features import FeatureExtractor, Features, concatenated, picked
from ood_core.evaluation.gate import decide
from ood_core.numerics.random import Root
from tests.oracles.fields import gaussian, power_law

GATE = GateSpec(unsteered_p=0.05, pixel_wasserstein=0.5)
SCORES = tuple(score for score in STATISTICS if score.name == "pixel_wasserstein")
SYMMETRIES = ("flip",)
FIT, HELD_OUT, PLANTED = 32, 64, (1, 6, 48)
SOME = 24
OUTCOMES = ("published", "quarantined", "undecided")


@dataclass(frozen=True)
class Judged:
    """The outcome of one set, which samples were found to be copies, and the stated power."""

    outcome: str
    found: frozenset[int]
    power: dict[str, float]


@dataclass(frozen=True, eq=False)
class Trial:
    """Targets, and samples of their law; features of both are measured once for all faults."""

    seed: int
    fit: Maps
    held_out: Maps
    samples: Maps
    places: Places | None = None

    @classmethod
    def of(cls, seed: int, samples: int, side: int) -> "Trial":
        """Draw independent maps."""
        counts = (FIT, HELD_OUT, samples)
        return cls(seed, *(power_law(n, side, seed=3 * seed + i) for i, n in enumerate(counts)))

    @classmethod
    def elsewhere(cls, seed: int, samples: int, side: int) -> "Trial":
        """Draw targets that are tiles of one field, and samples of other fields, far apart."""
        wide = 12 * side
        k = np.hypot(*np.meshgrid(np.fft.fftfreq(wide), np.fft.fftfreq(wide)))
        power = k.clip(min=1 / (2 * side)) ** -2.5  # flat in waves of more than two sides

        def tiles(fields: int, number: int, step: int) -> Tensor:
            drawn = gaussian(fields, wide, lambda _: 0.25 * power / power.mean(), 2 * seed + number)
            cut = torch.from_numpy(drawn).float().unfold(2, side, step).unfold(3, side, step)
            return cut[:, 0]

        grid = tiles(1, 0, side)[0]
        fit_places, held = (
            [(0.0, y, x) for y in range(8) for x in columns] for columns in (range(4), range(4, 12))
        )
        far = tiles(-(-samples // 9), 1, 4 * side).flatten(0, 2)[:samples, None].contiguous()
        fit, held_out = (
            part.flatten(0, 1)[:, None].contiguous() for part in (grid[:8, :4], grid[:8, 4:])
        )
        return cls(seed, fit, held_out, far, np.array(fit_places + held))

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Measures maps by the targets."""
        return FeatureExtractor.of(self.fit, self.held_out, SYMMETRIES)

    @cached_property
    def features(self) -> Features:
        """Features of all samples."""
        return self.measured(self.samples)

    def measured(self, maps: Maps) -> Features:
        """Features of maps, in blocks."""
        return concatenated([self.extractor.extract(block) for block in maps.split(64)])

    def first(self, maps: Maps) -> Features:
        """Features of the samples after maps were set in the place of the first ones."""
        rest = picked(self.features, torch.arange(len(maps), len(self.samples)))
        return concatenated([self.measured(maps), rest])

    def judged(self, features: Features) -> Judged:
        """Decide on a set by its features."""
        root, count = Root(self.seed), len(self.samples)
        result = evaluate_features(
            self.extractor, [features], count, root, statistics=SCORES, places=self.places
        )
        outcome = decide(GATE, result, len(self.held_out)).outcome
        return Judged(outcome, frozenset(result.copies.samples), dict(result.copies.power))


Fault = Callable[[Trial], Features]


def with_copies(kind: str, count: int) -> Fault:
    """Return samples of which the first `count` are copies of one kind."""

    def fault(trial: Trial) -> Features:
        root = Root(trial.seed)
        made = [planted(trial.extractor, kind, root, count, number) for number in range(2)]
        return trial.first(torch.cat(made)[:count])

    return fault


def unchanged(trial: Trial) -> Features:
    """Return samples of the true law."""
    return trial.features


def law(slope: float, share: float = 1.0, offset: float = 0.0) -> Fault:
    """Return samples of which a share has another slope and brightness."""

    def fault(trial: Trial) -> Features:
        count, side = int(share * len(trial.samples)), trial.samples.shape[-1]
        return trial.first(power_law(count, side, slope, 10**6 + trial.seed) + offset)

    return fault


LAWS = {
    "true law": unchanged,
    "smoother": law(3.5),
    "rougher": law(1.5),
    "half mixed": law(1.5, 0.5),
    "brighter": law(2.5, offset=1.0),
}


def made_of(maps: Callable[[Trial, np.random.Generator], Tensor]) -> Fault:
    """Return samples of which some are made of targets, or of other samples."""
    return lambda trial: trial.first(maps(trial, np.random.default_rng(trial.seed)))


def pairs(fit: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of different targets, as many as copies that are too many to be left out."""
    first = torch.from_numpy(rng.integers(len(fit), size=SOME))
    other = (first + torch.from_numpy(rng.integers(1, len(fit), size=SOME))) % len(fit)
    return fit[first], fit[other]


def blends(trial: Trial, rng: np.random.Generator) -> Tensor:
    """Means of two targets, with the variance of one."""
    one, other = pairs(trial.fit, rng)
    return 0.5**0.5 * (one + other)


def mosaics(trial: Trial, rng: np.random.Generator) -> Tensor:
    """Maps with a quadrant each of four targets."""
    half, made = trial.fit.shape[-1] // 2, pairs(trial.fit, rng)[0].clone()
    for y, x in ((0, half), (half, 0), (half, half)):
        made[..., y:, x:] = pairs(trial.fit, rng)[0][..., y:, x:]
    return made


MADE_UP = {
    "blends of two targets": made_of(blends),
    "mosaics of four targets": made_of(mosaics),
    "mean of all targets": made_of(lambda trial, _: trial.fit.mean(0).expand(SOME, -1, -1, -1)),
    "one sample again": made_of(lambda trial, _: trial.samples[-1].expand(SOME, -1, -1, -1)),
}
"""`SOME` samples each."""


def faults() -> Iterator[tuple[str, Fault, int]]:
    """Return what is done to the samples of one trial: name, how, number of copies."""
    for kind in KINDS_OF_COPIES:
        for count in PLANTED:
            yield f"{kind}, {count}", with_copies(kind, count), count
    for name, fault in (*LAWS.items(), *MADE_UP.items()):
        yield name, fault, 0


def row(name: str, planted: int, sets: Sequence[Judged]) -> str:
    """One row of the table; the first `planted` samples of each set are copies."""
    published, *others = (sum(s.outcome == key for s in sets) for key in OUTCOMES)
    missed = [len(set(range(planted)) - s.found) for s in sets]
    copies = planted * len(sets)
    found = rate(copies - sum(missed), copies) if planted else ""
    kept = sum(m for m, s in zip(missed, sets, strict=True) if s.outcome == "published")
    cells = [name, len(sets), rate(published, len(sets)), *others, found, kept if planted else ""]
    return f"| {' | '.join(map(str, cells))} |"


def rate(count: int, trials: int) -> str:
    """Count, with a 95 % interval of its share."""
    low, high = binomtest(count, trials).proportion_ci()
    return f"{count} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--only", nargs="+", default=[""], help="Words that rows begin with.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| samples | sets | {' | '.join(OUTCOMES)} | copies found | left in |")
    print("|---|---|---|---|---|---|---|", flush=True)
    judged: dict[tuple[str, int], list[Judged]] = {}
    for seed in range(asked.trials):
        trial = Trial.of(seed, asked.samples, asked.side)
        wanted = [f for f in faults() if f[0].startswith(tuple(asked.only))]
        for name, fault, copies in wanted:
            found = trial.judged(fault(trial))
            judged.setdefault((name, copies), []).append(found)
            print(seed, name, found.outcome, len(found.found), file=sys.stderr, flush=True)
        if not "another place".startswith(tuple(asked.only)):
            continue
        away = Trial.elsewhere(seed, asked.samples, asked.side)
        found = away.judged(away.features)
        judged.setdefault(("another place", 0), []).append(found)
        print(seed, "another place", found.outcome, len(found.found), file=sys.stderr, flush=True)
    for (name, copies), sets in judged.items():
        print(row(name, copies, sets), flush=True)
    releases: dict[tuple[str, int], list[Judged]] = {}
    few = asked.samples // 16
    for number in range(asked.releases):
        trial = Trial.of(10_000 + number, few, asked.side)
        for copies in (0, 1)[: 2 if number % 4 == 0 else 1]:
            fault = with_copies("verbatim", 1) if copies else unchanged
            found = trial.judged(fault(trial))
            case = "true law and 1 verbatim" if copies else "true law", copies
            releases.setdefault(case, []).append(found)
            print(number, copies, found.outcome, file=sys.stderr, flush=True)
    for (name, copies), sets in releases.items():
        print(row(f"{name}, {few} samples", copies, sets), flush=True)
    print("\n| kind of copy | mean power | least | sets |\n|---|---|---|---|")
    stated = [s.power for sets in (*releases.values(), *judged.values()) for s in sets]
    for kind in KINDS_OF_COPIES if stated else ():
        shares = [power[kind] for power in stated]
        print(f"| {kind} | {np.mean(shares):.3f} | {min(shares):.2f} | {len(shares)} |")


if __name__ == "__main__":
    main()
