"""Figures of the method page are those of the code that it prints."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


def test_the_power_that_ancestral_steps_keep_is_what_their_recursion_gives() -> None:
    page = PAGE.read_text()
    code = re.search(r"```python\n(def power_kept.*?)```\n(.*?)\n\n", page, re.DOTALL)
    assert code is not None
    scope: dict[str, Any] = {}
    exec(code[1], scope)
    kept, words = scope["power_kept"], code[2].replace("\n", " ")
    assert f"lose {100 * (1 - kept(1)):.0f} % of the power" in words
    low, high = min(kept(0.1), kept(1), kept(10)), max(kept(0.1), kept(1), kept(10))
    assert f"{kept(1):.3f} for `P = 1` and {low:.3f} to {high:.3f} from `P = 0.1` to 10" in words
    assert f"({kept(100):.2f} for `P = 100`, {kept(200):.2f} for 200)" in words

    def with_last(P: float) -> float:
        return float(kept(P) * (P / (P + 0.02**2)) ** 2)

    assert f"({with_last(0.01):.2f} for `P = 0.01`, {with_last(0.001):.2f} for 0.001)" in words
    assert f"20 steps lose {100 * (1 - kept(1, steps=20)):.0f} %" in words
    assert f"80 lose {100 * (1 - kept(1, steps=80)):.0f} %" in words
