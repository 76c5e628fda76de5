"""Pixels without a value: how they are filled, and how many a map may lack.

A pixel is missing where it is NaN, where a mask plane is not zero, or where a weight plane is zero.
Models take whole maps, so it is filled, by a rule that is recorded; what is measured pixel by pixel
(transform, quantization) leaves it out.

Power, wavelet moments and patches need whole maps, and any smooth filling lowers them. So what the
method is fitted to has missing pixels drawn from their distribution given the others (`drawn`): a
map with such pixels has the distribution of a whole one (multiple imputation, Rubin 1987).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import ndtr, ndtri

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError
from ood_core.maps.mapset import listing
from ood_core.numerics.random import Root

MIN_POWER = 1e-4
"""Of the mean power: waves of less are taken to have that much, which bounds the solver's work."""
RTOL = 1e-5
MAX_ITERATIONS = 200

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


def advised_missing(values: Values, spec: MissingSpec) -> tuple[MissingSpec, str] | None:
    """Return a rule under which these maps can be taken, and why; None where none is needed.

    It is the conditional mean, and the usual limit, or the next twentieth that the worst map keeps.
    A rule that was given is left alone, and so is a limit.

    Args:
        values: the maps, shape (n, c, y, x); NaN is missing.
        spec: what was said of missing pixels.
    """
    share = np.isnan(values).mean((1, 2, 3))
    worst = float(share.max(initial=0.0))
    if spec.fill is not None or worst in (0, 1):  # an empty map has no mean given its pixels
        return None
    limit = spec.limit
    if worst > limit == MissingSpec().limit:
        limit = min(math.ceil(20 * worst) / 20, (1 + worst) / 2)
    reason = (
        f"{np.count_nonzero(share)} of {len(share)} maps lack pixels, {share.mean():.2%} of all "
        f"and {worst:.2%} of the worst; gaussian is the mean given the pixels that are there"
    )
    return replace(spec, fill="gaussian", limit=limit), reason


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
    empty = np.asarray(missing.all((2, 3))).any(1)
    if spec.fill != "constant" and empty.any():
        raise TargetError(
            f"{source}: got maps without any pixel in a channel "
            f"({listing([ids[i] for i in np.flatnonzero(empty)])}); expected some that others can "
            "be told from; leave these maps out"
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
        rows = distance_transform_edt(missing[place], return_distances=False, return_indices=True)
        whole[place] = values[place][tuple(rows)]
    return whole


def drawn(whole: Values, missing: Mask, ids: tuple[str, ...], fit: int) -> Values:
    """Return maps whose missing pixels are a draw given the others, whatever they are in `whole`.

    The distribution is a Gaussian copula: ranks of a channel's pixels as normal scores, which are a
    stationary isotropic Gaussian field with the spectrum of the fitted maps' (exact for log-normal
    fields). A draw is a field of that spectrum plus the conditional mean of what it lacks (Hoffman
    & Ribak 1991). It has values that fitted maps have, and depends on the spectrum, the map and its
    name alone.
    """
    result = whole.copy()
    for channel in range(whole.shape[1]):
        fields, lacking = result[:, channel], missing[:, channel]
        known = np.sort(fields[:fit][~lacking[:fit]])
        if known[0] == known[-1]:
            fields[lacking] = known[0]
            continue
        scores = _normal_scores(fields, known)
        power = isotropic_power(scores[:fit], ~lacking[:fit])
        for row in np.flatnonzero(lacking.any((1, 2))):
            white = Root.of("missing pixels").child(ids[row], str(channel)).generator()
            waves = np.fft.fft2(white.normal(size=power.shape)) * np.sqrt(power)
            field = np.fft.ifft2(waves).real[: fields.shape[1], : fields.shape[2]]
            gap = np.where(lacking[row], 0.0, scores[row] - field)
            field += conditional_mean(gap, lacking[row], power)
            rank = np.rint(ndtr(field[lacking[row]]) * len(known) - 0.5).astype(int)
            fields[row][lacking[row]] = known[rank.clip(0, len(known) - 1)]
    return result


def _normal_scores(fields: Values, known: Values) -> Numbers:
    """Normal scores of pixels by their middle ranks among sorted ones."""
    rank = (np.searchsorted(known, fields) + np.searchsorted(known, fields, "right")) / 2
    scores: Numbers = ndtri(rank.clip(0.5, len(known) - 0.5) / len(known))
    return scores


def _conditional(whole: Values, missing: Mask, fit: int) -> Values:
    """Each missing pixel becomes its mean given the others, by a stationary isotropic Gaussian.

    Mean and spectrum are those of the fitted maps. The mean given the others may lie outside of
    what values are: it stays within the range of the channel's own.
    """
    result = whole.copy()
    for channel in range(whole.shape[1]):
        seen = ~missing[:fit, channel]
        known = whole[:fit, channel][seen]
        if known.min() == known.max():
            continue
        mean = float(known.mean(dtype=np.float64))
        power = isotropic_power(whole[:fit, channel] - mean, seen)
        for row in np.flatnonzero(missing[:, channel].any((1, 2))):
            lacking = missing[row, channel]
            found = mean + conditional_mean(whole[row, channel] - mean, lacking, power)
            result[row, channel][lacking] = found[lacking].clip(known.min(), known.max())
    return result


def isotropic_power(fields: NDArray[np.floating[Any]], seen: Mask) -> Numbers:
    """Power of each wave of periodic fields that maps of mean 0, shape (n, y, x), are windows of.

    The periods are half as long again as the maps, whose covariance the fields have as far as
    these go: that of pairs of pixels that are both `seen`, unbiased however many are not. Waves of
    about one length have the same power.
    """
    _, *sides = fields.shape
    padded = tuple(2 * side for side in sides)  # so that no pair goes round an edge
    products, pairs = np.zeros(padded), np.zeros(padded)
    for field, there in zip(fields, seen, strict=True):
        products += np.abs(np.fft.fft2(np.where(there, field, 0.0), padded)) ** 2
        pairs += np.abs(np.fft.fft2(there, padded)) ** 2
    covariance = np.fft.ifft2(products).real / np.fft.ifft2(pairs).real.clip(1)
    lags = [np.fft.fftfreq(n, 1 / n).round().astype(int) for n in (s + s // 2 for s in sides)]
    power = np.fft.fft2(covariance[np.ix_(*lags)]).real
    ky, kx = np.meshgrid(*(np.fft.fftfreq(len(lag)) for lag in lags), indexing="ij")
    ring = np.round(np.hypot(ky, kx) * min(power.shape)).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel()).clip(1)
    floored: Numbers = np.maximum(mean[ring], MIN_POWER * power.mean())
    return floored


def conditional_mean(window: Numbers, lacking: Mask, power: Numbers) -> Numbers:
    """Fill a window of a field of mean 0 by E[missing | known] of a stationary Gaussian.

    With Q, the inverse of the covariance C, it solves Q_mm x_m = -Q_mk x_k (Rue & Held 2005,
    section 2.2) by conjugate gradients, with C_mm as their preconditioner; what lies beyond the
    window is missing as well.

    Args:
        window: shape (y, x); missing pixels are the first guess.
        lacking: which they are.
        power: variance of each wave of the periodic field, as `numpy.fft.fft2` orders them.
    """
    pads = [(0, whole - side) for whole, side in zip(power.shape, window.shape, strict=True)]
    field = np.pad(window.astype(np.float64), pads)
    missing = np.pad(lacking, pads, constant_values=True)
    count = int(missing.sum())

    def filtered(x: Numbers, gain: Numbers) -> Numbers:
        half = gain[:, : gain.shape[1] // 2 + 1]
        return np.asarray(np.fft.irfft2(np.fft.rfft2(x) * half, gain.shape)[missing])

    def on_missing(gain: Numbers) -> LinearOperator:
        def product(values: Numbers) -> Numbers:
            spread = np.zeros(field.shape)
            spread[missing] = values.ravel()
            return filtered(spread, gain)

        return LinearOperator((count, count), matvec=product, dtype=np.float64)

    right = -filtered(np.where(missing, 0.0, field), 1 / power)
    precision, covariance = on_missing(1 / power), on_missing(power)
    found, _ = cg(precision, right, field[missing], rtol=RTOL, maxiter=MAX_ITERATIONS, M=covariance)
    field[missing] = found
    return field[: window.shape[0], : window.shape[1]]
