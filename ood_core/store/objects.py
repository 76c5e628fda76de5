"""Places in an object store; the only importer of obstore.

An object is written whole or not at all, so nothing here has a `*.partial` neighbour. What it may
do is taken from the standard chain of the store's own client, in each process anew: environment
variables, a token of the cluster, or the machine's role. An address never carries a credential, and
no answer of a store is repeated in an error, since it may hold one.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, final
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from ood_core.errors import InputError, StoreUnreachable

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

SETTINGS = {
    "s3": "the endpoint (AWS_ENDPOINT_URL, AWS_REGION) and the credentials (AWS_ACCESS_KEY_ID with "
    "AWS_SECRET_ACCESS_KEY, or the machine's role)",
    "gs": "the credentials (GOOGLE_APPLICATION_CREDENTIALS, or the machine's role)",
    "az": "the account (AZURE_STORAGE_ACCOUNT_NAME) and the credentials "
    "(AZURE_STORAGE_ACCOUNT_KEY, or the machine's role)",
}
"""What a client takes from its environment, by scheme."""
PATIENCE: "RetryConfig" = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"max_backoff": timedelta(seconds=5)},
}
"""A request without an answer is repeated for some seconds, at most half a minute in all."""
PART_BYTES = 2**23
MAX_PARTS = 9_000
"""Parts of an upload: stores take 10,000."""
SUM = "sha256"
"""What the SHA-256 of an object is called in its metadata."""
NO_BUCKET = "there is no such bucket"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DENIED = re.compile(r"status code: 40[13]")
CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")


@final
@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """An object or the common prefix of many: `bucket` is `scheme://name`, `key` what follows.

    Two strings, so it travels to any worker; the client is made where it is used.
    """

    bucket: str
    key: str = ""

    @classmethod
    def at(cls, uri: str) -> "ObjectPlace":
        """Return the place of an address such as `s3://bucket/runs/galaxies`.

        Raises:
            InputError: another scheme, no bucket, or something besides bucket and path: a
                credential is refused without being repeated.
        """
        scheme, _, rest = uri.partition("://")
        expected = "expected s3://bucket/prefix"
        if scheme not in SETTINGS:
            raise InputError(
                f"got an address that starts with {scheme}://; {expected} (gs:// and az:// are "
                "taken too), or a path on a disk that all workers can reach"
            )
        if "@" in urlsplit(uri).netloc or "?" in rest or "#" in rest:
            raise InputError(
                f"got an address of {scheme}:// with a user, a query or a fragment; {expected}: "
                "credentials are taken from the environment, such as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or from the machine's role"
            )
        bucket, *parts = rest.split("/")
        parts = [part for part in parts if part]
        if not BUCKET.fullmatch(bucket) or {".", ".."} & set(parts):
            raise InputError(
                f"got an address of {scheme}:// that is none ({len(rest)} characters after the "
                f"scheme); {expected}: a name of letters, digits, `.`, `_` and `-`, then a path "
                "without `.` and `..`"
            )
        return cls(f"{scheme}://{bucket}", "/".join(parts))

    def __truediv__(self, name: str) -> "ObjectPlace":
        return ObjectPlace(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPlace":
        """The prefix that this lies under."""
        return ObjectPlace(self.bucket, self.key.rpartition("/")[0])

    @property
    def web(self) -> str:
        """Address by HTTP, without a credential; Google's asks its reader to sign in."""
        scheme, _, bucket = self.bucket.partition("://")
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", "") if scheme == "s3" else "")
        region = os.environ.get("AWS_REGION", "us-east-1")
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "ACCOUNT")
        root = {
            "s3": f"https://{bucket}.s3.{region}.amazonaws.com",
            "gs": f"https://storage.cloud.google.com/{bucket}",
            "az": f"https://{account}.blob.core.windows.net/{bucket}",
        }[scheme]
        if endpoint.netloc:
            host = endpoint.netloc.rpartition("@")[2]
            root = f"{endpoint.scheme}://{host}{endpoint.path.rstrip('/')}/{bucket}"
        return f"{root}/{quote(self.key)}"

    @property
    def client(self) -> "ObjectStore":
        """This process's client of the bucket."""
        return _client(self.bucket)

    @property
    def rooted(self) -> "ObjectStore":
        """This process's client that sees nothing above this prefix.

        Zarr makes a group of every prefix above an array that it can see.
        """
        return _client(f"{self.bucket}/{quote(self.key)}")

    def read_bytes(self) -> bytes:
        """Return the object.

        Raises:
            FileNotFoundError: there is none.
            StoreUnreachable: no answer, or a refusal; so with all that follow.
        """
        with answering(self):
            return obstore.get(self.client, self.key).bytes().to_bytes()

    def exists(self) -> bool:
        """Whether there is such an object."""
        with answering(self):
            try:
                obstore.head(self.client, self.key)
            except FileNotFoundError:
                self.parent.objects()  # where there is no bucket, every object looks missing
                return False
        return True

    def put(self, content: bytes | Path) -> None:
        """Write the object, or replace it, whole or not at all; its SHA-256 becomes metadata.

        A file is read in parts, so that some tens of MiB of it are in memory.
        """
        if isinstance(content, Path):
            size = content.stat().st_size
            with content.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
        else:
            size, digest = len(content), hashlib.sha256(content)
        with answering(self, writing=True):
            obstore.put(
                self.client,
                self.key,
                content,
                attributes={SUM: digest.hexdigest()},
                chunk_size=max(PART_BYTES, size // MAX_PARTS + 1),
                max_concurrency=4,
            )

    def checksum(self) -> str | None:
        """SHA-256 as its `put` noted it, '' where another program wrote it, None if not there."""
        with answering(self):
            try:
                found = obstore.get(self.client, self.key, options={"head": True})
            except FileNotFoundError:
                return None
        return str(found.attributes.get(SUM, ""))

    def put_new(self, content: bytes) -> bool:
        """Write an object that must not exist yet; return whether it did not.

        `content` must differ between writers: a put whose answer is lost is sent again, finds the
        object there, and recognises it by its content.

        Raises:
            StoreUnreachable: as always, or the store takes no notice of the condition, which is
                tried by a second put that must fail.
        """
        with answering(self, writing=True):
            try:
                for sent in (content, content + b"\n"):
                    obstore.put(self.client, self.key, sent, mode="create")
            except AlreadyExistsError:
                return self._holds(content)
        raise _unreachable(self, "the store takes no notice of If-None-Match, so it locks nothing")

    def _holds(self, content: bytes) -> bool:
        try:
            return self.read_bytes() == content
        except FileNotFoundError:  # it was there a moment ago
            return False

    def remove(self) -> None:
        """Delete the object, if there is one."""
        with answering(self), suppress(FileNotFoundError):  # S3 says nothing, others do
            obstore.delete(self.client, self.key)

    def remove_tree(self) -> None:
        """Delete all objects under this prefix."""
        with answering(self):
            found = [place.key for place in self.tree()]
            if found:
                obstore.delete(self.client, found)

    def tree(self) -> list["ObjectPlace"]:
        """All objects under this prefix."""
        with answering(self):
            found = obstore.list(self.client, self.key or None).collect()
        return [ObjectPlace(self.bucket, str(entry["path"])) for entry in found]

    def objects(self) -> dict[str, float]:
        """Names of the objects right under this prefix, with seconds since 1970 of their puts."""
        with answering(self):
            found = obstore.list_with_delimiter(self.client, self.key or None)
        return {
            str(entry["path"]).rpartition("/")[2]: entry["last_modified"].timestamp()
            for entry in found["objects"]
        }


@contextmanager
def answering(place: object, writing: bool = False) -> Iterator[None]:
    """Turn the errors of an object store into one clear error.

    Raises:
        StoreUnreachable: no answer within the retries, no such bucket, or no permission.
    """
    try:
        yield
    except FileNotFoundError:
        if not isinstance(place, ObjectPlace):
            raise
        if writing:
            raise _unreachable(place, NO_BUCKET) from None
        raise FileNotFoundError(f"{place}: no such object") from None
    except BaseError as error:
        raise _unreachable(place, _reason(error)) from None  # its text may hold a credential


def _unreachable(place: object, reason: str) -> StoreUnreachable:
    settings = SETTINGS[place.bucket.partition(":")[0] if isinstance(place, ObjectPlace) else "s3"]
    return StoreUnreachable(
        f"{place}: {reason}; expected a bucket that this process may list, read and write. What is "
        f"stored is kept and nothing unfinished is marked done: check the address, {settings}, "
        "then run the same command again"
    )


def _reason(error: BaseError) -> str:
    """What went wrong, without the text of the store's answer."""
    said = str(error)
    code = found[1] if (found := CODE.search(said)) else ""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or DENIED.search(said):
        return f"access is denied{code and f' ({code})'}"
    if code:
        return NO_BUCKET if code == "NoSuchBucket" else f"the store says {code}"
    if "BadScheme" in said:
        return "the endpoint is plain http, which takes AWS_ALLOW_HTTP=true"
    if "/latest/api/token" in said or "security-credentials" in said:
        return "no credentials in the environment, and this machine has no role"
    return f"the store cannot be reached ({type(error).__name__})"


@cache
def _client(uri: str) -> "ObjectStore":
    """Make a client with the settings that the environment names, once per process.

    Raises:
        InputError: they do not make a client.
    """
    try:
        return from_url(uri, retry_config=PATIENCE)
    except (BaseError, ValueError) as error:
        raise InputError(
            f"{uri}: the environment's settings make no client ({type(error).__name__}); "
            "expected those of the store's standard chain: see docs/runbook.md"
        ) from None
