"""Shaped names of the arrays that travel through the core.

All are dimensionless, in model range and float32 unless a docstring says otherwise. The axes are
`n` samples, `c` channels, `y` rows and `x` columns.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from jaxtyping import Float, Int
from torch import Tensor

T = TypeVar("T")

Maps = Float[Tensor, "n c y x"]
Latents = Float[Tensor, "n c y x"]
Map = Float[Tensor, "c y x"]
PerSample = Float[Tensor, " n"]
TimeGrid = Int[Tensor, " points"]


def row_major(value: T) -> T:
    """Return a fitted record, tensor or tuple of them with every tensor in C order.

    A file keeps numbers and not strides, and the strides of a factor decide in which order a matrix
    product adds up. So everything that is fitted gets the order in which it comes back from a file:
    a fit in memory and the same fit read from a file give the same bits.
    """
    found: Any = value
    if isinstance(value, Tensor):
        found = value.contiguous()
    elif isinstance(value, tuple):
        found = tuple(row_major(part) for part in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: row_major(getattr(value, f.name)) for f in fields(value)}
        found = replace(cast(Any, value), **parts)
    return cast(T, found)
