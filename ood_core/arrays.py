"""Shaped names of the arrays that travel through the core.

All are dimensionless, in model range and float32 unless a docstring says otherwise. The axes are
`n` samples, `c` channels, `y` rows and `x` columns.
"""

from jaxtyping import Float, Int
from torch import Tensor

Maps = Float[Tensor, "n c y x"]
Latents = Float[Tensor, "n c y x"]
Map = Float[Tensor, "c y x"]
PerSample = Float[Tensor, " n"]
TimeGrid = Int[Tensor, " points"]
