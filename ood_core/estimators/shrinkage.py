"""How far a sample covariance is drawn towards `nu I`, in closed form and in the dual.

    C = (1 - rho) S + rho nu I,        nu = tr S / d

Everything follows from Gram matrices in `O(n^2 d)`; no `d x d` matrix is formed. The formulas are
those of `sklearn.covariance` (`ledoit_wolf`, `oas`), which has no symmetries: there the images of a
map would count as further maps, and the share of shrinkage would come out too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.sectors import sectors


@final
@dataclass(frozen=True, slots=True)
class Traces:
    """Of `S = (1/n) sum_i S_i`, with `S_i` the mean of `r r^T` over the images of map `i`.

    `trace` is `tr S`, `square` is `tr S^2` and `own` is the mean of `tr S_i^2`.
    """

    n: int
    dimensions: int
    trace: float
    square: float
    own: float

    @classmethod
    def measure(cls, residuals: Maps, symmetries: Sequence[Symmetry]) -> "Traces":
        """Measure on maps about their mean."""
        n, d = len(residuals), residuals[0].numel()
        trace = square = own = 0.0
        for sector in sectors(residuals, symmetries):
            gram, copies = sector.gram(), len(sector.back)
            parts = len(gram) // n
            alone = gram.reshape(parts, n, parts, n).diagonal(dim1=1, dim2=3)
            trace += copies * float(gram.diagonal().sum()) / n
            square += copies * float((gram**2).sum()) / n**2
            own += copies * float((alone**2).sum()) / n
        return cls(n, d, trace, square, own)

    @property
    def spread(self) -> float:
        """Squared Frobenius distance of `S` from `nu I`."""
        return self.square - self.trace**2 / self.dimensions

    def ledoit_wolf(self) -> float:
        """Share of least expected error, without a law (Ledoit & Wolf 2004, lemma 3.5).

        rho = min(1, sum_i |S_i - S|^2 / n^2 / |S - nu I|^2)
        """
        noise = (self.own - self.square) / self.n
        return min(1.0, noise / self.spread) if self.spread > 0 else 1.0

    def oas(self) -> float:
        """Share of least error under a Gaussian, at its fixed point (Chen et al. 2010, eq. 23).

        Terms of `2 / d` are left out, as scikit-learn does:

            rho = min(1, (tr S^2 + (tr S)^2) / ((n + 1) (tr S^2 - (tr S)^2 / d)))

        Images of a map under the symmetries count as no more maps.
        """
        if self.spread <= 0:
            return 1.0
        return min(1.0, (self.square + self.trace**2) / ((self.n + 1) * self.spread))
