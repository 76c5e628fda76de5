"""False alarms of every test that the judge makes, where maps are alike in a way that is known.

    OMP_NUM_THREADS=1 PYTHONPATH=. python -m benchmarks.null_rates --trials 200

Fit and held-out maps are rows of six features, N(0, 1) each, from stationary autoregressions of the
stated correlation of neighbours; samples are independent draws of the same law. The judge is told
neither. Per cent of trials with a false alarm, in brackets 95 % of Clopper-Pearson:

    energy, classifier   the test of samples against held-out maps rejects at 5 %
    targets differ       the energy test of fit against held-out maps rejects at 5 %
    nearest ratio        the median of distances is outside the band of 90 %
    near copies          more distances are within the threshold than chance gives at 1 %
    FSD, spectrum, C2ST  the median over splits is above the band, of which 5 % is above

*Decided* are trials in which the judge says anything: where dependent maps are worth too few
independent ones, it raises no alarm. Distances to the nearest target are a function of the first
feature, log-normal with a spread of a fifth; powers of bands are exponentials of half a feature. A
test that has fewer values than its level can reach, or that is exact in rank (Fisher's), stays
below it; so does a median over splits, which spreads less than the single splits of its band. The
band of C2ST trains 190 classifiers, a second and more per trial: `--only C2ST` has it by itself.

The exit status is 1 if any rate is above its level by more than chance: binomial, one-sided, at 5 %
over all rates of the table together (Bonferroni).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from ood_core.evaluation.dependence import Dependence
from ood_core.evaluation.evaluate import STATISTICS, Reference, banded_score, halves, nearest_score
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.memorization import RATE, flag_p_value, threshold
from ood_core.evaluation.results import ALPHA, MIN_EFFECTIVE, Score
from ood_core.metrics.discrepancy import energy_test
from ood_core.metrics.distances import Whitening
from ood_core.metrics.two_sample import classifier_test
from ood_core.numerics.random import Root

HELD_OUT, SAMPLES, CORRELATIONS = (16, 64, 320), (8, 64, 1024), (0.0, 0.5, 0.8)
FEATURES, PERMUTATIONS = 6, 199
NOMINAL = {
    "decided": 100, "energy": 5, "classifier": 5, "targets differ": 5, "nearest ratio": 10,
    "near copies": 1, "FSD": 5, "spectrum": 5, "C2ST": 5,
}  # fmt: skip
Rows = Float[Tensor, "m f"]
BANDS = {"FSD": "fsd", "spectrum": "spectrum_error", "C2ST": "c2st"}


def chain(count: int, keep: float, rng: np.random.Generator) -> Rows:
    """Rows of an autoregression with a correlation of `keep^l` at a lag of `l`."""
    rows = rng.standard_normal((count, FEATURES))
    for i in range(1, count):
        rows[i] = keep * rows[i - 1] + (1 - keep**2) ** 0.5 * rows[i]
    return torch.from_numpy(rows)


def alarms(
    held_out: int, samples: int, keep: float, seed: int, only: Sequence[str]
) -> dict[str, bool]:
    """Which tests, by name, raise a false alarm in one draw."""
    root, rng = Root(seed), np.random.default_rng([seed, held_out, samples, int(100 * keep)])
    fit, real = (chain(held_out, keep, rng) for _ in range(2))
    made = chain(samples, 0, rng)
    dependence = Dependence.measure(real, root, beside=(fit, None))
    apart = real[dependence.apart(root)]
    far, near = ((0.2 * rows[:, 0]).exp() for rows in (real, made))
    order = torch.from_numpy(rng.permutation(len(apart)))
    alone = fit[:: dependence.block]
    worth = dependence.effective / held_out

    def told() -> bool:
        return len(apart) >= 4 and classifier_test(made, apart[order]).p_value <= ALPHA

    def flagged() -> bool:
        count = int((near <= threshold(far)[0]).sum())
        return flag_p_value(count, samples, held_out, worth=worth) <= RATE

    tests: dict[str, Callable[[], bool]] = {
        "decided": lambda: True,
        "energy": lambda: energy_test(made, apart, rng, PERMUTATIONS).p_value <= ALPHA,
        "classifier": told,
        "targets differ": lambda: energy_test(alone, apart, rng, PERMUTATIONS).p_value <= ALPHA,
        "nearest ratio": lambda: outside(nearest_score(near, far, root, dependence)),
        "near copies": flagged,
        **{name: partial(band, name, fit, real, made, dependence, root) for name in BANDS},
    }
    enough = dependence.block == 1 or dependence.effective >= MIN_EFFECTIVE
    return {name: enough and tests[name]() for name in only}


def band(name: str, fit: Rows, real: Rows, made: Rows, dependence: Dependence, root: Root) -> bool:
    """Whether a score lies outside its band."""
    maps = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # of no use here
    reference = Reference(FeatureExtractor.of(maps, maps, ()), Whitening.fit(fit))
    of_samples, of_real = (
        {"scattering": rows, "power": (0.5 * rows[:, None]).exp()} for rows in (made, real)
    )
    splits = halves(len(made), dependence, root)
    (statistic,) = (s for s in STATISTICS if s.name == BANDS[name])
    return outside(banded_score(statistic, of_samples, of_real, reference, splits))


def outside(score: Score) -> bool:
    """Whether a score is worse than real maps."""
    return not score.inside


def rate(count: int, trials: int) -> str:
    """Per cent, with a 95 % interval."""
    low, high = (100 * end for end in binomtest(count, trials).proportion_ci())
    return f"{100 * count / trials:.1f} ({low:.0f} to {high:.0f})"


def beyond(count: int, trials: int, level: float, tests: int) -> bool:
    """Whether so many false alarms are more than chance at a level, of several tests together."""
    return bool(binomtest(count, trials, level, "greater").pvalue < ALPHA / tests)


def main() -> None:
    """Print one row per correlation and numbers of maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--held-out", type=int, nargs="+", default=HELD_OUT)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--correlations", type=float, nargs="+", default=CORRELATIONS)
    parser.add_argument("--only", nargs="+", choices=list(NOMINAL)[1:], help="Columns.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = ["decided", *(asked.only or list(NOMINAL)[1:])]
    columns = [f"{name}, {NOMINAL[name]} %" for name in names]
    print(f"| correlation | held out | samples | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|", flush=True)
    levels = {name: NOMINAL[name] / 100 for name in names[1:]}
    tests, above = (
        len(levels) * len(asked.correlations) * len(asked.held_out) * len(asked.samples),
        [],
    )
    for keep in asked.correlations:
        for m in asked.held_out:
            for n in asked.samples:
                found = [alarms(m, n, keep, trial, names) for trial in range(asked.trials)]
                counts = {name: sum(f[name] for f in found) for name in names}
                rates = [rate(count, len(found)) for count in counts.values()]
                print(f"| {keep:g} | {m} | {n} | {' | '.join(rates)} |", flush=True)
                above += [
                    f"{name} of {m} held out and {n} samples, correlation {keep:g}"
                    for name, level in levels.items()
                    if beyond(counts[name], len(found), level, tests)
                ]
    print(f"\nAbove the level by more than chance: {len(above)} of {tests}.", *above, sep="\n- ")
    sys.exit(bool(above))


if __name__ == "__main__":
    main()
