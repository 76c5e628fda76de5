"""Power of a test: how large must a difference be to be seen with so many maps?

A test that finds nothing says little unless it could have found something. Shifts are in standard
deviations of a statistic over maps.
"""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import f, ncf

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import energy_test
from ood_core.seeds import Stream, generator

LARGEST = 64.0  # standard deviations: no test of two sets needs more


def mean_power(shift: float, n: int, m: int, level: float = 0.05) -> float:
    """Return how often the two-sided t-test of `n` and `m` normal values sees a shift of means.

    The square of `t` follows the F law of 1 and `n + m - 2` degrees of freedom, noncentral by
    `shift^2 / (1/n + 1/m)`.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    if min(n, m) < 2:
        raise TargetError(f"got {min(n, m)} rows in a set; expected at least 2 to compare means")
    freedom = n + m - 2
    return float(ncf.sf(f.isf(level, 1, freedom), 1, freedom, shift**2 / (1 / n + 1 / m)))


def detectable_mean_shift(n: int, m: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the least shift of means that the t-test sees in a part `power` of all cases.

    For large sets it is `(z_(1-level/2) + z_power) (1/n + 1/m)^1/2`, with normal quantiles `z`.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    high = (1 / n + 1 / m) ** 0.5
    while mean_power(high, n, m, level) < power:
        high *= 2
    return float(brentq(lambda d: mean_power(d, n, m, level) - power, 0.0, high))


def energy_power(
    shift: float,
    n: int,
    m: int,
    rng: np.random.Generator,
    features: int = 1,
    trials: int = 200,
    level: float = 0.05,
) -> float:
    """Return the part of simulated trials in which the energy test sees a shift of one feature.

    Features are independent and standard normal; its standard error is at most
    `1 / (2 trials^1/2)`.
    """
    permutations = round(4 / level) - 1  # `level` is then one of the values that p can take
    seen = 0
    for _ in range(trials):
        rows = torch.from_numpy(rng.standard_normal((n + m, features)))
        rows[n:, 0] += shift
        seen += energy_test(rows[:n], rows[n:], rng, permutations).p_value <= level
    return seen / trials


def detectable_energy_shift(
    n: int,
    m: int,
    root: int,
    features: int = 1,
    trials: int = 200,
    power: float = 0.8,
    level: float = 0.05,
    steps: int = 6,
) -> float:
    """Return the least shift of one feature that the energy test sees in a part `power` of trials.

    The shift is bisected with the same draws at every step, between the least that the t-test of
    means sees and a bound that is doubled until the power is reached.
    """

    def reached(shift: float) -> bool:
        rng = generator(root, 0, stream=Stream.RESAMPLE)
        return energy_power(shift, n, m, rng, features, trials, level) >= power

    low = 0.5 * detectable_mean_shift(n, m, power, level)
    high = 2 * low
    while high < LARGEST and not reached(high):
        low, high = high, 2 * high
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
