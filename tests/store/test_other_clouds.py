"""Places, targets and exports on gs:// and az://.

Google's own emulators refuse the client's XML API, so gs:// is a small server that speaks its part
of it; az:// is Azurite, where it is installed (`npm install -g azurite`).
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen
from uuid import uuid4
from xml.sax.saxutils import escape

import numpy as np
import pytest

from flows.runs.lifecycle import make_run
from ood_core.limits import USUAL
from ood_core.maps.readers import read_maps
from ood_core.store.files import write_atomic
from ood_core.store.objects import ObjectPlace
from tests.exporting.test_exports import everything, source, write
from tests.faults.drivers import without_validation
from tests.object_server import answers, tables

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
AZURITE_KEY = (  # the one that Azurite publishes
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class GoogleXml(BaseHTTPRequestHandler):
    """Objects of Google's XML API: put if absent, in parts, get by ranges, list, delete."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    objects: dict[str, tuple[bytes, dict[str, str]]]
    uploads: dict[str, tuple[dict[int, bytes], dict[str, str]]]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, text: str) -> None:
        self.answer(200, text.encode(), Content_Type="application/xml")

    def request(self) -> None:
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        _, _, key = unquote(url.path).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        meta = {k: v for k, v in self.headers.items() if k.lower().startswith("x-goog-meta")}
        match self.command:
            case "POST" if "uploads" in query:
                number = str(len(self.uploads))
                self.uploads[number] = ({}, meta)
                self.xml(
                    "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                    f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
                )
            case "PUT" if "uploadId" in query:
                self.uploads[query["uploadId"]][0][int(query["partNumber"])] = body
                self.answer(200, ETag='"part"')
            case "POST":
                parts, meta = self.uploads.pop(query["uploadId"])
                self.objects[key] = b"".join(parts[n] for n in sorted(parts)), meta
                self.xml(
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
                )
            case "PUT":
                if self.headers.get("x-goog-if-generation-match") == "0" and key in self.objects:
                    return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                self.objects[key] = body, meta
                self.answer(200, ETag='"e"', x_goog_generation="1")
            case "DELETE":
                self.answer(204 if self.objects.pop(key, None) else 404)
            case _ if not key:
                self.listed(query.get("prefix", ""), query.get("delimiter", ""))
            case _ if key not in self.objects:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            case _:
                self.given(*self.objects[key])
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = request

    def listed(self, prefix: str, delimiter: str) -> None:
        names = [name for name in sorted(self.objects) if name.startswith(prefix)]
        below = {n: n.removeprefix(prefix).partition(delimiter) if delimiter else () for n in names}
        folders = sorted({prefix + cut[0] + cut[1] for cut in below.values() if cut and cut[1]})
        entries = "".join(
            f"<Contents><Key>{escape(n)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>e</ETag><Size>{len(self.objects[n][0])}</Size></Contents>"
            for n, cut in below.items()
            if not cut or not cut[1]
        )
        commons = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders
        )
        self.xml(f"<ListBucketResult>{entries}{commons}</ListBucketResult>")

    def given(self, body: bytes, meta: dict[str, str]) -> None:
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last_Modified": DATE, **meta}
        found = re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if found is None:
            size = {"Content_Length": str(len(body))}
            return self.answer(200, b"" if self.command == "HEAD" else body, **headers, **size)
        first, last = found.groups()
        start = int(first) if first else len(body) - int(last)
        stop = min(int(last) + 1, len(body)) if first and last else len(body)
        place = f"bytes {start}-{stop - 1}/{len(body)}"
        return self.answer(206, body[start:stop], Content_Range=place, **headers)


