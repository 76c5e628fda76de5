"""Exports in a bucket: the bytes of those in a folder, resumed, refused and never half there."""

import hashlib

import numpy as np
import pytest

from ood_core.errors import ConfigError, IdentityRefused, InputError, StoreUnreachable
from ood_core.exporting.exports import plan_export
from ood_core.store.files import write_atomic
from ood_core.store.objects import ObjectPlace
from tests.exporting.test_exports import Blocks, everything, source, write
from tests.object_server import stored

CUT = {"fits": 4, "webdataset": 4, "zarr": None}
"""Formats of a file, and of many objects, with maps per file."""


@pytest.fixture
def bucket(object_server):
    object_server.reset()
    return ObjectPlace.at(object_server.bucket())


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    """Of Zarr: one per block."""
    monkeypatch.setattr("ood_core.exporting.zarr_folders.SHARD_BYTES", 1)


@pytest.mark.parametrize("name", list(CUT))
def test_a_bucket_gets_the_bytes_of_a_folder_and_only_what_lacks_is_put_again(
    tmp_path, object_server, bucket, name
):
    """Lost and foreign objects come back; nothing is fetched to see that the others are whole."""
    place = bucket / "out [1]"
    write(source(), tmp_path / "o", name, CUT[name])
    found = write(source(), place, name, CUT[name])
    assert stored(place) == everything(tmp_path / "o")
    assert (found["files_kept"], found["readme"]) == (0, f"{place}/README.md")
    Blocks.read = 0
    object_server.reset()
    assert write(source(), place, name, CUT[name])["files_kept"] == found["files"]
    fetched = {r for r in object_server.requests if r.startswith("GET") and "/maps" in r}
    assert (Blocks.read, fetched) == (0, set())
    victim = max((p for p in place.tree() if "maps" in p.key), key=str)
    for harm in (victim.remove, lambda: write_atomic(victim, b"other")):
        harm()
        object_server.reset()
        write(source(), place, name, CUT[name])
        assert stored(place) == everything(tmp_path / "o")


@pytest.mark.parametrize(("name", "per_file", "deaths"), [("fits", 3, 5), ("zarr", None, 4)])
def test_an_export_that_dies_before_some_put_goes_on(
    tmp_path, object_server, bucket, name, per_file, deaths
):
    """What is there then is whole, and an unfinished Zarr does not open."""
    write(source(), tmp_path / "o", name, per_file)
    whole = everything(tmp_path / "o")
    object_server.reset()
    write(source(), bucket / "whole", name, per_file)
    last = len(object_server.changes) - 1
    for until in np.linspace(0, last, deaths).astype(int).tolist():
        place = bucket / str(until)
        object_server.reset(until)
        with pytest.raises(StoreUnreachable):
            write(source(), place, name, per_file)
        object_server.reset()
        left = stored(place)
        assert all(left[k] == whole[k] for k in left if k in whole and k != "SHA256SUMS")
        assert "maps.zarr/zarr.json" not in left or set(whole) - set(left) <= {"README.md"}
        done = [k for k in left if k.startswith("maps.zarr/maps/c")]
        done += left.get("SHA256SUMS", b"").decode().split("\n")[1:-1]
        Blocks.read = 0
        write(source(), place, name, per_file)
        assert stored(place) == whole
        assert Blocks.read == max(0, 4 - len(done))


def test_single_files_have_their_sums_beside_them(bucket):
    maps = source()
    write(maps, bucket / "runs" / "m.npz")
    files = stored(bucket / "runs")
    assert set(files) == {"m.npz", "m.npz.sha256", "m.npz.README.md"}
    assert hashlib.sha256(files["m.npz"]).hexdigest().encode() in files["m.npz.sha256"]
    assert write(maps, bucket / "runs" / "m.npz")["files_kept"] == 1


def test_places_in_a_bucket_that_hold_something_else_are_refused(bucket):
    write_atomic(bucket / "m.fits", b"mine")
    write_atomic(bucket / "full" / "deep" / "x", b"mine")
    write_atomic(bucket / "side.npz.README.md", b"mine")
    for dest, name in (("m.fits", None), ("full", "fits"), ("side.npz", None)):
        with pytest.raises(InputError, match="expected"):
            write(source(), bucket / dest, name)
    write(source(), bucket / "o", "fits", 4)
    with pytest.raises(IdentityRefused, match="run"):
        write(source(run="e" * 64), bucket / "o", "fits", 4)
    with pytest.raises(StoreUnreachable, match="no such bucket"):
        write(source(), "s3://not-there/o", "fits", 4)
    left = {place.key for place in bucket.tree() if not place.key.startswith("o/")}
    assert left == {"m.fits", "full/deep/x", "side.npz.README.md"}


@pytest.mark.parametrize(
    ("dest", "error"),
    [
        ("s3://bucket.fits", ConfigError),
        ("s3://bucket/m.xyz", ConfigError),
        ("s3://bucket/out", ConfigError),
        ("s3://key:PLANTED@bucket/m.fits", InputError),
        ("https://host/m.fits", InputError),
        ("s3:///m.fits", InputError),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused_without_a_request(object_server, dest, error):
    object_server.reset()
    with pytest.raises(error) as said:
        plan_export(source(), dest)
    assert "PLANTED" not in str(said.value) and object_server.requests == []


def test_a_large_file_is_put_in_parts(tmp_path, object_server, bucket):
    """And carries the sum of the whole."""
    content = np.random.default_rng(0).bytes(17 * 2**20)
    (tmp_path / "large").write_bytes(content)
    place = bucket / "large"
    place.put(tmp_path / "large")
    assert (
        sum(change.startswith("PUT") for change in object_server.changes) >= 4
    )  # one is the bucket
    assert place.checksum() == hashlib.sha256(content).hexdigest()
    assert place.read_bytes() == content
    assert (bucket / "none").checksum() is None
