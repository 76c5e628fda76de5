"""Pixels without a value: how they are filled, and how many a map may lack.

A pixel is missing where it is NaN, where a mask plane is not zero, or where a weight plane is zero.
Models take whole maps, so it is filled, by a rule that is recorded; what is measured pixel by pixel
(transform, quantization) leaves it out.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import LinearOperator, cg

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError
from ood_core.maps.mapset import listing

MIN_POWER = 1e-6
"""Of the mean power: waves of less are taken to have that much, which bounds the solver's work."""
RTOL = 1e-5
MAX_ITERATIONS = 1000

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]


def marked(values: Values, mask: Values | None, weights: Values | None, source: str) -> Values:
    """Return values with NaN where a mask is not zero, or a weight is zero or NaN.

    Raises:
        TargetError: planes of another shape.
    """
    missing = np.zeros(values.shape, bool)
    for plane in (mask, weights):
        if plane is not None:
            if plane.shape != values.shape and plane.shape[1:] != values.shape[1:]:
                raise TargetError(
                    f"{source}: got a mask or weights of shape {plane.shape} for maps of shape "
                    f"{values.shape}; expected the same shape, or one plane for all maps; correct "
                    "targets.missing"
                )
            missing |= plane != 0 if plane is mask else ~(plane > 0)
    return np.where(missing, np.float32(np.nan), values) if missing.any() else values


def filled(
    values: Values, ids: tuple[str, ...], fit: int, spec: MissingSpec, source: str
) -> tuple[Values, Mask | None, tuple[str, ...]]:
    """Fill the missing pixels of maps of shape (n, c, y, x).

    Args:
        values: the maps; NaN is missing.
        ids: their names.
        fit: number of maps, the first ones, that means and spectra are taken from.
        spec: the rule, and the largest share of a map that may be missing.
        source: for messages.

    Returns:
        Whole maps, which pixels were missing (None: no one), and what to say of it.

    Raises:
        TargetError: no rule, or a map that lacks more than it may.
    """
    missing = np.isnan(values)
    share = missing.mean((1, 2, 3))
    if not share.any():
        return values, None, ()
    names = [f"{ids[i]} {share[i]:.2%}" for i in np.argsort(-share, kind="stable") if share[i]]
    if spec.fill is None:
        raise TargetError(
            f"{source}: got {missing.sum()} NaN pixels in {len(names)} of {len(ids)} maps "
            f"({listing(names)}); expected finite float32 values; choose how they are filled "
            "(targets.missing.fill: nearest, gaussian or constant), or leave these maps out"
        )
    if share.max() > spec.limit:
        raise TargetError(
            f"{source}: got maps that miss up to {share.max():.2%} of their pixels "
            f"({listing(names)}); expected at most {spec.limit:.2%} (targets.missing.limit); leave "
            "these maps out, or raise the limit"
        )
    whole = np.where(missing, np.float32(spec.value), values)
    if spec.fill != "constant":
        whole = _nearest(values, missing)
    if spec.fill == "gaussian":
        whole = _conditional(whole, missing, fit)
    rule = f"the constant {spec.value:g}" if spec.fill == "constant" else spec.fill
    note = (
        f"{source}: {len(names)} of {len(ids)} maps miss pixels ({listing(names)}), "
        f"{share.mean():.2%} of all; they are filled by {rule}"
    )
    return whole, missing, (note,)


def _nearest(values: Values, missing: Mask) -> Values:
    """Each missing pixel becomes the nearest one of its map and channel that is there."""
    whole = values.copy()
    for place in zip(*np.nonzero(missing.any((2, 3))), strict=True):
        if missing[place].all():
            raise TargetError("got a channel without any pixel; expected some; leave the map out")
        rows = distance_transform_edt(missing[place], return_distances=False, return_indices=True)
        whole[place] = values[place][tuple(rows)]
    return whole


def _conditional(whole: Values, missing: Mask, fit: int) -> Values:
    """Each missing pixel becomes its mean given the others, by a stationary isotropic Gaussian.

    Mean and spectrum are those of the fitted maps. The mean given the others may lie outside of
    what values are: it stays within the range of the channel's own.
    """
    result = whole.copy()
    for channel in range(whole.shape[1]):
        fields = whole[:fit, channel].astype(np.float64)
        known = fields[~missing[:fit, channel]]
        mean, power = float(known.mean()), isotropic_power(fields - known.mean())
        for row in np.flatnonzero(missing[:, channel].any((1, 2))):
            field = whole[row, channel].astype(np.float64) - mean
            found = mean + conditional_mean(field, missing[row, channel], power)
            result[row, channel] = np.clip(found, known.min(), known.max())
        result[:, channel][~missing[:, channel]] = whole[:, channel][~missing[:, channel]]
    return result


def isotropic_power(fields: Numbers) -> Numbers:
    """Mean power of fields (n, y, x) at each wave, averaged over waves of about one length."""
    _, height, width = fields.shape
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0) / (height * width)
    ky, kx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    ring = np.round(np.hypot(ky, kx) * min(height, width)).astype(int)
    counts = np.bincount(ring.ravel())
    mean = np.bincount(ring.ravel(), power.ravel()) / np.maximum(counts, 1)
    floored: Numbers = np.maximum(mean[ring], MIN_POWER * power.mean())
    return floored


def conditional_mean(field: Numbers, missing: Mask, power: Numbers) -> Numbers:
    """Fill a field of mean 0 by E[missing | known] of a stationary Gaussian with this power.

    With Q, the inverse of the covariance, it solves Q_mm x_m = -Q_mk x_k by conjugate gradients
    (Rue & Held 2005, section 2.2); waves are those of a periodic map.

    Args:
        field: shape (y, x); missing pixels are the first guess.
        missing: which they are.
        power: variance of each wave, shape (y, x), as `numpy.fft.fft2` orders them.
    """

    def precise(x: Numbers) -> Numbers:
        return np.asarray(np.fft.ifft2(np.fft.fft2(x) / power).real)

    def on_missing(values: Numbers) -> Numbers:
        spread = np.zeros(field.shape)
        spread[missing] = values.ravel()
        return np.asarray(precise(spread)[missing])

    count = int(missing.sum())
    right = -precise(np.where(missing, 0.0, field))[missing]
    operator = LinearOperator((count, count), matvec=on_missing, dtype=np.float64)
    found, _ = cg(operator, right, x0=field[missing], rtol=RTOL, maxiter=MAX_ITERATIONS)
    whole = np.array(field, np.float64)
    whole[missing] = found
    return whole
