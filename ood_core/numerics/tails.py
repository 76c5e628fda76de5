"""How near must two maps be, for no two different ones to be? Limits far below what was seen.

The least of many distances has a tail `P(d < x) = 1 - exp(-(x / s)^(1 / b))` (Weibull), so that
`ln d` falls by `b` for every factor `e` of rarity. With the levels `l_p = ln(-ln(1 - p))`,

    b = (q_50 - q_p) / (l_50 - l_p),      ln limit = q_50 - B (l_50 - l_a),   B = (1 + 4 / m^1/2) b

for quantiles `q` of `ln d` at `p` = 25 and 10 %; the lower of the two limits holds. `B` allows for
the error of `b` from `m` maps. No limit is above 0.6 of the second least distance of maps that are
no copies themselves, as where a few real maps are more alike than the others. Fewer than a tenth of
the distances that are 0 cannot bring the limit to 0; more can.
"""

import math

from jaxtyping import Float
from torch import Tensor

LEVELS = (0.25, 0.1)  # of the quantiles that tell how distances fall off
DUPLICATE = 0.5  # of a limit: a map within it is a copy itself
BELOW = 0.6  # of the second least distance of the others: no limit is above
CAUTION = 4  # standard errors of a slope over its m^1/2, with room for the spread of the rate


def limit(held_out: Float[Tensor, " m"], rarity: float) -> float:
    """Return the distance that a further real map falls below with a probability of `rarity`."""
    logs = held_out.double().clamp(min=1e-12).log()
    middle = float(logs.quantile(0.5))
    found = []
    for level in LEVELS:
        slope = (middle - float(logs.quantile(level))) / (_tail(0.5) - _tail(level))
        cautious = (1 + CAUTION / len(logs) ** 0.5) * slope
        found.append(math.exp(middle - cautious * (_tail(0.5) - _tail(rarity))))
    apart = held_out[held_out > DUPLICATE * min(found)].double().sort().values
    return min(*found, BELOW * float(apart[1])) if len(apart) > 1 else min(found)


def _tail(probability: float) -> float:
    return math.log(-math.log1p(-probability))
