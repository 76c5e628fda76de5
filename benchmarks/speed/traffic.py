"""What one shard asks of a device: launches, uploads, reads, counted on a machine without one.

    python -m benchmarks.speed.traffic        (a shard of the demo)

Run by `tests/synthesis/test_device.py`, too.

Tensors of the device `meta` are given numbers, which live on the CPU, and a `Recorder` counts what
a GPU would be asked for. Work that names the CPU meets a tensor of another device and fails, as it
would there. Views and memory cost nothing and are not counted; an operator counts as one launch,
though some (transforms, sorts) start a few kernels.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import ood_core as ff
from benchmarks.speed.method import PROJECT, hubble
from ood_core.numerics.random import SeedRange

DEVICE = torch.device("meta")
FREE = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty",
    "empty_like", "expand", "lift_fresh", "permute", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
    "view_as_complex", "view_as_real",
}  # fmt: skip
"""Operators that make a view, or take memory and leave it as it is."""


@final
class OnDevice(Tensor):
    """A tensor that says it lies on `DEVICE`, and has its numbers on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "OnDevice":
        """Wrap a tensor of the CPU."""
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, numbers.size(), strides=numbers.stride(), dtype=numbers.dtype, device=DEVICE,
            storage_offset=numbers.storage_offset(), requires_grad=numbers.requires_grad,
        )  # fmt: skip
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse: outside of a `Recorder` these tensors do nothing."""
        raise RuntimeError(f"got {func} outside of a Recorder")


@final
class Recorder(TorchDispatchMode):
    """Counts launches, uploads and reads by the place in the code that asks for them.

    `by_place` has them by kind and by the innermost function of this project; `by_size` the bytes
    of uploads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_place: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("launches", "uploads", "reads")
        }
        self.bytes = 0

    def count(self, kind: str) -> int:
        """How many of a kind."""
        return self.by_place[kind].total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do one operator on the CPU, and count what it would cost on a device."""
        given = dict(kwargs or {})
        name = func.overloadpacket.__name__
        asked = given.get("device")
        there = any_on_device(args) or any_on_device(given)
        if name == "_local_scalar_dense" and there:
            self._note("reads")
            return func(*tree_map(numbers, args))
        moves_up = asked is not None and torch.device(asked).type == DEVICE.type
        if moves_up:
            given["device"] = torch.device("cpu")
        elif asked is not None and there:  # to the host
            self._note("reads")
            return func(*tree_map(numbers, args), **tree_map(numbers, given))
        if name == "copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
            up = isinstance(args[0], OnDevice)
            self._note("uploads" if up else "reads", args[1])
            func(*tree_map(numbers, args), **given)
            return args[0]
        if moves_up and not there and tensors(args):
            self._note("uploads", tensors(args)[0])
        elif there:
            require_one_device(func, args, given)
        if not there and not moves_up:
            return func(*args, **given)
        if name not in FREE:
            self._note("launches")
        found = func(*tree_map(numbers, args), **tree_map(numbers, given))
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], OnDevice):
            return args[0]
        return tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, found)

    def _note(self, kind: str, what: Tensor | None = None) -> None:
        self.by_place[kind][_place(sys._getframe(2))] += 1
        if what is not None and kind == "uploads":
            self.bytes += what.numel() * what.element_size()


def numbers(value: Any) -> Any:
    """The numbers of a tensor of the device; anything else as it is."""
    return value.numbers if isinstance(value, OnDevice) else value


def tensors(values: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, Tensor) else None, values)
    return found


def any_on_device(values: Any) -> bool:
    """Whether some tensor lies on the device."""
    return any(isinstance(x, OnDevice) for x in tensors(values))


def require_one_device(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse tensors of both devices, as a GPU does; a number in a tensor may lie on the host.

    Raises:
        RuntimeError: they are of both.
    """
    strange = [x for x in tensors((args, kwargs)) if not isinstance(x, OnDevice) and x.ndim]
    if strange:
        raise RuntimeError(f"{func}: got a tensor of the CPU beside one of the device")


def _place(frame: FrameType | None) -> str:
    while frame is not None:
        path = frame.f_code.co_filename
        if "site-packages" not in path and ("ood_core" in path or "actors" in path):
            return f"{path.rsplit('/', 1)[1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def recorded(call: Callable[[], Any]) -> Recorder:
    """Count what a call asks of the device."""
    recorder = Recorder()
    with recorder:
        call()
    return recorder


def main(samples: int = 64) -> None:
    """Count what a shard of the demo asks for, after another one on the same device."""
    targets, base = hubble(64)
    method = ff.Method(calibration=ff.CalibrationSpec(draws=1))
    synth = ff.Synthesizer(ff.load_model(str(PROJECT / base)), method, batch=samples)
    synth.fit(targets, progress=False)
    with Recorder():
        sampler = synth.to(DEVICE)._fit.sampler
        sampler.sample(SeedRange(1, 0, 2))
    found = recorded(lambda: sampler.sample(SeedRange(1, 0, samples)))
    counts = {kind: found.count(kind) for kind in found.by_place}
    print(json.dumps({"samples": samples, **counts, "bytes uploaded": found.bytes}))


if __name__ == "__main__":
    main()
