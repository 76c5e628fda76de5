"""Where a run lives: a folder, or a prefix in an object store.

A place in a folder is a plain `Path`. A place in an object store is an `ObjectPlace`. Both have
`/`, `name`, `parent` and `str`; what else the store does with them is in `files`.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ood_core.errors import InputError
from ood_core.store.objects import ObjectPlace

Place = Path | ObjectPlace
AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def place_at(uri: str) -> Place:
    """Return the place that a path, a `file://` or an object store's address names.

    Raises:
        InputError: another scheme, an address that carries a credential, or the home folder of a
            user that there is not.
    """
    if "://" in uri and not uri.startswith("file://"):
        return ObjectPlace.at(uri)
    path = Path(uri.removeprefix("file://"))
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise InputError(
            f"{uri}: got no home folder of {path.parts[0]}; expected a user of this machine, or ~ "
            "alone; correct the path"
        ) from None


def link(place: Place) -> str:
    """Return an address of the place that a browser opens, where its user may read it."""
    return place.web if isinstance(place, ObjectPlace) else place.as_uri()


def each(place: Place, act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in order; many at a time where every call is a round trip."""
    if not isinstance(place, ObjectPlace):
        return [act(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, items))
