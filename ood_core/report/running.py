"""The card of a set that is being made: how far it is, and when it last gave a sign of life."""

from collections.abc import Mapping
from datetime import datetime
from math import ceil

import yaml

from ood_core.report.card import markdown, one_line

WIDTH = 20  # of the bar, in characters


def render_running(
    name: str,
    identity: str,
    counts: Mapping[str, tuple[int, int]],
    stage: str,
    rate: float,
    now: datetime,
    trouble: str = "",
) -> str:
    """Return the `README.md` of an unfinished set.

    Args:
        name: name of the run.
        identity: its identity.
        counts: rows done and rows in all, per stage.
        stage: the stage at work.
        rate: its rows per second in this session; 0 where none is done yet.
        now: when this is written (UTC).
        trouble: why the session ended early, if it did.
    """
    done, total = counts[stage]
    front = {
        "pretty_name": f"{one_line(name)} (synthetic, unfinished)",
        "tags": ["synthetic", "scientific-maps", "farfield", "unfinished"],
    }
    rows = [f"| {s} | `{_bar(d, t)}` | {d:,} of {t:,} |" for s, (d, t) in counts.items()]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000).rstrip(),
        "---",
        "",
        f"# {markdown(name)}: synthetic maps in the making",
        "",
        "**This set is not finished, and nothing in it is validated.** The maps are synthetic, not",
        "observations.",
        "",
        "| stage | | done |",
        "|---|---|---|",
        *rows,
        "",
        _progress(stage, total - done, rate, trouble),
        "",
        f"Written {now:%Y-%m-%d %H:%M:%S} UTC and, while the run goes on, again every half minute",
        "or so, as shards are done. If that is long ago, the run has stopped: the same command",
        "resumes it, and `farfield status` shows more.",
        "",
        f"Run {markdown(identity)}.",
    ]
    return "\n".join(lines) + "\n"


def remaining(rows: int, rate: float) -> str:
    """Return how long so many rows take, for people to read."""
    seconds = rows / rate
    if seconds < 90:
        return f"{ceil(seconds)} s"
    minutes = ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _progress(stage: str, left: int, rate: float, trouble: str) -> str:
    if trouble:
        return f"Stopped: {markdown(trouble)}"
    if left == 0:
        return f"{stage.capitalize()} is done; validation and the report come last."
    if rate <= 0:
        return f"{stage.capitalize()} has begun; how long it takes is not known yet."
    return (
        f"{stage.capitalize()}: about {remaining(left, rate)} to go, at {rate:.2g} rows a second."
    )


def _bar(done: int, total: int) -> str:
    full = WIDTH * done // total if total else WIDTH
    return "█" * full + "░" * (WIDTH - full)
