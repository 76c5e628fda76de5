"""Rates at which the whole evaluation flags fields of known distribution, true ones and others.

    python -m benchmarks.nominal --trials 200 --only "the same distribution"
    python -m benchmarks.nominal --trials 20

Every trial draws 64 fit and 64 held-out maps, 128 samples and 24 maps of another domain, all 16 px
and independent, and validates them as a run is validated. *The same distribution* are samples of
the targets' own: what is flagged of them is a false alarm. The others are negative controls, each
with one fault. Columns are shares of trials in which the report says so, with 95 % of
Clopper-Pearson: any unsteered family (adjusted p at or below 0.05), the classifier, near copies in
pixels, in statistics and among latents, leak of the other domain, fit against held-out targets, and
how often a gate on `unsteered_p` and `copies_p` 0.05 publishes. Latents are white maps, copies
those of fit targets.
"""

import argparse
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import binomtest

from flows.progress import Bars
from ood_core.arrays import Maps
from ood_core.config.gate import GateSpec
from ood_core.evaluation.downstream import gaussian_fields
from ood_core.evaluation.evaluate import evaluate_features
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.gate import decide
from ood_core.evaluation.results import ALPHA, EvaluationResult
from ood_core.numerics.covariance import filtered, wavenumbers
from ood_core.numerics.random import Root, SeedRange, normal, root_key

SIDE, TARGETS, SAMPLES, DOMAIN = 16, 64, 128, 24
GATE = GateSpec(unsteered_p=ALPHA, copies_p=ALPHA)
SYMMETRIES = ("flip", "rotate90")


def fields(count: int, key: str, radius: float = 1.0) -> Maps:
    """Log-normal fields of a Gaussian spectrum."""
    white = normal(SeedRange(root_key(key), 0, count), (1, SIDE, SIDE))
    k = 2 * torch.pi * wavenumbers(SIDE, SIDE)
    return torch.exp(0.5 * filtered(white, 3 * torch.exp(-0.5 * (2 * radius * k) ** 2)))


def mixed(count: int, key: str) -> Maps:
    """Half of the maps are dark blobs instead of bright ones: a distribution of two kinds."""
    maps = fields(count, key)
    maps[::2] = 2 - maps[::2]
    return maps


def collapsed(fit: Maps, key: str) -> Maps:
    """Eight maps over and over, with a little noise."""
    few = fields(8, key).repeat(SAMPLES // 8, 1, 1, 1)
    return few + 0.05 * normal(SeedRange(root_key(key), 1000, 1000 + SAMPLES), few.shape[1:])


def copied(fit: Maps, key: str) -> Maps:
    """True samples, of which one in eight is a noised copy of a target."""
    maps = fields(SAMPLES, key)
    maps[::8] = fit[: SAMPLES // 8].flip(-1) + 0.05 * maps[1::8]
    return maps


CASES: dict[str, tuple[Callable[[int, str], Maps], Callable[[Maps, str], Maps]]] = {
    "the same distribution": (fields, lambda fit, key: fields(SAMPLES, key)),
    "the same distribution, two kinds": (mixed, lambda fit, key: mixed(SAMPLES, key)),
    "phases scrambled": (
        fields,
        lambda fit, key: gaussian_fields(fields(SAMPLES, key), Root(1), 2),
    ),
    "one kind of two": (mixed, lambda fit, key: fields(SAMPLES, key)),
    "5 % smoother": (fields, lambda fit, key: fields(SAMPLES, key, 1.05)),
    "25 % smoother": (fields, lambda fit, key: fields(SAMPLES, key, 1.25)),
    "eight maps over and over": (fields, collapsed),
    "one in eight a copy": (fields, copied),
    "the other domain": (fields, lambda fit, key: domain(SAMPLES, key + "/s")),
}


def domain(count: int, key: str) -> Maps:
    """White noise: the base's own domain."""
    return 1 + 0.5 * normal(SeedRange(root_key(key), 0, count), (1, SIDE, SIDE))


def trial(case: str, number: int) -> dict[str, bool]:
    """Validate one draw of everything; return what is flagged."""
    truth, sampler = CASES[case]
    key = f"{case}/{number}"
    fit, held_out = truth(TARGETS, key + "/fit"), truth(TARGETS, key + "/held out")
    samples = sampler(fit, key + "/samples")
    extractor = FeatureExtractor.of(fit, held_out, SYMMETRIES)
    latents = domain(TARGETS, key + "/z"), domain(SAMPLES, key + "/drawn")
    own = extractor.extract(domain(DOMAIN, key + "/base"))["scattering"]
    found = evaluate_features(
        extractor, [extractor.extract(samples)], SAMPLES, Root.of(key), own, latents
    )
    return said(found)


def said(found: EvaluationResult) -> dict[str, bool]:
    """What a report flags, as yes or no."""
    tests, copies = found.tests, {check.space: check for check in found.memorization}
    assert tests.classifier is not None
    assert found.leakage is not None
    return {
        "told apart": any(test.rejected for test in tests.families),
        "classifier": tests.classifier.p_value <= ALPHA,
        "copies, pixels": copies["pixels"].p_value <= ALPHA,
        "copies, statistics": copies["scattering"].p_value <= ALPHA,
        "copies, latents": copies["latents"].p_value <= ALPHA,
        "leak": found.leakage.p_value <= ALPHA,
        "targets differ": any(test.targets_differ for test in tests.families),
        "published": decide(GATE, found, TARGETS).outcome == "published",
    }


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--only", choices=[*CASES], action="append")
    arguments: Any = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print("commit", commit.stdout.strip(), time.strftime("%Y-%m-%d"), flush=True)
    head = False
    with Bars() as bars:
        for case in arguments.only or CASES:
            bars.begin(case, arguments.trials, 0)
            rows = []
            for number in range(arguments.trials):
                rows.append(trial(case, number))
                bars.advance(case, 1)
            if not head:
                print("| samples | trials |", " | ".join(rows[0]), "|")
                print("|---" * (2 + len(rows[0])) + "|", flush=True)
                head = True
            cells = [share(sum(row[name] for row in rows), len(rows)) for name in rows[0]]
            print(f"| {case} | {len(rows)} |", " | ".join(cells), "|", flush=True)


def share(count: int, trials: int) -> str:
    """Per cent, with a 95 % interval."""
    interval = binomtest(count, trials).proportion_ci()
    low, high = (100 * end for end in interval)
    return f"{100 * count / trials:.0f} % ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    main()
