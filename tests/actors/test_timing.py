"""Clocks of a worker: what they count adds up, and turns are taken one at a time."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from actors import timing
from actors.timing import TimedDenoiser, Turns, leaving, timed


class Slow:
    """A denoiser that takes 20 ms."""

    schedule = None

    def __call__(self, x, t):
        time.sleep(0.02)
        return x


def test_the_network_is_timed_and_its_answer_untouched():
    clock, x = TimedDenoiser(Slow()), torch.randn(2, 1, 4, 4)
    assert clock(x, 3) is x
    clock(x, 3)
    assert clock.take() >= 0.04
    assert clock.take() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_kernels_are_timed():
    x = torch.randn(4096, 4096, device="cuda")
    clock = TimedDenoiser(lambda x, t: x @ x)
    clock(x, 0)
    assert clock.take() > 0.0


def test_parts_hold_what_was_built_waited_and_computed():
    turns, clock = Turns(build=3.0), TimedDenoiser(Slow())
    with turns.take(clock) as parts:
        clock(torch.zeros(1), 0)
    assert parts["build"] == 3.0
    assert parts["compute"] >= parts["network"] >= 0.02
    time.sleep(0.02)
    with turns.take(clock) as later:
        pass
    assert later["build"] == 0.0
    assert later["wait"] >= 0.02
    assert later["network"] == 0.0


def test_storing_is_no_waiting(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 5.0, 5.5, 6.0])  # free, begun, over; stored; begun, over
    clocks = SimpleNamespace(monotonic=lambda: next(now), perf_counter=time.perf_counter)
    monkeypatch.setattr(timing, "time", clocks)
    turns, clock = Turns(), TimedDenoiser(Slow())
    with turns.take(clock):
        pass
    turns.stored()
    with turns.take(clock) as parts:
        pass
    assert parts["wait"] == 0.5


def test_a_turn_that_fails_is_over():
    turns, clock = Turns(), TimedDenoiser(Slow())
    with pytest.raises(FloatingPointError), turns.take(clock):
        raise FloatingPointError
    with turns.take(clock):
        pass


def test_two_threads_take_turns_and_store_side_by_side():
    """A thread that stores lets the other one compute: only so can both meet at the barrier."""
    turns, clock, inside, most = Turns(), TimedDenoiser(Slow()), [], []
    meeting = threading.Barrier(2, timeout=30)

    def work():
        with turns.take(clock) as parts:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
        with timed(parts, "write"):
            meeting.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not meeting.broken
    assert most == [1, 1]


def test_on_a_cpu_tensors_stay_where_they_are():
    x = torch.randn(3, 4)
    assert leaving(x)() is x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_comes_back_is_what_was_computed_and_not_what_is_computed_next():
    device = torch.device("cuda")
    sent = torch.randn(64, 1, 256, 256)
    x = sent.to(device)
    for turn in range(5):
        y = x * (turn + 1)
        back = leaving(y)
        del y  # its memory is free for what comes next
        torch.full_like(x, -1.0).mul_(2.0)
        torch.testing.assert_close(back(), sent * (turn + 1))
        assert back().is_pinned()
