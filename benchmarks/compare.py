"""What changed between two records of a benchmark by more than the noise.

    python -m benchmarks.compare runs/bench/speed-OLD.json runs/bench/speed-NEW.json

Exit code 1 if something became worse.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.record import changes
from flows.cli.console import OUT, show_rows

HEADER = ("figure", "before", "now", "change", "2 x noise", "")


def show_changes(old: Path, new: Path) -> bool:
    """Print what changed; return whether something became worse."""
    before, now = json.loads(old.read_text()), json.loads(new.read_text())
    rows = changes(before, now)
    if rows:
        show_rows(f"changed since {before['commit']} ({old.name})", HEADER, rows)
    else:
        OUT.print(f"nothing changed by more than the noise since {before['commit']} ({old.name})")
    return any(row[-1] == "WORSE" for row in rows)


def main() -> None:
    """Compare two records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    sys.exit(int(show_changes(arguments.old, arguments.new)))


if __name__ == "__main__":
    main()
