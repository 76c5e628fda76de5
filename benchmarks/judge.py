"""What the judge decides of planted faults, and of the true distribution: a table of rates.

    OMP_NUM_THREADS=1 PYTHONPATH=. python -m benchmarks.judge --trials 4 --releases 200

Targets are Gaussian fields with a power-law spectrum, drawn anew in every trial: 32 to fit and 64
held out. Copies of every kind are set among samples of the true law, 1, 6 and 48 of 128; other laws
are smoother, rougher, half mixed, or at another place (of another brightness). `releases` are sets
of the true law, and a fifth as many with one verbatim copy. A set is published without the copies
that are found; `copies found` is their share among those that were planted, and `left in` counts
the others in all published sets of a row. The gate asks for `unsteered_p` of 0.05 and a
`pixel_wasserstein` of at most 0.5: sets of the true law have 0.06 to 0.07.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ood_core.arrays import Maps
from ood_core.config.gate import KINDS_OF_COPIES, GateSpec
from ood_core.evaluation.copies import planted
from ood_core.evaluation.evaluate import STATISTICS, evaluate_features
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.gate import decide
from ood_core.numerics.random import Root
from tests.oracles.fields import power_law

GATE = GateSpec(unsteered_p=0.05, pixel_wasserstein=0.5)
SCORES = tuple(score for score in STATISTICS if score.name == "pixel_wasserstein")
DIHEDRAL = ("flip", "rotate90")
FIT, HELD_OUT, PLANTED = 32, 64, (1, 6, 48)
OUTCOMES = ("published", "quarantined", "undecided")
Fault = Callable[[FeatureExtractor, Maps, int], Maps]


def with_copies(kind: str, count: int) -> Fault:
    """Return samples of which `count` are copies of one kind."""

    def fault(extractor: FeatureExtractor, samples: Maps, seed: int) -> Maps:
        root = Root(seed)
        made = [planted(extractor, kind, root, count, number) for number in range(2)]
        copies = torch.cat(made)[:count]
        return torch.cat([copies, samples[len(copies) :]])

    return fault


def unchanged(_: FeatureExtractor, samples: Maps, seed: int) -> Maps:
    """Return samples of the true law."""
    return samples


def law(slope: float, share: float = 1.0, offset: float = 0.0) -> Fault:
    """Return samples of which a share has another slope and brightness."""

    def fault(_: FeatureExtractor, samples: Maps, seed: int) -> Maps:
        other = power_law(int(share * len(samples)), samples.shape[-1], slope, 10**6 + seed)
        return torch.cat([other + offset, samples[len(other) :]])

    return fault


@dataclass(frozen=True)
class Judged:
    """The outcome of one set, and which of its samples were found to be copies."""

    outcome: str
    found: frozenset[int]


def judge(fault: Fault, seed: int, samples: int, side: int) -> Judged:
    """Draw targets and samples, plant the fault and decide."""
    fit, held, drawn = (
        power_law(n, side, seed=3 * seed + part) for part, n in enumerate((FIT, HELD_OUT, samples))
    )
    extractor = FeatureExtractor.of(fit, held, DIHEDRAL)
    maps = fault(extractor, drawn, seed)
    blocks = (extractor.extract(block) for block in maps.split(64))
    result = evaluate_features(extractor, blocks, len(maps), Root(seed), statistics=SCORES)
    return Judged(decide(GATE, result, len(held)).outcome, frozenset(result.copies.samples))


def row(name: str, fault: Fault, planted: int, trials: int, samples: int, side: int) -> str:
    """Judge so many sets; the first `planted` samples of each are copies."""
    sets = [judge(fault, seed, samples, side) for seed in range(trials)]
    shares = [sum(s.outcome == key for s in sets) / trials for key in OUTCOMES]
    missed = [len(set(range(planted)) - s.found) for s in sets]
    found = f"{1 - sum(missed) / (planted * trials):.2f}" if planted else ""
    kept = sum(m for m, s in zip(missed, sets, strict=True) if s.outcome == "published")
    cells = [name, str(trials), *(f"{share:.3f}" for share in shares), found, str(kept)]
    return f"| {' | '.join(cells)} |"


def faults(samples: int) -> Iterator[tuple[str, Fault, int]]:
    """Return all faults: name, what is done to samples, number of copies."""
    for kind in KINDS_OF_COPIES:
        for count in PLANTED:
            if count <= samples // 2:
                yield f"{kind}, {count}", with_copies(kind, count), count
    yield "smoother", law(3.5), 0
    yield "rougher", law(1.5), 0
    yield "half mixed", law(1.5, 0.5), 0
    yield "another place", law(2.5, 1.0, 1.0), 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--side", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| fault | sets | {' | '.join(OUTCOMES)} | copies found | left in |")
    print("|---|---|---|---|---|---|---|")
    rows = [(*fault, asked.trials) for fault in faults(asked.samples)]
    rows.append(("true law and 1 verbatim", with_copies("verbatim", 1), 1, asked.releases // 5))
    rows.append(("true law", unchanged, 0, asked.releases))
    for name, fault, copies, trials in rows:
        if trials:
            print(row(name, fault, copies, trials, asked.samples, asked.side), flush=True)


if __name__ == "__main__":
    main()
