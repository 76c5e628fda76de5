"""Targets at an address: `s3://`, `gs://`, `az://` and `https://`, copied to a temporary folder.

What is copied is bounded by the limits on targets. Credentials come from the standard chain of the
store's own client; what a store says is never repeated, since it may hold one.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ood_core.errors import TargetError
from ood_core.limits import Limits
from ood_core.maps.mapset import require_count

BUCKETS = ("s3", "gs", "az")
PATIENCE = timedelta(seconds=60)


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


@contextmanager
def fetched(uri: str, limits: Limits) -> Iterator[str]:
    """Copy an object, all objects under a prefix, or those that a pattern means; give the path.

    Raises:
        TargetError: another scheme, nothing there, no answer, or more than the limits allow.
    """
    parts = urlsplit(uri.replace("?", "%3F"))
    if parts.scheme not in (*BUCKETS, "http", "https") or not parts.netloc or "@" in parts.netloc:
        raise TargetError(
            f"got an address of {parts.scheme}://; expected s3://, gs://, az:// or https:// with a "
            "bucket or host and a path, and no user: credentials come from the environment"
        )
    key = parts.path.strip("/").replace("%3F", "?")
    with tempfile.TemporaryDirectory(prefix="farfield-") as folder:
        local = Path(folder)
        try:
            found = _copy(f"{parts.scheme}://{parts.netloc}", key, local, limits, uri)
        except TargetError:
            raise
        except Exception as error:  # what it says may hold a credential
            raise TargetError(
                f"{uri}: got no answer that can be used ({type(error).__name__}); expected an "
                "object, a prefix or a pattern that may be read; check address, network and "
                "credentials"
            ) from None
        try:
            yield str(found)
        except TargetError as error:
            said = str(error).replace(str(local), f"{parts.scheme}://{parts.netloc}")
            raise TargetError(said) from error


def _copy(root: str, key: str, local: Path, limits: Limits, uri: str) -> Path:
    """Copy what a key means below a folder; return the path or pattern of it there."""
    import obstore
    from obstore.store import from_url

    store: Any = from_url(
        root,
        client_options={"allow_http": True},
        retry_config={"max_retries": 5, "retry_timeout": PATIENCE},
    )
    if root.startswith("http"):
        keys = [key]
    elif wild := [n for n, part in enumerate(key.split("/")) if set(part) & set("*?[")]:
        parts = key.split("/")
        names = _listed(obstore, store, "/".join(parts[: wild[0]]), limits, uri)
        keys = [name for name in names if _fits(name, key)]
    else:
        names = _listed(obstore, store, key.rpartition("/")[0], limits, uri)
        keys = [name for name in names if name == key or name.startswith(f"{key}/")]
    if not keys:
        raise TargetError(f"{uri}: got no such object; expected one, a prefix or a pattern")
    left = limits.max_bytes + limits.max_header_bytes
    for name in keys:
        target = local / name
        if not target.resolve().is_relative_to(local.resolve()):
            raise TargetError(f"{uri}: got an object called {name[:50]!r}; expected plain names")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in obstore.get(store, name).stream():
                left -= len(piece)
                if left < 0:
                    raise TargetError(
                        f"{uri}: got more bytes than the limits allow; expected at most "
                        f"{limits.max_bytes} (targets.max_bytes); choose fewer maps, or raise it"
                    )
                file.write(piece)
    return local / key


def _listed(obstore: Any, store: Any, prefix: str, limits: Limits, uri: str) -> list[str]:
    names: list[str] = []
    for page in obstore.list(store, prefix or None):
        names += [str(entry["path"]) for entry in page]
        require_count(len(names), uri, limits.max_maps)
    return names


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = PurePosixPath(name).parts, PurePosixPath(pattern).parts
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
