"""Places: one suite for folders and object stores, and what an object store may answer besides."""

from urllib.request import urlopen

import boto3
import numpy as np
import obstore
import pytest
from obstore.store import LocalStore

from ood_core.errors import FarfieldError, InputError, StoreUnreachable
from ood_core.store import objects
from ood_core.store.bundle import write_bundle
from ood_core.store.files import exists, names, read_bytes, remove, write_atomic, write_new
from ood_core.store.objects import ObjectPlace
from ood_core.store.place import link, place_at
from ood_core.store.run import RunStore
from tests.contracts.place import PlaceContract
from tests.object_server import PLANTED

SECRETS = (*PLANTED.values(), "PLANTED")


class TestFolder(PlaceContract):
    @pytest.fixture
    def place(self, tmp_path):
        return tmp_path / "run"


class TestObjects(PlaceContract):
    @pytest.fixture
    def place(self, bucket):
        return place_at(f"{bucket}/runs/a run, 100 %")


class TestWholeBucket(PlaceContract):
    @pytest.fixture
    def place(self, bucket):
        return place_at(bucket)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("memory://run", "starts with memory://"),
        ("https://host/run", "starts with https://"),
        ("s3://", "that is none"),
        ("s3:///run", "that is none"),
        ("s3://bucket/../run", "that is none"),
        ("s3://PLANTED:PLANTED@bucket/run", "with a user"),
        ("s3://PLANTED:PLAN/TED@bucket/run", "that is none"),
        ("s3://bucket/run?X-Amz-Signature=PLANTED", "a query"),
        ("s3://bucket/run#PLANTED", "a fragment"),
    ],
)
def test_other_addresses_are_refused_and_never_repeated(uri, said):
    with pytest.raises(InputError, match="expected s3://bucket/prefix") as refusal:
        RunStore.at(uri)
    assert said in str(refusal.value)
    assert "PLAN" not in str(refusal.value)


def test_an_address_is_one_however_it_is_written():
    place = ObjectPlace("s3://bucket", "runs/a")
    assert [place_at(f"s3://bucket{path}") for path in ("/runs/a", "/runs/a/", "//runs//a")] == [
        place
    ] * 3
    assert place_at("gs://bucket/a").bucket == "gs://bucket"


def test_a_link_opens_in_a_browser_and_carries_no_credential(bucket, object_server, monkeypatch):
    """Once anybody may read the object."""
    place = place_at(f"{bucket}/runs/a run, 100 %/page.html")
    write_atomic(place, b"a page")
    name = bucket.removeprefix("s3://")
    boto3.client("s3").put_object_acl(Bucket=name, Key=place.key, ACL="public-read")
    with urlopen(link(place)) as answer:
        assert answer.read() == b"a page"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://PLANTED:PLANTED@store.example:9000/x/")
    assert link(place_at("s3://maps/a b")) == "https://store.example:9000/x/maps/a%20b"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert link(place_at("s3://maps/a")) == "https://maps.s3.eu-central-1.amazonaws.com/a"
    assert link(place_at("gs://maps/a")) == "https://storage.cloud.google.com/maps/a"


@pytest.fixture
def elsewhere(object_server, monkeypatch):
    """Clients of another environment than that of the other tests."""

    def changed(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
        objects._client.cache_clear()

    yield changed
    objects._client.cache_clear()


def asked(place):
    """What every operation says of a place that refuses."""
    acts = (exists, read_bytes, names, remove, lambda p: write_atomic(p, b""))
    for act in (*acts, lambda p: write_new(p, b""), lambda p: write_bundle(p, {}, {})):
        with pytest.raises(FarfieldError) as error:
            act(place / "run.json")
        yield error


USER = "http://PLANTED:PLANTED@127.0.0.1:9"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ENDPOINT_URL": USER}, "cannot be reached"),
        ({"AWS_ALLOW_HTTP": "false"}, "plain http, which takes AWS_ALLOW_HTTP=true"),
        ({**dict.fromkeys(PLANTED), "AWS_METADATA_ENDPOINT": USER}, "no credentials"),
    ],
)
def test_a_store_that_cannot_be_asked_is_one_clear_error(bucket, elsewhere, variables, said):
    elsewhere(**variables)
    with pytest.raises(StoreUnreachable) as error:
        RunStore.open(f"{bucket}/run")
    assert str(error.value).startswith(f"{bucket}/run/run.json: ")
    for words in (said, "expected a bucket", "run the same command again"):
        assert words in str(error.value)
    assert "PLANTED" not in str(error.value)
    assert error.value.__suppress_context__  # tracebacks do not show what the client said


def test_every_operation_says_who_is_denied(object_server, bucket):
    place = place_at(f"{bucket}/run")
    object_server.deny = True
    try:
        for error in asked(place):
            assert "access is denied" in str(error.value)
            assert not any(secret in str(error.value) for secret in SECRETS)
    finally:
        object_server.deny = False


def test_a_bucket_that_is_not_there_is_no_empty_place():
    place = place_at("s3://no-such-bucket/run")
    for act in (exists, names, lambda p: write_atomic(p, b""), lambda p: write_new(p, b"")):
        with pytest.raises(StoreUnreachable, match="there is no such bucket"):
            act(place)
    with pytest.raises(StoreUnreachable, match="there is no such bucket"):
        RunStore.open(str(place))


def test_a_busy_store_is_asked_again(object_server, bucket):
    """Every change is refused twice before it is done."""
    seen = []

    def busy(what, act):
        seen.append(what)
        return seen.count(what) <= 2

    object_server.reset()
    object_server.meddle = busy
    place = place_at(f"{bucket}/run")
    write_atomic(place / "a", b"1")
    assert write_new(place / "b", b"2")
    object_server.reset()
    first, second = (f"PUT /{place.bucket[5:]}/run/{name}" for name in "ab")
    assert seen == [first] * 3 + [second] * 4  # the last one tries the condition
    assert (read_bytes(place / "a"), read_bytes(place / "b")) == (b"1", b"2")


def test_a_put_whose_answer_is_lost_knows_itself(object_server, bucket):
    """It is done, the client hears of a busy server and sends it again: there it is already."""
    done = []

    def lost(what, act):
        if done:
            return False
        done.append(act())
        return True

    place = place_at(f"{bucket}/lease")
    object_server.reset()
    object_server.meddle = lost
    assert write_new(place / "1", b"mine")
    object_server.reset()
    assert not write_new(place / "1", b"theirs")
    assert read_bytes(place / "1") == b"mine"


def test_a_store_that_locks_nothing_is_refused(object_server, bucket):
    object_server.blind = True
    try:
        with pytest.raises(StoreUnreachable, match="no notice of If-None-Match"):
            write_new(place_at(f"{bucket}/lease") / "1", b"mine")
    finally:
        object_server.blind = False


def test_a_bundle_is_one_put(object_server, bucket):
    path = place_at(f"{bucket}/run/prior.zarr.zip")
    object_server.reset()
    write_bundle(path, {name: (("x",), np.arange(5.0)) for name in ("a", "b")}, {})
    assert len(object_server.changes) == 1


def test_what_is_not_there_is_removed_where_stores_say_so(tmp_path, monkeypatch):
    """As Google's and Azure's stores do, a store on disk says that there was nothing."""
    store = LocalStore(tmp_path)
    monkeypatch.setattr(objects, "_client", lambda uri: store)
    with pytest.raises(FileNotFoundError):  # the control
        obstore.delete(store, "a")
    place = place_at("gs://bucket/a")
    place.remove()
    obstore.put(store, "a", b"1")
    place.remove()
    assert not (tmp_path / "a").exists()
