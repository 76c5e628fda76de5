"""Geometry of draws of `N(mu, sigma^2 I)` in many dimensions; `m = |mu|`."""

from math import acos, degrees, sqrt


def radius(d: int, sigma: float = 1.0, m: float = 0.0) -> float:
    """Distance from the origin."""
    return sqrt(m**2 + sigma**2 * d)


def distance(d: int, sigma: float = 1.0) -> float:
    """Distance between two draws."""
    return sigma * sqrt(2 * d)


def origin_angle(d: int, sigma: float = 1.0, m: float = 0.0) -> float:
    """Angle that two draws subtend at the origin, degrees."""
    return degrees(acos(m**2 / radius(d, sigma, m) ** 2))


def slerp_middle(d: int, sigma: float, m: float) -> tuple[float, float]:
    """Distance and origin angle of the spherical midpoint of two draws to a third.

    The midpoint is `(z1 + z2) / sqrt(2 (1 + cos))`, on the radius of its parents.
    """
    r = radius(d, sigma, m)
    cosine = m**2 / r**2
    inner = 2 * m**2 / sqrt(2 * (1 + cosine))
    return sqrt(2 * r**2 - 2 * inner), degrees(acos(inner / r**2))
