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

from ood_core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
"""Folder with the `models/` and `examples/` that come with the project: in the package where it was
installed from a wheel, else the checkout."""
BOTH = " + "
"""Between the names of several bases of one run."""


def variables(path: str) -> list[str]:
    """Return the names of the environment variables in a path."""
    return re.findall(r"\$\{?(\w+)", path)


def meaning(path: str, place: str = "") -> tuple[str, str]:
    """Split a path into a file or folder that exists and the pattern that is left, '' if none is.

    Args:
        path: as it was written.
        place: folder that relative paths start at; '' is the working folder.

    Raises:
        InputError: the home folder of a user that there is not.
    """
    folder, pattern = _literal(os.path.join(place, path))
    if pattern and path.startswith("~"):
        home = os.path.expanduser(path)
        if home == path:
            user = path.partition("/")[0]
            raise InputError(
                f"{path}: got no home folder of {user}; expected a user of this machine, or ~ "
                "alone; correct the path"
            )
        folder, pattern = _literal(os.path.join(place, home))
    if "$" in pattern:
        folder, pattern = _literal(os.path.join(folder, os.path.expandvars(pattern)))
    return folder, pattern


def matches(path: str, place: str = "") -> Iterator[str]:
    """Yield the files and folders that a path means, in any order."""
    folder, pattern = meaning(path, place)
    if not pattern:
        yield folder
        return
    for name in glob.iglob(pattern, root_dir=folder or None, recursive=True):
        yield os.path.join(folder, name)


def _literal(path: str) -> tuple[str, str]:
    folder, parts = "", list(Path(path).parts) or [os.curdir]  # `.` has no parts
    while parts and os.path.lexists(os.path.join(folder, parts[0])):
        folder = os.path.join(folder, parts.pop(0))
    return folder, os.path.join(*parts) if parts else ""


def natural_order(path: str) -> tuple[list[str | int], str]:
    """Return a key that sorts `map-2` before `map-10`."""
    parts = re.split(r"([0-9]+)", path)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path
