"""The maps of the tiny run: what `conftest` makes targets of, for tests to import."""

import numpy as np

SIZE = 16
TARGETS = 14


def smooth_fields(count: int, seed: int = 0) -> np.ndarray:
    """Random fields with a falling spectrum, (n, y, x) float32, positive."""
    rng = np.random.default_rng(seed)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE))) + 0.05
    noise = np.fft.fft2(rng.standard_normal((count, SIZE, SIZE)))
    return np.exp(0.05 * np.fft.ifft2(noise * k**-1.0).real).astype(np.float32)
