"""What the judge decides of planted faults, and of the true distribution: a table of rates.

    PYTHONPATH=. python -m benchmarks.judge --trials 10 --releases 200 --samples 128 --side 16

Targets are Gaussian fields with a power-law spectrum, drawn anew in every trial: 32 to fit and 64
held out. Copies of every kind are set among samples of the true law, 1, 6 and 48 of 1,024 or as
many as `--samples` has room for; other laws are smoother, rougher, half mixed, or at another place
(of another brightness). `releases` are sets of the true law, and as many with one verbatim copy.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import torch

from ood_core.arrays import Maps
from ood_core.config.gate import KINDS_OF_COPIES, GateSpec
from ood_core.evaluation.copies import planted
from ood_core.evaluation.evaluate import evaluate_features
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.gate import decide
from ood_core.numerics.random import Root
from tests.oracles.fields import power_law

GATE = GateSpec(unsteered_p=0.05)
DIHEDRAL = ("flip", "rotate90")
FIT, HELD_OUT, PLANTED = 32, 64, (1, 6, 48)
Fault = Callable[[FeatureExtractor, Maps, int], Maps]


def with_copies(kind: str, count: int) -> Fault:
    """Return samples of which `count` are copies of one kind."""

    def fault(extractor: FeatureExtractor, samples: Maps, seed: int) -> Maps:
        root = Root(seed)
        made = [planted(extractor, kind, root, count, number) for number in range(2)]
        copies = torch.cat(made)[:count]
        return torch.cat([copies, samples[len(copies) :]])

    return fault


def law(slope: float, share: float = 1.0, offset: float = 0.0) -> Fault:
    """Return samples of which a share has another slope and brightness."""

    def fault(_: FeatureExtractor, samples: Maps, seed: int) -> Maps:
        other = power_law(int(share * len(samples)), samples.shape[-1], slope, 10**6 + seed)
        return torch.cat([other + offset, samples[len(other) :]])

    return fault


def outcome(fault: Fault, seed: int, samples: int, side: int) -> str:
    """Draw targets and samples, plant the fault and decide."""
    fit, held, drawn = (
        power_law(n, side, seed=3 * seed + part) for part, n in enumerate((FIT, HELD_OUT, samples))
    )
    extractor = FeatureExtractor.of(fit, held, DIHEDRAL)
    maps = fault(extractor, drawn, seed)
    blocks = (extractor.extract(block) for block in maps.split(64))
    result = evaluate_features(extractor, blocks, len(maps), Root(seed))
    return decide(GATE, result, len(held)).outcome


def faults(samples: int) -> dict[str, Fault]:
    """Return all faults by name."""
    counts = [count for count in PLANTED if count <= samples // 2]
    copies = {f"{k}, {n}": with_copies(k, n) for k in KINDS_OF_COPIES for n in counts}
    return copies | {
        "smoother": law(3.5),
        "rougher": law(1.5),
        "half mixed": law(1.5, 0.5),
        "another place": law(2.5, 1.0, 1.0),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--side", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    true = {
        "true law": lambda extractor, samples, seed: samples,
        "true law and 1 verbatim": with_copies("verbatim", 1),
    }
    rows = [(name, fault, asked.releases) for name, fault in true.items()]
    rows += [(name, fault, asked.trials) for name, fault in faults(asked.samples).items()]
    print("| fault | trials | published | quarantined | undecided |\n|---|---|---|---|---|")
    for name, fault, trials in rows:
        found = Counter(outcome(fault, s, asked.samples, asked.side) for s in range(trials))
        shares = (f"{found[key] / max(trials, 1):.3f}" for key in OUTCOMES)
        print(f"| {name} | {trials} | {' | '.join(shares)} |", flush=True)


OUTCOMES = ("published", "quarantined", "undecided")

if __name__ == "__main__":
    main()
