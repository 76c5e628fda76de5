"""Tables: round trip, digests, damage, and what xarray makes of them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import ZipStore

from flows.report.inspection import verify_run
from flows.runs.lifecycle import make_run
from ood_core.errors import ShardCorrupt
from ood_core.store.arrays import Column, Table, chunk_rows, rows_digest
from ood_core.store.bundle import read_bundle, write_bundle
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore
from tests.contracts.store import assert_equal, marks
from tests.fields import SIZE

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8")


def values_of(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def one_column(path: Path, plan: ShardPlan, dtype: str, shape: tuple[int, ...]) -> Table:
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    column = Column("values", axes, shape, dtype, "some values", "K")
    return Table.create(path, "row", plan.rows, plan.shard_rows, [column], {"title": "a table"})


@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 13),
    shard_rows=st.integers(1, 8),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_rows_come_back_bit_for_bit(tmp_path, dtype, rows, shard_rows, shape, seed):
    plan = ShardPlan(rows, shard_rows)
    table = one_column(tmp_path / "t.zarr", plan, dtype, shape)
    values = values_of(dtype, (rows, *shape), seed)
    for shard in reversed(list(plan)):
        part = {"values": values[shard.start : shard.stop]}
        digest = table.write(shard, part)
        assert digest == table.digest(shard) == rows_digest(part)
    np.testing.assert_array_equal(table.read("values"), values)
    assert table.read("values").dtype == np.dtype(dtype)


@given(st.integers(1, 256), st.integers(1, 2**22))
@settings(deadline=None, derandomize=True)
def test_chunks_divide_shards_and_stay_near_a_mebibyte(shard_rows, row_bytes):
    rows = chunk_rows(shard_rows, row_bytes)
    assert shard_rows % rows == 0
    assert rows == 1 or rows * row_bytes <= 2**20


def test_digest_knows_names_types_and_shapes():
    ones = np.ones((2, 3), np.float32)
    different = {
        rows_digest({"a": ones}),
        rows_digest({"b": ones}),
        rows_digest({"a": ones.astype(np.float64)}),
        rows_digest({"a": ones.view(np.int32)}),
        rows_digest({"a": ones.reshape(3, 2)}),
        rows_digest({"a": ones, "b": ones}),
    }
    assert len(different) == 6
    assert rows_digest({"a": ones, "b": ones}) == rows_digest({"b": ones, "a": ones})
    assert rows_digest({"a": np.asfortranarray(ones)}) == rows_digest({"a": ones})


def test_a_shard_of_the_wrong_length_is_refused(tmp_path):
    plan = ShardPlan(6, 4)
    table = one_column(tmp_path / "t.zarr", plan, "int64", ())
    with pytest.raises(ValueError, match="got 3 rows for a shard of 4"):
        table.write(plan[0], {"values": np.arange(3)})


def test_shards_are_one_file_per_array_and_do_not_touch_each_other(tmp_path):
    plan = ShardPlan(6, 2)
    table = one_column(tmp_path / "t.zarr", plan, "int64", (3,))
    for shard in plan:
        table.write(shard, {"values": np.full((2, 3), shard.index + 1)})
    files = sorted(p for p in (tmp_path / "t.zarr" / "values" / "c").rglob("*") if p.is_file())
    assert len(files) == 3
    before = files[1].read_bytes()
    table.write(plan[0], {"values": np.full((2, 3), 7)})
    assert files[1].read_bytes() == before


@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_flipped_byte_never_passes_and_never_surprises(tmp_path, data):
    plan = ShardPlan(4, 4)
    table = one_column(tmp_path / "t.zarr", plan, "float32", (8, 8))
    rows = {"values": values_of("float32", (4, 8, 8), 0)}
    digest = table.write(plan[0], rows)
    file = next(p for p in (tmp_path / "t.zarr" / "values" / "c").rglob("*") if p.is_file())
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    try:
        found = table.digest(plan[0])
    except ShardCorrupt:
        return
    if found == digest:  # a byte that carries nothing
        np.testing.assert_array_equal(table.read("values"), rows["values"])


@given(
    rows=st.integers(1, 13), more=st.integers(0, 9), shard_rows=st.integers(1, 6), data=st.data()
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_table_grows_by_metadata_and_new_shards_alone(tmp_path, rows, more, shard_rows, data):
    """Row i is the value i; shards are written whole, before the growth and after it."""
    plans = ShardPlan(rows, shard_rows), ShardPlan(rows + more, shard_rows)
    place = tmp_path / str(data.draw(st.uuids()))
    table, fresh = (
        one_column(place / name, plan, "int64", (2,))
        for name, plan in zip(("grown.zarr", "fresh.zarr"), plans, strict=True)
    )

    def full(shard):
        return {
            "values": np.arange(2 * shard.start, 2 * (shard.start + shard.capacity)).reshape(-1, 2)
        }

    def stored(folder):
        files = (p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}

    digests = [table.write(shard, full(shard)) for shard in plans[0]]
    np.testing.assert_array_equal(table.read("values")[:, 1], 1 + 2 * np.arange(rows))
    before = stored(table.path / "values" / "c")
    table.grow(rows + more)
    assert stored(table.path / "values" / "c") == before
    seen = min(rows + more, len(plans[0]) * shard_rows)
    np.testing.assert_array_equal(table.read("values")[:seen, 1], 1 + 2 * np.arange(seen))
    for shard in plans[1]:
        fresh.write(shard, full(shard))
        if shard.index >= len(plans[0]):
            table.write(shard, full(shard))
        else:
            whole = ShardPlan((shard.index + 1) * shard_rows, shard_rows)[shard.index]
            assert table.digest(whole) == digests[shard.index]
    bytes_of = [{k: v[1] for k, v in stored(t.path).items()} for t in (table, fresh)]
    assert bytes_of[0] == bytes_of[1]


def test_unwritten_floats_are_nan(tmp_path):
    plan = ShardPlan(4, 2)
    table = one_column(tmp_path / "t.zarr", plan, "float32", (2,))
    table.write(plan[1], {"values": np.ones((2, 2), np.float32)})
    assert np.isnan(table.read("values", slice(0, 2))).all()


def test_bundles_are_replaced_whole(tmp_path):
    path = tmp_path / "b.zarr.zip"
    write_bundle(path, {"old": (("x",), np.arange(3.0))}, {"rho": 0.5})
    write_bundle(path, {"new": (("x", "y"), np.eye(2))}, {"rho": 0.25})
    arrays, attributes = read_bundle(path)
    assert list(arrays) == ["new"]
    np.testing.assert_array_equal(arrays["new"], np.eye(2))
    assert attributes == {"rho": 0.25}
    assert [p.name for p in tmp_path.iterdir()] == ["b.zarr.zip"]
    before = path.read_bytes()
    write_bundle(path, {"new": (("x", "y"), np.eye(2))}, {"rho": 0.25})
    assert path.read_bytes() == before
    with ZipStore(path) as store:  # as anybody reads it
        assert xr.open_zarr(store).new.dims == ("x", "y")


def middle_shard(root: Path) -> Path:
    return root / "dataset.zarr" / "maps" / "c" / "1" / "0" / "0" / "0"


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_found_and_renewed(finished, unbroken, tiny, farfield, damage):
    file = middle_shard(finished)
    content = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content if damage == "flip" else content[:-7])
    answer = farfield("verify", finished)
    assert answer.code == 5
    assert "generate/00001" in answer.out
    assert RunStore(finished).state == "incomplete"
    kept = marks(finished)
    assert "receipts/generate/00001.json" not in kept
    make_run(tiny(), str(finished), call=but_validate)
    assert_equal(finished, unbroken)
    assert {name: marks(finished)[name] for name in kept} == kept
    assert farfield("verify", finished).code == 0


def but_validate(name, stage, run, settings):
    return "" if name == "validate" else stage(run, settings)


def test_verify_of_a_whole_run_checks_every_shard(unbroken):
    found = verify_run(RunStore(unbroken))
    assert found["checked"] == 3 + 1 + 3
    assert found["damaged"] == []


@pytest.mark.parametrize(
    ("table", "dims", "shape"),
    [
        ("targets", ("target", "channel", "y", "x"), (14, 1, SIZE, SIZE)),
        ("latents", ("row", "channel", "y", "x"), (7, 1, SIZE, SIZE)),
        ("dataset", ("sample", "channel", "y", "x"), (10, 1, SIZE, SIZE)),
    ],
)
def test_xarray_opens_tables_as_they_are(unbroken, table, dims, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(unbroken / f"{table}.zarr") as found:
            name = "latents" if table == "latents" else "maps"
            assert found[name].dims == dims
            assert found[name].shape == shape
            assert found[name].dtype == np.float32
            assert np.isfinite(found[name].values).all()
            for array in found.variables.values():
                assert array.attrs["long_name"]
                assert array.attrs["units"]


def test_the_data_set_says_that_it_is_synthetic(unbroken):
    with xr.open_zarr(unbroken / "dataset.zarr") as found:
        assert found.attrs["synthetic"] is True
        assert found.attrs["Conventions"].startswith("CF-")
