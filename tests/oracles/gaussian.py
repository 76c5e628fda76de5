"""Closed forms of the Gaussian model in float64: dense matrices, written apart from the package.

Data `N(mean, cov)` in `d` dimensions, `y = x_t / alpha_t`, `s = sigma_t / alpha_t`.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

Array = np.ndarray


def posterior_mean(y: Array, s: float, mean: Array, cov: Array) -> Array:
    """`E[y0 | y] = mean + C (C + s^2 I)^-1 (y - mean)` for rows of `y`."""
    gain = cov @ np.linalg.inv(cov + s**2 * np.eye(len(cov)))
    return mean + (y - mean) @ gain.T


def flow(y: Array, s: float, t: float, mean: Array, cov: Array) -> Array:
    """Exact flow from noise `s` to `t`: every eigendirection scales by sqrt((l+t^2)/(l+s^2))."""
    return per_eigenvalue(y, mean, cov, lambda lam: np.sqrt((lam + t**2) / (lam + s**2)))


def ddim(y: Array, levels: Sequence[float], mean: Array, cov: Array) -> Array:
    """N steps of DDIM from `levels[0]` to `levels[-1]`: the product formula per eigendirection."""
    return per_eigenvalue(y, mean, cov, lambda lam: ddim_gain(levels, lam))


def ddim_gain(levels: Sequence[float], lam: Array | float) -> Array:
    """`prod_i [1 + (s_{i+1} - s_i) s_i / (lam + s_i^2)]`."""
    gain = np.ones_like(np.asarray(lam, dtype=np.float64))
    for s, t in itertools.pairwise(levels):
        gain = gain * (1 + (t - s) * s / (lam + s**2))
    return gain


def noisy_path(
    y: Array, noise: Sequence[Array], levels: Sequence[float], lam: Array, eta: float
) -> Array:
    """Rows of residuals down a chain that adds `noise[i]` in step `i`; see `_noisy_steps`."""
    for z, (gain, fresh) in zip(noise, _noisy_steps(levels, lam, eta), strict=True):
        y = gain * y + fresh * z
    return y


def noisy_variance(levels: Sequence[float], lam: Array, eta: float) -> Array:
    """Variance at the end of that chain, which starts with `lam + s^2`."""
    variance = lam + levels[0] ** 2
    for gain, fresh in _noisy_steps(levels, lam, eta):
        variance = gain**2 * variance + fresh**2
    return variance


def _noisy_steps(levels: Sequence[float], lam: Array, eta: float) -> list[tuple[Array, float]]:
    """Per step from `r` to `q`: gain of `y` and of the noise.

    The bridge from `r` to `q` given the clean map has mean `(q/r)^2 y + (1 - (q/r)^2) D` and
    variance `q^2 - q^4/r^2`; with `eta` a part of that variance is kept in the old noise.
    """
    steps = []
    for r, q in itertools.pairwise(levels):
        fresh = eta * np.sqrt(q**2 - q**4 / r**2)
        keep = np.sqrt(q**2 - fresh**2) / r
        steps.append((keep + (1 - keep) * lam / (lam + r**2), fresh))
    return steps


def per_eigenvalue(y: Array, mean: Array, cov: Array, gain: Callable[[Array], Array]) -> Array:
    """Apply a function of the covariance to the residual, mean kept."""
    values, vectors = np.linalg.eigh(cov)
    return mean + ((y - mean) @ vectors) * gain(values) @ vectors.T


def log_density(x: Array, mean: Array, cov: Array) -> Array:
    """Log density of rows of `x`, with the constant."""
    _, logdet = np.linalg.slogdet(cov)
    quadratic = np.einsum("ni,ij,nj->n", x - mean, np.linalg.inv(cov), x - mean)
    return -0.5 * (quadratic + logdet + len(mean) * np.log(2 * np.pi))


def circulant(power: Array) -> Array:
    """Dense covariance `(d, d)` of a stationary distribution of eigenvalues `power[c, ky, kx]`."""
    c, y, x = power.shape
    dft = np.kron(np.fft.fft(np.eye(y)), np.fft.fft(np.eye(x))) / np.sqrt(y * x)
    blocks = [(dft.conj().T * row.ravel()) @ dft for row in power]
    out = np.zeros((c * y * x, c * y * x))
    for i, block in enumerate(blocks):
        part = slice(i * y * x, (i + 1) * y * x)
        out[part, part] = block.real
    return out


def circulant_power(covariance: Array, shape: Sequence[int]) -> Array:
    """Power per channel and mode of any dense covariance: the diagonal in Fourier space."""
    c, y, x = shape
    dft = np.kron(np.fft.fft(np.eye(y)), np.fft.fft(np.eye(x))) / np.sqrt(y * x)
    blocks = covariance.reshape(c, y * x, c, y * x)
    rows = [np.diag(dft @ blocks[i, :, i] @ dft.conj().T).real for i in range(c)]
    return np.stack(rows).reshape(c, y, x)


def dense(operator: Callable[[torch.Tensor], torch.Tensor], shape: Sequence[int]) -> Array:
    """Matrix of a linear operator on maps, from its action on the identity's columns."""
    d = int(np.prod(shape))
    columns = operator(torch.eye(d, dtype=torch.float64).reshape(d, *shape))
    return columns.reshape(d, d).numpy().T


def flat(maps: torch.Tensor) -> Array:
    """Rows of float64 numbers, one per map."""
    return maps.detach().double().flatten(1).numpy()


def band_spectrum(residuals: Array, floor: float) -> Array:
    """Power per mode: means over annuli one mode wide, linear between the annuli's mean radii."""
    _, _, y, x = residuals.shape
    power = (np.abs(np.fft.fft2(residuals, norm="ortho")) ** 2).mean(0)
    radius = np.hypot(np.fft.fftfreq(y)[:, None], np.fft.fftfreq(x)[None, :])
    band = np.rint(radius * min(y, x)).astype(int)
    used = np.unique(band)
    centre = np.array([radius[band == b].mean() for b in used])
    rows = []
    for channel in power:
        profile = np.array([channel[band == b].mean() for b in used])
        rows.append(np.interp(radius, centre, profile))
    return np.maximum(np.stack(rows), floor * power.mean())
