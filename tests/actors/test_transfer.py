"""Transfers: nothing is copied on a CPU; on a GPU bytes arrive, whatever is computed meanwhile."""

import pytest
import torch

from actors.transfer import entering, leaving


def test_on_a_cpu_tensors_stay_where_they_are():
    x = torch.randn(3, 4)
    assert entering(x, torch.device("cpu")) is x
    assert leaving(x)() is x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_comes_back_is_what_was_computed_and_not_what_is_computed_next():
    device = torch.device("cuda")
    sent = torch.randn(64, 1, 256, 256)
    x = entering(sent, device)
    for turn in range(5):
        y = x * (turn + 1)
        back = leaving(y)
        del y  # its memory is free for what comes next
        torch.full_like(x, -1.0).mul_(2.0)
        torch.testing.assert_close(back(), sent * (turn + 1))
        assert back().is_pinned()
