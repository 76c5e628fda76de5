"""Shaped names of the arrays that travel through the core.

All are dimensionless, in model range and float32 unless a docstring says otherwise. The axes are
`n` samples, `c` channels, `y` rows and `x` columns.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
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
    return _mapped(value, Tensor.contiguous)


def on_device(value: T, device: torch.device | str) -> T:
    """Return a fitted record, tensor or tuple of them with every tensor on a device.

    A part that is no record but has `to` moves itself.
    """
    return _mapped(value, lambda tensor: tensor.to(device), device)


def wide(x: Tensor) -> Tensor:
    """Return a tensor in double precision; mps has none, and gets it as it is."""
    if x.device.type == "mps":
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _mapped(value: T, change: Callable[[Tensor], Tensor], device: Any = None) -> T:
    found: Any = value
    if isinstance(value, Tensor):
        found = change(value)
    elif isinstance(value, tuple):
        found = tuple(_mapped(part, change, device) for part in value)
    elif device is not None and hasattr(value, "to"):
        found = value.to(device)
    elif is_dataclass(value) and not isinstance(value, type):
        names = (f.name for f in fields(value) if f.init)
        parts = {name: _mapped(getattr(value, name), change, device) for name in names}
        found = replace(cast(Any, value), **parts)
    return cast(T, found)
