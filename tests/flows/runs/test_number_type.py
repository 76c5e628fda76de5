"""`execution.dtype: fastest`: chosen once, by speed and by what rounding adds to the error."""

import pytest

from flows.progress import listener
from flows.runs import number_type
from flows.runs.planning import plan_run, prepare
from flows.settings import parse
from ood_core.errors import IdentityRefused


class Heard:
    """A listener that keeps the notes."""

    def __init__(self):
        self.notes = []

    def begin(self, stage, total, done): ...

    def advance(self, stage, rows): ...

    def end(self, stage, seconds, note):
        self.notes.append((stage, note))


@pytest.fixture
def heard():
    found = Heard()
    token = listener.set(found)
    yield found.notes
    listener.reset(token)


def fastest(tiny):
    return tiny(execution={"dtype": "fastest"})


@pytest.mark.parametrize(
    ("gain", "tolerance", "chosen", "why"),
    [
        (0.0, 1e9, "bfloat16", "times as fast as float32, rounding"),
        (1e9, 1e9, "float32", "times as fast on this device"),
        (0.0, 0.0, "float32", "of the error of an estimate, above 0"),
    ],
)
def test_it_falls_back_with_a_line(
    tiny, tmp_path, monkeypatch, heard, gain, tolerance, chosen, why
):
    monkeypatch.setattr(number_type, "GAIN", gain)
    monkeypatch.setattr(number_type, "TOLERANCE", tolerance)
    assert prepare(fastest(tiny), str(tmp_path / "run")).dtype == chosen
    ((stage, note),) = heard
    assert stage == "probe"
    assert note.startswith(f"{chosen}: ")
    assert why in note


def test_the_plan_keeps_the_choice(tiny, tmp_path, monkeypatch, heard):
    monkeypatch.setattr(number_type, "GAIN", 1e9)
    prepare(fastest(tiny), str(tmp_path / "run"))
    monkeypatch.setattr(number_type, "GAIN", 0.0)
    monkeypatch.setattr(number_type, "TOLERANCE", 1e9)
    assert plan_run(fastest(tiny), str(tmp_path / "run")).dtype == "float32"
    assert len(heard) == 1  # nothing is probed again
    with pytest.raises(IdentityRefused, match="dtype"):
        plan_run(tiny(execution={"dtype": "bfloat16"}), str(tmp_path / "run"))


def test_auto_stays_float32(tiny_dict):
    assert parse(tiny_dict()).execution.number_type == "float32"