@pytest.fixture
def gs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = type("Own", (GoogleXml,), {"objects": {}, "uploads": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    account = {
        "gcs_base_url": f"http://127.0.0.1:{server.server_port}",
        "disable_oauth": True,
        **dict.fromkeys(("client_email", "private_key", "private_key_id"), ""),
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    yield f"gs://b{uuid4().hex}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed: npm install -g azurite")
    from obstore.store import AzureStore

    process = subprocess.Popen(
        [program, "--inMemoryPersistence", "--blobPort", "0", "--skipApiVersionCheck"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = iter(process.stdout or ())
        port = next(m[1] for line in said if (m := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
        endpoint, container = f"http://127.0.0.1:{port}/devstoreaccount1", f"c{uuid4().hex}"
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
            "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        create_container(endpoint, container)
        assert AzureStore(container)
        yield f"az://{container}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def create_container(endpoint: str, name: str) -> None:
    """By a request signed with the shared key, as the client has none that makes containers."""
    import base64
    import hmac
    from email.utils import formatdate
    from urllib.request import Request

    date, account = formatdate(time.time(), usegmt=True), "devstoreaccount1"
    lines = ["PUT", *[""] * 11, f"x-ms-date:{date}", "x-ms-version:2021-08-06"]
    text = "\n".join([*lines, f"/{account}/{account}/{name}", "restype:container"])
    key = base64.b64decode(AZURITE_KEY)
    signed = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Authorization": f"SharedKey {account}:{signed}",
    }
    place = f"{endpoint}/{name}?restype=container"
    with urlopen(Request(place, method="PUT", headers=headers)) as answer:
        assert answer.status == 201


@pytest.fixture(params=["gs", "az"])
def bucket(request: pytest.FixtureRequest) -> ObjectPlace:
    return ObjectPlace.at(request.getfixturevalue(request.param))


def test_places_targets_and_exports_are_those_of_a_folder(
    bucket: ObjectPlace, tmp_path: Path
) -> None:
    place = bucket / "runs/a b/x.json"
    assert not place.exists() and place.put_new(b"one") and not place.put_new(b"two")
    assert place.read_bytes() == b"one"
    write_atomic(place, b"three")
    assert place.read_bytes() == b"three"
    assert [str(p) for p in (bucket / "runs").tree()] == [str(place)]
    (bucket / "runs").remove_tree()
    assert not place.exists()

    fields = np.random.default_rng(0).normal(size=(4, 16, 16)).astype("f4")
    np.save(tmp_path / "m.npy", fields)
    (bucket / "in/m.npy").put(tmp_path / "m.npy")
    np.testing.assert_array_equal(read_maps(f"{bucket}/in/*.npy", None, USUAL).values[:, 0], fields)

    for name, per_file in (("fits", 4), ("zarr", None)):
        write(source(), tmp_path / name, name, per_file)
        found = write(source(), bucket / name, name, per_file)
        here = {str(p).removeprefix(f"{bucket}/{name}/"): p for p in (bucket / name).tree()}
        assert {k: p.read_bytes() for k, p in here.items()} == everything(tmp_path / name)
        assert write(source(), bucket / name, name, per_file)["files_kept"] == found["files"]


def test_a_run_is_made_resumed_and_exported(
    bucket: ObjectPlace, tiny: Any, unbroken: Path, farfield: Any, tmp_path: Path
) -> None:
    """The bytes are those of a folder, after a shard was lost, and so are those of an export."""
    root = bucket / "runs/tiny"
    make_run(tiny(), str(root), call=without_validation)
    (root / "receipts/generate/00001.json").remove()
    assert farfield("export", root, tmp_path / "m.fits").code == 5, "it is not finished"
    make_run(tiny(), str(root))
    here = {str(p).removeprefix(f"{root}/"): p.read_bytes() for p in root.tree()}
    there = everything(unbroken)
    assert answers(here) == answers(there) and tables(here) == tables(there)
    for run, dest in ((root, bucket / "maps"), (unbroken, tmp_path / "maps")):
        assert farfield("export", run, dest, "--format", "npz", "--per-file", 4).code == 0
    for file in (tmp_path / "maps").glob("*.npz"):
        assert (bucket / "maps" / file.name).read_bytes() == file.read_bytes()
