"""What counts as a change between two records of a benchmark."""

import json

from benchmarks.compare import show_changes
from benchmarks.record import Figure, changes


def record(processor="a", **figures):
    return {
        "commit": "abc",
        "machine": {"processor": processor},
        "figures": {
            name: {"noise": 0.0, "ratio": True, "higher_is_better": True, **figure}
            for name, figure in figures.items()
        },
    }


def test_repetitions_become_a_median_and_half_their_range():
    assert Figure.of([4.0, 5.0, 3.0]) == Figure(4.0, 0.25)


def test_changes_beyond_the_noise_of_both_are_told_the_worse_first():
    """Twice the noise of both: `2 sqrt(0.03^2 + 0.04^2)` is 10 %."""
    noisy = {"noise": 0.03}
    old = record(x={"value": 1.0, **noisy}, y={"value": 1.0, **noisy}, z={"value": 2.0})
    new = record(
        x={"value": 1.09, "noise": 0.04}, y={"value": 1.11, "noise": 0.04}, z={"value": 1.8}
    )
    assert [(row[0], row[-1]) for row in changes(old, new)] == [("z", "WORSE"), ("y", "better")]


def test_what_is_better_lower_is_worse_when_it_rises():
    old = record(share={"value": 1.0, "higher_is_better": False})
    assert changes(old, record(share={"value": 1.2, "higher_is_better": False}))[0][-1] == "WORSE"


def test_seconds_of_another_machine_are_not_compared():
    seconds = {"ratio": False}
    old = record("a", s={"value": 1.0, **seconds}, r={"value": 1.0})
    new = record("b", s={"value": 9.0, **seconds}, r={"value": 9.0})
    assert [row[0] for row in changes(old, new)] == ["r"]


def test_new_figures_are_no_change_and_small_changes_neither(tmp_path, capsys):
    old, new = record(x={"value": 1.0}), record(x={"value": 1.04}, y={"value": 3.0})
    for name, content in (("old", old), ("new", new)):
        (tmp_path / name).write_text(json.dumps(content))
    assert not show_changes(tmp_path / "old", tmp_path / "new")
    assert "nothing changed" in capsys.readouterr().out
