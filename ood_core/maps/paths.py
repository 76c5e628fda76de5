"""Which files a path of the configuration means.

A path that exists is that path, whatever characters it has. Else `$NAME` and `~` are replaced, and
what is still not there is a pattern, whose leading folders are plain names as far as they exist:
`/data/run [v1]/*.fits` looks into the folder called `run [v1]`.
"""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path


def expanded(path: str) -> str:
    """Return a path with its variables and `~` replaced, unless a file has that very name."""
    return path if os.path.lexists(path) else os.path.expanduser(os.path.expandvars(path))


def variables(path: str) -> list[str]:
    """Return the names of the environment variables in a path."""
    return re.findall(r"\$\{?(\w+)", path)


def literal_part(path: str) -> tuple[str, str]:
    """Split a path into leading folders that exist and the pattern that is left, '' if none is."""
    folder, parts = "", list(Path(path).parts)
    while parts and os.path.lexists(os.path.join(folder, parts[0])):
        folder = os.path.join(folder, parts.pop(0))
    return folder, os.path.join(*parts) if parts else ""


def matches(path: str) -> Iterator[str]:
    """Yield the files and folders that a path means, in any order."""
    folder, pattern = literal_part(expanded(path))
    if not pattern:
        yield folder
        return
    for name in glob.iglob(pattern, root_dir=folder or None, recursive=True):
        yield os.path.join(folder, name)


def natural_order(path: str) -> tuple[list[str | int], str]:
    """Return a key that sorts `map-2` before `map-10`."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path
