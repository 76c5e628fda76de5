"""The probe of a run's cost: on the device that will be used, for every part."""

import pytest
import torch

from benchmarks.speed.traffic import DEVICE, Recorder
from flows.runs.cost import PROBE_ROWS, WORKING_COPIES, _patch_seconds, _steering_seconds, room
from ood_core.config.method import Method
from ood_core.diffusion.schedule import NoiseSchedule


@pytest.mark.parametrize("part", [_steering_seconds, _patch_seconds])
def test_every_part_is_probed_where_it_will_run(part):
    """A tensor of the CPU beside one of the device fails; waiting for the device is two reads."""
    schedule = NoiseSchedule.linear()
    method = Method(steps=3).resolve(schedule)
    with Recorder() as recorder:
        took = part(method, torch.zeros(PROBE_ROWS, 1, 16, 16, device=DEVICE), schedule)
    assert took > 0
    assert recorder.count("launches") > 0
    assert recorder.count("reads") % 2 == 0 and recorder.count("reads") <= 6


def test_a_batch_has_room_in_memory():
    one = 4 * 32 * 32
    there = room(torch.device("cpu"), one, 1)
    assert there > 1
    assert room(torch.device("cpu"), one * there * 10, 1) == 1  # more than all: still one
    assert room(torch.device("cpu"), one, 4) == pytest.approx(there / 4, rel=0.2)  # others allocate
    assert WORKING_COPIES * one * there < 2**50
