"""The gate corrects the stack where maps are bright, where that holds on maps not fitted to."""

import pytest
import torch

from ood_core.denoising.gate import BINS, KNOTS, Gate, fit_gate
from ood_core.metrics.detail import local_mean
from tests.strategies import randn

SIDE = 16
STACK = torch.zeros(4, 2)
STACK[:, 0] = 1  # all weight on the first expert


def applied(gate: Gate, experts: torch.Tensor) -> torch.Tensor:
    """The gated estimate, where the stack is the first expert."""
    gains = gate.gains([0, 1], SIDE, SIDE)
    return experts[0] + gains.added(torch.fft.rfft2(experts), experts[0])


def two_kinds(count: int, seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps that are bright about the middle, where the first expert is half too rough.

    The second expert is wrong everywhere.
    """
    bright = torch.zeros(SIDE, SIDE)
    bright[4:12, 4:12] = 1
    detail = randn(count, 1, SIDE, SIDE, seed=seed).float()
    detail = detail - local_mean(detail)
    clean = 5 * bright + detail
    rough = 5 * bright + detail * (1 + bright)
    rough = rough + noise * randn(count, 1, SIDE, SIDE, seed=seed + 1).float()
    return torch.stack([rough, randn(count, 1, SIDE, SIDE, seed=seed + 2).float()]), clean


def fitted(count: int, noise: float, seed: int = 1) -> Gate:
    folds = [two_kinds(count, seed + 10 * fold, noise) for fold in (0, 1)]
    experts, clean = zip(*folds, strict=True)
    return fit_gate([torch.fft.fft2(e) for e in experts], clean, STACK)


def test_what_is_too_rough_where_bright_is_mended_there() -> None:
    gate = fitted(64, 0.0)
    experts, clean = two_kinds(200, 5, 0.0)
    before, after = ((e - clean).square().mean() for e in (experts[0], applied(gate, experts)))
    # Weights over three wavenumbers by brightness cannot follow the edge of the bright square.
    assert float(after) < 0.4 * float(before)
    flat = Gate(gate.edges, gate.weights * 0, gate.offsets)  # negative control
    assert float((applied(flat, experts) - clean).square().mean()) > 0.9 * float(before)


def test_a_gate_adds_what_its_bin_says() -> None:
    """One bin, the first expert doubled; an offset in the others."""
    weights, offsets = torch.zeros(BINS, KNOTS, 2), torch.ones(BINS)
    weights[0, :, 1], offsets[0] = 1.0, 0.0
    gate = Gate(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), weights, offsets)
    faint, lit = torch.full((2, 1, SIDE, SIDE), -3.0), torch.full((2, 1, SIDE, SIDE), 2.5)
    other = randn(2, 1, SIDE, SIDE, seed=3).float()
    made = applied(gate, torch.stack([faint, other]))
    torch.testing.assert_close(made, faint + other, rtol=0, atol=1e-5)  # float32 transforms
    made = applied(gate, torch.stack([lit, other]))
    torch.testing.assert_close(made, lit + 1, rtol=0, atol=1e-5)


def test_what_does_not_hold_on_other_targets_is_shrunk_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folds of two maps that differ from the stack by chance: any gate does harm."""

    def harm(seed: int) -> float:
        folds = randn(2, 2, 2, 1, SIDE, SIDE, seed=seed).float()
        rest = randn(2, 2, 1, SIDE, SIDE, seed=seed + 100).float()
        clean = [fold[0] + chance for fold, chance in zip(folds, rest, strict=True)]
        gate = fit_gate([torch.fft.fft2(fold) for fold in folds], clean, STACK)
        experts = randn(2, 50, 1, SIDE, SIDE, seed=seed + 200).float()
        return float((applied(gate, experts) - experts[0]).square().mean())

    shrunk = sum(harm(seed) for seed in range(8))
    monkeypatch.setattr("ood_core.denoising.gate._shrinkage", lambda folds: torch.ones(BINS))
    assert shrunk < 0.5 * sum(harm(seed) for seed in range(8))


def test_maps_of_one_number_have_no_gate() -> None:
    flat = torch.ones(2, 1, SIDE, SIDE)
    modes = torch.fft.fft2(torch.stack([flat, flat]))
    gate = fit_gate([modes, modes], [flat, flat], STACK)
    for part in (gate.weights, gate.offsets):
        assert bool(torch.isfinite(part).all())
        assert float(part.abs().max()) < 1e-3
