"""Random fields with known distributions in float64, and closed forms of the Gaussian field.

Wavenumbers are in radians per pixel here; `power` is a function of them.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import erfc

Array = np.ndarray
Power = Callable[[Array], Array]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def wavenumbers(side: int) -> Array:
    k = 2 * np.pi * np.fft.fftfreq(side)
    return np.hypot(k[:, None], k)


def gaussian(n: int, side: int, power: Power, seed: int) -> Array:
    """Periodic Gaussian fields `(n, 1, y, x)` with `<|F|^2> / N = power(k)` exactly."""
    noise = rng(seed).standard_normal((n, 1, side, side))
    return np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(power(wavenumbers(side)))).real


def smooth(radius: float) -> Power:
    """`exp(-k^2 radius^2)`."""
    return lambda k: np.exp(-((k * radius) ** 2))


def moments(side: int, power: Power) -> tuple[float, float, float]:
    """Return `sigma_0`, `sigma_1`, `sigma_2` of the field on the grid, without its mean mode."""
    k = wavenumbers(side)
    weight = np.where(k > 0, power(k), 0) / k.size
    zeroth, first, second = (np.sqrt((k ** (2 * j) * weight).sum()) for j in range(3))
    return zeroth, first, second


def correlation(side: int, power: Power) -> Array:
    """Covariance of two pixels over their offset, mean mode included."""
    return np.fft.ifft2(power(wavenumbers(side))).real


def scrambled(maps: Array, seed: int) -> Array:
    """Maps with the means and moduli of the modes of `maps`, and the phases of white noise."""
    modes, noise = np.fft.fft2(maps), np.fft.fft2(rng(seed).standard_normal(maps.shape))
    phases = noise / np.abs(noise)
    phases[..., 0, 0] = np.sign(modes[..., 0, 0].real)
    return np.fft.ifft2(np.abs(modes) * phases).real


def all_peaks(s1: float, s2: float) -> float:
    """Peaks per pixel: `1 / (4 pi 3^1/2 R^2)` with `R = 2^1/2 sigma_1 / sigma_2`."""
    return float(s2**2 / (8 * np.pi * np.sqrt(3) * s1**2))


def peaks_above(level: float, s0: float, s1: float, s2: float) -> float:
    """Peaks per pixel over `level` (in sigma), by the integral of their density over height."""
    gamma = s1**2 / (s0 * s2)
    rest = 1 - gamma**2

    def density(nu: float) -> float:
        x = gamma * nu
        wide = 3 - 2 * gamma**2
        curved = (x**2 - gamma**2) * (1 - erfc(x / np.sqrt(2 * rest)) / 2)
        curved += x * rest * np.exp(-(x**2) / (2 * rest)) / np.sqrt(2 * np.pi * rest)
        tail = 1 - erfc(x / np.sqrt(2 * rest * wide)) / 2
        curved += np.exp(-(x**2) / wide) / np.sqrt(wide) * tail
        return float(np.exp(-(nu**2) / 2) * curved)

    radius = np.sqrt(2) * s1 / s2
    integral, _ = quad(density, level, 12)
    return float(integral / ((2 * np.pi) ** 1.5 * radius**2))


def tomita(levels: Array, s0: float, s1: float) -> Array:
    """Minkowski functionals `(3, levels)` of a smooth Gaussian field, levels in sigma."""
    g = s1 / (np.sqrt(2) * s0)
    bell = np.exp(-(levels**2) / 2)
    return np.stack(
        [
            erfc(levels / np.sqrt(2)) / 2,
            g / 8 * bell,
            g**2 * levels * bell / (2 * np.pi) ** 1.5,
        ]
    )


def power_law(
    n: int, side: int, slope: float = 2.5, seed: int = 0, spread: float = 0.5
) -> torch.Tensor:
    """Windows `(n, 1, y, x)` of Gaussian fields twice as wide with a spectrum `k^-slope`."""
    k = wavenumbers(2 * side)
    k[0, 0] = np.inf
    power = k**-slope
    drawn = gaussian(n, 2 * side, lambda _: spread**2 * power / power.mean(), seed)
    return torch.from_numpy(drawn[..., :side, :side].astype(np.float32)).contiguous()
