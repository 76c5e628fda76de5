"""The judge's controls in short: the outcome of the true distribution and of planted faults.

`python -m benchmarks.judge` has the rates.
"""

import pytest

from benchmarks.judge import Fault, judge, law, with_copies

SIDE = 16


@pytest.mark.parametrize("kind", ["verbatim", "window", "noise"])
def test_one_copy_is_found_and_six_are_too_many(kind: str) -> None:
    one, six = (judge(with_copies(kind, n), 0, 128, SIDE) for n in (1, 6))
    assert (one.outcome, one.found) == ("published", {0})
    assert (six.outcome, six.found) == ("quarantined", set(range(6)))


@pytest.mark.parametrize("fault", [law(3.5), law(1.5), law(2.5, offset=1.0)])
def test_another_law_is_not_published(fault: Fault) -> None:
    """Smoother, rougher, brighter; the last one is not seen in maps in units of their own."""
    assert judge(fault, 0, 64, SIDE).outcome == "quarantined"


def test_the_true_law_is_published_and_nothing_left_out() -> None:
    found = judge(law(2.5), 0, 64, SIDE)
    assert (found.outcome, found.found) == ("published", set())
