"""The README of an export: what the maps are, that they are synthetic, how to read them."""

from collections.abc import Sequence

from ood_core.exporting.source import Source, software
from ood_core.report.card import markdown, one_line

SHOWN = 20
"""Names of targets that are spelled out."""
STATES = {
    "quarantined": "The gate of the run **refused** these maps; they were exported all the same.",
    "undecided": "The gate of the run could not decide about these maps.",
    "complete": "The run asked nothing of its gate, so nothing is proven of these maps.",
    "published": "The maps passed the gate of their run.",
    "in memory": "The maps were written from memory, without a run and without a gate.",
}
UNFINISHED = "The run was **not finished** when these maps were exported."


def render_readme(source: Source, format: str, reading: str, files: Sequence[str]) -> str:
    """Return the README as Markdown; text from files and settings is escaped."""
    about = source.about
    channels, height, width = about.shape
    names = [markdown(name) for name in about.target_names[:SHOWN]]
    more = len(about.target_names) - len(names)
    made_of = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    first = repr(one_line(files[0])).replace("'", '"')
    others = f" The other {len(files) - 1} files are read alike." if len(files) > 1 else ""
    lines = [
        f"# {markdown(about.name)}",
        "",
        "**These maps are synthetic. A generative model made them; nobody observed them.**",
        STATES.get(about.state, UNFINISHED),
        "",
        f"{len(source):,} maps of {channels} x {height} x {width} (channel, y, x), float32, in "
        f"{markdown(about.unit) if about.unit else 'no unit'}, as {format}.",
        "",
        *_without(about.left_out),
        "```python",
        reading.replace("{path}", first),
        "```",
        "",
        f"Run it in this folder.{others} `sha256sum -c` checks the files against the checksums "
        "beside this page.",
        "",
        "| | |",
        "|---|---|",
        f"| run | {markdown(about.identity or 'none')} |",
        f"| state | {markdown(about.state)} |",
        f"| seed | {'unknown' if about.seed is None else about.seed} |",
        f"| made by | {markdown(software())} |",
        f"| made from | {made_of or 'unknown targets'} |",
        "",
        "| column | meaning | unit |",
        "|---|---|---|",
    ]
    for column in about.columns:
        lines.append(
            f"| `{one_line(column.name)}` | {markdown(column.long_name)} | "
            f"{markdown(column.units)} |"
        )
    return "\n".join(lines) + "\n"


def _without(left_out: Sequence[int]) -> tuple[str, ...]:
    if not left_out:
        return ()
    numbers = ", ".join(map(str, left_out[:SHOWN])) + (" ..." if len(left_out) > SHOWN else "")
    return (f"Samples that are copies of targets are left out ({len(left_out)}): {numbers}.", "")
