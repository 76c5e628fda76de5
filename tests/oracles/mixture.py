"""A three-component mixture in two dimensions: exact score, and its flow by DOP853."""

import numpy as np
from scipy.integrate import solve_ivp

Array = np.ndarray

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.5, 0.0], [-1.0, 1.2], [-0.5, -1.6]])
VARIANCES = np.array([0.16, 0.09, 0.25])


def responsibilities(y: Array, s: float) -> Array:
    """Posterior share of every component, rows of `y` at noise level `s`."""
    total = VARIANCES + s**2
    gaps = ((y[:, None] - MEANS) ** 2).sum(-1)
    log_odds = np.log(WEIGHTS) - np.log(2 * np.pi * total) - gaps / (2 * total)
    log_odds -= log_odds.max(1, keepdims=True)
    share = np.exp(log_odds)
    return share / share.sum(1, keepdims=True)


def posterior_mean(y: Array, s: float) -> Array:
    """`E[y0 | y] = y + s^2 grad log p_s(y)` (Tweedie)."""
    total = (VARIANCES + s**2)[None, :, None]
    score = (responsibilities(y, s)[..., None] * (MEANS - y[:, None]) / total).sum(1)
    return y + s**2 * score


def flow(y: Array, s: float, t: float) -> Array:
    """Flow from noise level `s` to `t` at tolerance 1e-12: `dy/ds = (y - E[y0 | y]) / s`."""

    def slope(level: float, state: Array) -> Array:
        rows = state.reshape(y.shape)
        return ((rows - posterior_mean(rows, level)) / level).ravel()

    path = solve_ivp(slope, (s, t), y.ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return path.y[:, -1].reshape(y.shape)
