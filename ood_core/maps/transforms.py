"""Invertible, recorded maps between physical values and the range that a base model works in.

With a stretch `g` (identity, logarithm or inverse hyperbolic sine) the transform is

    m = 2 (g(v) - low) / (high - low) - 1,      v = g^-1(low + (m + 1) (high - low) / 2),

where `low` and `high` are the 0.1 and 99.9 percentiles of `g(v)` over the maps that are fitted to.
They bring the bulk of the values to [-1, 1] and clip nothing: brighter and fainter values lie
outside. For `asinh`, g(v) = asinh((v - centre) / scale) is linear within about one `scale` of the
background level `centre` and logarithmic far above and far below it.

Channels share one transform, which keeps their ratios, or have one each (`measure_each`), which
brings channels of different units or brightness to the same range.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast, final, get_args

import numpy as np
import numpy.typing as npt

from ood_core.config.targets import TransformKind
from ood_core.errors import TargetError

_PERCENTILES = (0.1, 99.9)
_MAD_TO_SIGMA = 1.482602218505602  # of a Gaussian
_MIN_BACKGROUND = 1e-6  # of the standard deviation; a narrower background is no noise level
_MAX_VALUE = float(np.finfo(np.float32).max)
_MIN_POSITIVE = float(np.finfo(np.float32).tiny)
_MAX_EXPONENT = 700.0  # exp and sinh stay finite in float64

Real = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Number = float | tuple[float, ...]
"""One for all channels, or one for each."""
NUMBERS = ("low", "high", "scale", "centre")


@final
@dataclass(frozen=True, slots=True)
class RangeTransform:
    """Physical values <-> model range.

    Attributes:
        kind: the stretch.
        low: stretched value that becomes -1.
        high: stretched value that becomes +1.
        scale: softening of `asinh` in physical units; 1 for the other kinds.
        centre: background level of `asinh` in physical units; 0 for the other kinds.

    Each number is one for all channels, or one for each: then values are `(..., c, y, x)`.
    """

    kind: TransformKind
    low: Number
    high: Number
    scale: Number = 1.0
    centre: Number = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(TransformKind):
            kinds = ", ".join(get_args(TransformKind))
            raise TargetError(f"transform: got {self.kind!r}; expected one of {kinds}")
        numbers = [np.asarray(getattr(self, name)) for name in NUMBERS]
        low, high, scale, _ = numbers
        finite = all(np.isfinite(number).all() for number in numbers)
        alike = len({number.shape for number in numbers}) == 1
        if not (finite and alike and (low < high).all() and (scale > 0).all()):
            raise TargetError(
                f"transform: got low {self.low}, high {self.high}, scale {self.scale}, centre "
                f"{self.centre}; expected finite numbers, low below high and a positive scale; "
                "measure the transform again on maps that vary"
            )

    @classmethod
    def measure(cls, kind: TransformKind, values: Real) -> "RangeTransform":
        """Measure the transform on the maps that are fitted to (never on held-out ones).

        Args:
            kind: the stretch.
            values: physical values of any shape, finite.

        Raises:
            TargetError: values that are not finite or all equal, or not positive for `log`.
        """
        doubles = np.asarray(values, dtype=np.float64)
        if doubles.size == 0 or not np.isfinite(doubles).all():
            raise TargetError(
                f"transform: got {np.count_nonzero(~np.isfinite(doubles))} NaN or infinite values "
                f"among {doubles.size}; expected finite values; fill or leave out those maps"
            )
        if doubles.min() == doubles.max():
            raise TargetError(
                f"transform: got one value only ({doubles.flat[0]:.6g}); expected maps that vary; "
                "leave constant maps out"
            )
        centre, scale = _background(doubles) if kind == "asinh" else (0.0, 1.0)
        stretched = _stretch(kind, doubles, scale, centre)
        low, high = (float(edge) for edge in np.percentile(stretched, _PERCENTILES))
        if not low < high:  # fewer than 1 in 1000 values differ from the rest
            low, high = float(stretched.min()), float(stretched.max())
        return cls(kind, low, high, scale, centre)

    @classmethod
    def measure_each(cls, kind: TransformKind, values: Real) -> "RangeTransform":
        """Measure a transform for every channel of maps `(n, c, y, x)`; NaN is left out.

        A channel of one value gets the transform of all channels.

        Raises:
            TargetError: as for `measure`.
        """
        channels = [band[~np.isnan(band)] for band in np.moveaxis(np.asarray(values), 1, 0)]
        whole = np.concatenate(channels)
        parts = [cls.measure(kind, whole if len(b) and np.ptp(b) == 0 else b) for b in channels]
        return cls(kind, *(tuple(getattr(part, name) for part in parts) for name in NUMBERS))

    @property
    def each(self) -> bool:
        """Whether every channel has a transform of its own."""
        return isinstance(self.low, tuple)

    def _numbers(self) -> list[Any]:
        """Low, high, scale and centre; of single channels such that they broadcast with maps."""
        found = (np.asarray(getattr(self, name), np.float64) for name in NUMBERS)
        return [number[:, None, None] if self.each else float(number) for number in found]

    def forward(self, values: Real) -> npt.NDArray[np.float32]:
        """Physical values to model range; same shape, float32, never clamped.

        Raises:
            TargetError: values that are not positive, for `log`.
        """
        doubles = np.asarray(values, dtype=np.float64)
        low, high, scale, centre = self._numbers()
        stretched = _stretch(self.kind, doubles, scale, centre)
        return _single(2.0 * (stretched - low) / (high - low) - 1.0)

    def inverse(self, values: Real) -> npt.NDArray[np.float32]:
        """Model range to physical values; same shape, float32.

        Values outside [-1, 1] are extrapolated. Only where float32 ends does the answer stop: it is
        the largest finite float32 with the right sign, and for `log` at least the smallest positive
        normal float32, so that every answer is finite and of the kind that `forward` takes.
        """
        doubles = np.asarray(values, dtype=np.float64)
        low, high, scale, centre = self._numbers()
        stretched = low + (doubles + 1.0) * (high - low) / 2.0
        if self.kind == "linear":
            return _single(stretched)
        bounded = np.clip(stretched, -_MAX_EXPONENT, _MAX_EXPONENT)
        if self.kind == "log":
            return _single(np.maximum(np.exp(bounded), _MIN_POSITIVE))
        return _single(centre + scale * np.sinh(bounded))

    def as_dict(self) -> dict[str, Any]:
        """The record, as plain scalars, or lists of one for each channel."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "RangeTransform":
        """Return the transform of a record made by `as_dict`.

        Raises:
            TargetError: fields that are missing, unknown or impossible.
        """
        try:
            kind = cast(TransformKind, record["kind"])
            numbers: dict[str, Any] = {
                name: tuple(map(float, value)) if isinstance(value, list) else float(value)
                for name, value in record.items()
                if name != "kind"
            }
            return cls(kind, **numbers)
        except (KeyError, TypeError) as error:
            raise TargetError(
                f"transform: got the record {dict(record)}; expected kind, low, high, scale and "
                "centre as written by as_dict; measure the transform again"
            ) from error


def _stretch(kind: TransformKind, values: Doubles, scale: Any, centre: Any) -> Doubles:
    if kind == "linear":
        return values
    if kind == "asinh":
        return cast(Doubles, np.arcsinh((values - centre) / scale))
    if (values <= 0).any():
        raise TargetError(
            f"transform log: got {np.count_nonzero(values <= 0)} values of zero or less (smallest "
            f"{values.min():.6g}); expected positive values only; use the transform asinh"
        )
    return cast(Doubles, np.log(values))


def _background(values: Doubles) -> tuple[float, float]:
    """Level and spread of the bulk of the pixels; bright sources hardly move either."""
    centre = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
    deviation = float(values.std())
    return centre, spread if spread > _MIN_BACKGROUND * deviation else deviation


def _single(values: Doubles) -> npt.NDArray[np.float32]:
    return np.clip(values, -_MAX_VALUE, _MAX_VALUE).astype(np.float32)
