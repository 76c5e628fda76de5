"""Gradients of scattering synthesis, the rival in speed, are those of autograd."""

import torch

from benchmarks.speed.rivals import moments
from ood_core.metrics.scattering import Scattering
from tests.fields import smooth_fields


def test_gradients_of_scattering_synthesis_are_those_of_autograd() -> None:
    maps = torch.from_numpy(smooth_fields(3)).float()[:, None]
    scattering = Scattering(maps.shape[-1], scales=2)
    at = maps.clone().requires_grad_()
    values, _ = moments(scattering, at)
    found, by_maps = moments(scattering, maps)
    torch.testing.assert_close(found, values.detach(), rtol=1e-5, atol=1e-6)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(values, at, pull)
    # Sums of some hundred numbers in float32, each rounded by 2^-24.
    torch.testing.assert_close(
        by_maps(pull), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )
