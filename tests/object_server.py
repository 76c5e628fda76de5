"""A real S3 server on loopback, and faults between it and its clients.

What changes a bucket is counted as it comes in, one after another. From a given change on the
server refuses all: a bucket is then what a driver leaves that is killed just before this change.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from ood_core.store.files import write_atomic
from ood_core.store.lease import Lease, highest, read_holder
from ood_core.store.objects import ObjectPlace

CHANGES = frozenset({"PUT", "POST", "DELETE"})
REFUSED = b"<Error><Code>AccessDenied</Code></Error>"
BUSY = b"<Error><Code>SlowDown</Code></Error>"
PLANTED = {
    "AWS_ACCESS_KEY_ID": "PLANTEDACCESSKEY",
    "AWS_SECRET_ACCESS_KEY": "PLANTEDsecret/access+key",
    "AWS_SESSION_TOKEN": "PLANTEDsessionTOKEN==",
}
"""Credentials that a test can look for: any will do for this server."""
Meddler = Callable[[str, Callable[[], list[bytes]]], bool]
"""Is told a change and may do it; whether the client is to hear that the server is busy."""


class Quiet(MotoRequestHandler):
    """Says nothing of the requests."""

    def log_request(self, *_: object) -> None:
        pass


def stored(place: ObjectPlace) -> dict[str, bytes]:
    """Every object under a place by its name there, read by another client than the product's."""
    client, bucket = boto3.client("s3"), place.bucket.removeprefix("s3://")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{place.key}/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {
        key.removeprefix(f"{place.key}/"): client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
    }


def tables(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those of all files that belong to Zarr groups."""
    return {name: content for name, content in files.items() if ".zarr" in name}


def marks(files: dict[str, bytes]) -> dict[str, bytes]:
    """The receipts: what counts as finished. They hold seconds, so no two are alike."""
    return {name: content for name, content in files.items() if name.startswith("receipts/")}


def answers(files: dict[str, bytes]) -> dict[str, tuple[object, ...]]:
    """What the receipts say, without seconds and writers."""
    kept = ("stage", "shard", "start", "stop", "digest", "nfe")
    records = {name: json.loads(content) for name, content in marks(files).items()}
    return {name: tuple(record[key] for key in kept) for name, record in records.items()}


def assert_same(place: ObjectPlace, folder: Path) -> None:
    """A run in a bucket has the bytes and the receipts of one in a folder, and no other table."""
    here = stored(place)
    there = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert answers(here) == answers(there)
    assert tables(here) == tables(there)


def copied(place: ObjectPlace, bucket: str) -> ObjectPlace:
    """A private copy of a finished run."""
    copy = ObjectPlace(bucket, "copy")
    for name, content in stored(place).items():
        write_atomic(copy / name, content)
    return copy


def die(place: ObjectPlace) -> None:
    """Let a run be held by a driver that has died since, if it is held."""
    number = highest(place / "lease")
    holder = read_holder(place / "lease", number)
    if holder is not None:
        ended = subprocess.Popen(["true"])
        ended.wait()
        Lease(place / "lease", number, holder).say(replace(holder, pid=ended.pid))


@dataclass
class ObjectServer:
    """Counts changes, refuses them from number `until` on, or lets `meddle` deal with each.

    All is denied while `deny`, and conditions of puts go unnoticed while `blind`. An answer takes
    `delay` seconds more, as over a network.
    """

    until: int | None = None
    deny: bool = False
    delay: float = 0.0
    blind: bool = False
    meddle: Meddler | None = None
    changes: list[str] = field(default_factory=list)
    refused: int = 0
    requests: list[str] = field(default_factory=list)
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one_by_one, self._numbers = threading.RLock(), count()
        self._server = make_server(self.host, 0, self._answer, True, request_handler=Quiet)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which clients find the server, with things in them to look for."""
        url = self.url.replace("//", "//PLANTEDuser:PLANTEDpassword@")
        here = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
        return {**PLANTED, **here}

    def bucket(self) -> str:
        """Make a bucket; return its address."""
        name = f"bucket-{next(self._numbers)}"
        urlopen(Request(f"{self.url}/{name}", method="PUT")).close()
        return f"s3://{name}"

    def stop(self) -> None:
        self._server.shutdown()

    def reset(self, until: int | None = None) -> None:
        """Count from 0 again."""
        with self._one_by_one:
            self.until, self.meddle, self.refused = until, None, 0
            self.changes.clear()
            self.requests.clear()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        time.sleep(self.delay)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        if self.blind:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if self.deny:
            return _says(start, "403 Forbidden", REFUSED)
        if method not in CHANGES:
            return self._app(environ, start)  # type: ignore[no-any-return]
        with self._one_by_one:
            number = len(self.changes)
            if self.until is not None and number >= self.until:
                self.refused += 1
                return _says(start, "403 Forbidden", REFUSED)
            self.changes.append(f"{method} {path}")
            return self._changed(f"{method} {path}", environ, start)

    def _changed(self, what: str, environ: dict[str, Any], start: Any) -> Any:
        said: list[Any] = []

        def act() -> list[bytes]:
            return list(self._app(environ, lambda *answer: said.append(answer)))

        if self.meddle is not None and self.meddle(what, act):
            return _says(start, "503 Slow Down", BUSY)
        body = act()
        start(*said[0])
        return body


def _says(start: Any, status: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
