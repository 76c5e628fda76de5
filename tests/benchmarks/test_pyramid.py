"""Estimates that are held to coarse maps, beside dense algebra."""

import pytest
import torch

from benchmarks.pyramid import block_means, held


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_an_estimate_given_block_means_is_the_conditional_gaussian(error):
    """Of 8 x 8 px given 4 x 4 means: `D + Q B^T (B Q B^T + e^2)^-1 (c - B D)`, all dense."""
    k, ratio = torch.fft.fftfreq(8), 0.7
    power = (1 / (torch.hypot(k[:, None], k) + 0.1) ** 2)[None]
    random = torch.Generator().manual_seed(0)
    estimate = torch.randn(3, 1, 8, 8, generator=random)
    means = torch.randn(3, 1, 4, 4, generator=random)
    unit = torch.eye(64).reshape(64, 1, 8, 8)
    open_ = power / (power / ratio**2 + 1)
    q = torch.fft.ifft2(torch.fft.fft2(unit) * open_).real.reshape(64, 64)
    b = block_means(unit, 2).reshape(64, 16).T
    gain = q @ b.T @ torch.linalg.inv(b @ q @ b.T + error**2 * torch.eye(16))
    flat = estimate.reshape(3, 64)
    expected = flat + (means.reshape(3, 16) - flat @ b.T) @ gain.T
    found = held(estimate, means, power, ratio, error)
    assert torch.allclose(found, expected.reshape(3, 1, 8, 8), atol=1e-5)
    if not error:
        assert torch.allclose(block_means(found, 2), means, atol=1e-5)
