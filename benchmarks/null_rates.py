"""False alarms of every test that the judge makes, where maps are alike in a way that is known.

    OMP_NUM_THREADS=1 PYTHONPATH=. python -m benchmarks.null_rates --trials 200

Held-out maps are rows of six features, N(0, 1) each, from a stationary autoregression of the stated
correlation of neighbours; samples are independent draws of the same law. The judge is told neither.
Per number of held-out maps and of samples: per cent of trials in which the energy test and the
classifier test reject at 5 %, in which the median of distances is outside the band of 90 %
(nominal 10), and in which more distances are within the threshold of near copies than chance gives
at 1 %; in brackets 95 % of Clopper-Pearson. *Decided* are trials in which the judge says anything:
where dependent maps are worth too few independent ones, it raises no alarm. Distances to the
nearest target are a function of the first feature, log-normal with a spread of a fifth. A test that
has fewer values than its level can reach, or that is exact in rank (Fisher's), stays below it.
"""

import argparse

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from ood_core.evaluation.dependence import Dependence
from ood_core.evaluation.evaluate import nearest_score
from ood_core.evaluation.memorization import flag_p_value, threshold
from ood_core.evaluation.results import MIN_EFFECTIVE
from ood_core.metrics.discrepancy import energy_test
from ood_core.metrics.two_sample import classifier_test
from ood_core.numerics.random import Root

HELD_OUT, SAMPLES, CORRELATIONS = (16, 64, 320), (8, 64, 1024), (0.0, 0.5, 0.8)
FEATURES, PERMUTATIONS = 6, 199
NOMINAL = {"decided": 100, "energy": 5, "classifier": 5, "nearest ratio": 10, "near copies": 1}


def chain(count: int, keep: float, rng: np.random.Generator) -> Float[Tensor, "m f"]:
    """Rows of an autoregression with a correlation of `keep^l` at a lag of `l`."""
    rows = rng.standard_normal((count, FEATURES))
    for i in range(1, count):
        rows[i] = keep * rows[i - 1] + (1 - keep**2) ** 0.5 * rows[i]
    return torch.from_numpy(rows)


def alarms(held_out: int, samples: int, keep: float, seed: int) -> dict[str, bool]:
    """Which tests raise a false alarm in one draw."""
    root, rng = Root(seed), np.random.default_rng([seed, held_out, samples, int(100 * keep)])
    real, made = chain(held_out, keep, rng), chain(samples, 0, rng)
    dependence = Dependence.measure(real, root)
    apart = real[dependence.apart(root)]
    far, near = ((0.2 * rows[:, 0]).exp() for rows in (real, made))
    within, _ = threshold(far)
    band = nearest_score(near, far, root, dependence)
    order = torch.from_numpy(rng.permutation(len(apart)))
    told = len(apart) >= 4 and classifier_test(made, apart[order]).p_value <= 0.05
    enough = dependence.block == 1 or dependence.effective >= MIN_EFFECTIVE
    flagged, worth = int((near <= within).sum()), dependence.effective / held_out
    return {
        "decided": enough,
        "energy": enough and energy_test(made, apart, rng, PERMUTATIONS).p_value <= 0.05,
        "classifier": enough and told,
        "nearest ratio": enough and not band.low <= band.value <= band.high,
        "near copies": flag_p_value(flagged, samples, held_out, worth=worth) <= 0.01,
    }


def rate(count: int, trials: int) -> str:
    """Per cent, with a 95 % interval."""
    low, high = (100 * end for end in binomtest(count, trials).proportion_ci())
    return f"{100 * count / trials:.1f} ({low:.0f} to {high:.0f})"


def main() -> None:
    """Print one row per correlation and numbers of maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"{name}, {nominal} %" for name, nominal in NOMINAL.items()]
    print(f"| correlation | held out | samples | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|", flush=True)
    for keep in CORRELATIONS:
        for m in HELD_OUT:
            for n in asked.samples:
                found = [alarms(m, n, keep, trial) for trial in range(asked.trials)]
                rates = [rate(sum(f[name] for f in found), len(found)) for name in NOMINAL]
                print(f"| {keep:g} | {m} | {n} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
