"""Where a run lives: a folder, or a prefix in an object store.

A place in a folder is a plain `Path`. A place in an object store is an `ObjectPlace`. Both have
`/`, `name`, `parent` and `str`; what else the store does with them is in `files`.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ood_core.store.objects import ObjectPlace

Place = Path | ObjectPlace
AT_ONCE = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def place_at(uri: str) -> Place:
    """Return the place that a path, a `file://` or an object store's address names.

    Raises:
        InputError: another scheme, or an address that carries a credential.
    """
    if "://" in uri and not uri.startswith("file://"):
        return ObjectPlace.at(uri)
    return Path(uri.removeprefix("file://")).expanduser().absolute()


def link(place: Place) -> str:
    """Return the place as a URI."""
    return str(place) if isinstance(place, ObjectPlace) else place.as_uri()


def each(place: Place, act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in order; many at a time where every call is a round trip."""
    if not isinstance(place, ObjectPlace):
        return [act(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, items))
