"""Targets at an address: a real S3 server and an HTTP server on loopback."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from ood_core.config.targets import TilesSpec
from ood_core.errors import TargetError
from ood_core.limits import USUAL, Limits
from ood_core.maps.readers import read_maps
from ood_core.maps.target_set import TargetSet

FIELDS = np.random.default_rng(0).normal(size=(12, 16, 16)).astype("f4")
pytestmark = pytest.mark.filterwarnings("ignore::ood_core.errors.TargetWarning")


@pytest.fixture
def filled(bucket: str, tmp_path: Path) -> str:
    """A bucket with single files, a folder of files and a Zarr store."""
    for number, field in enumerate(FIELDS):
        (tmp_path / "maps").mkdir(exist_ok=True)
        fits.writeto(tmp_path / "maps" / f"m{number}.fits", field)
    np.save(tmp_path / "all.npy", FIELDS)
    xr.Dataset({"t": (("n", "y", "x"), FIELDS)}).to_zarr(tmp_path / "t.zarr")
    client = boto3.client("s3")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            client.upload_file(
                str(path), bucket.removeprefix("s3://"), f"in/{path.relative_to(tmp_path)}"
            )
    return bucket


@pytest.mark.parametrize("path", ["in/all.npy", "in/t.zarr", "in/maps", "in/maps/*.fits"])
def test_objects_prefixes_and_patterns(filled: str, path: str) -> None:
    maps = read_maps(f"{filled}/{path}", None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], FIELDS)
    assert maps.source == f"{filled}/{path}"


def test_some_of_them(filled: str) -> None:
    assert read_maps(f"{filled}/in/maps/m1?.fits", None, USUAL).ids == ("m10", "m11")
    whole = TargetSet.read(f"{filled}/in/maps/*.fits")
    assert whole.ids[2] == "m2" and whole.source.startswith("s3://")
    tiles = TilesSpec(size=16, split="order")
    assert len(TargetSet.read(f"{filled}/in/all.npy", tiles=tiles)) == 12


def test_what_is_not_there_or_too_much_is_refused(filled: str) -> None:
    with pytest.raises(TargetError, match=r"in/no\.fits: got no such object"):
        read_maps(f"{filled}/in/no.fits", None, USUAL)
    with pytest.raises(TargetError, match="more bytes than the limits"):
        read_maps(f"{filled}/in/all.npy", None, Limits(max_bytes=100, max_header_bytes=100))
    with pytest.raises(TargetError, match="expected at most 5"):
        read_maps(f"{filled}/in/maps", None, Limits(max_maps=5))
    with pytest.raises(TargetError, match="no user"):
        read_maps("s3://me:secret@bucket/m.fits", None, USUAL)
    with pytest.raises(TargetError, match="ftp://; expected s3://"):
        read_maps("ftp://host/m.fits", None, USUAL)


def test_a_damaged_object_is_named_by_its_address(filled: str) -> None:
    name = filled.removeprefix("s3://")
    boto3.client("s3").put_object(Bucket=name, Key="in/bad.npy", Body=b"\x93NUMPY\1\0oh")
    with pytest.raises(TargetError, match=rf"{filled}/in/bad\.npy: got a file that cannot be read"):
        read_maps(f"{filled}/in/bad.npy", None, USUAL)


def test_http(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", FIELDS)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        np.testing.assert_array_equal(read_maps(f"{root}/m.npy", None, USUAL).values[:, 0], FIELDS)
        with pytest.raises(TargetError, match="got no answer that can be used"):
            read_maps(f"{root}/no.npy", None, USUAL)
    finally:
        server.shutdown()
