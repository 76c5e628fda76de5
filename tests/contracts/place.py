"""What every place must do for the store; subclasses give a fixture `place`, not there yet."""

import pickle
from threading import Barrier, Thread

import numpy as np
import pytest

from ood_core.store.arrays import Column, Table
from ood_core.store.bundle import read_bundle, write_bundle
from ood_core.store.files import (
    exists,
    move,
    names,
    read_bytes,
    read_json,
    remove,
    remove_tree,
    sweep,
    write_atomic,
    write_json,
    write_new,
    written,
)
from ood_core.store.place import each, place_at
from ood_core.store.plan import ShardPlan

WRITERS = 8


class PlaceContract:
    def test_bytes_come_back_and_are_replaced_whole(self, place):
        for content in (b"old", b"", bytes(range(256)) * 400):
            write_atomic(place / "a" / "file", content)
            assert read_bytes(place / "a" / "file") == content
        assert names(place / "a") == ["file"]

    def test_what_is_not_there_is_told(self, place):
        assert not exists(place / "run.json")
        assert names(place) == []
        with pytest.raises(FileNotFoundError):
            read_bytes(place / "run.json")
        write_atomic(place / "run.json.old", b"")
        write_atomic(place / "more" / "run.json", b"")
        assert not exists(place / "run.json")
        assert not exists(place / "more")

    def test_removing_takes_one_file_or_one_folder(self, place):
        kept = ("receipts2/1", "receipts.json", "a/receipts/1")
        for name in ("receipts/1", "receipts/deep/2", *kept):
            write_atomic(place / name, b"x")
        remove_tree(place / "receipts")
        remove(place / "a" / "none")
        assert names(place / "receipts") == [] == names(place / "receipts" / "deep")
        assert all(exists(place / name) for name in kept)
        remove(place / "receipts.json")
        assert not exists(place / "receipts.json")
        remove_tree(place / "never")

    def test_of_many_that_make_a_file_one_does(self, place):
        """Every content is another one, and what is stored is the winner's, whole."""
        for turn in range(3):
            path, barrier, won = place / "lease" / str(turn), Barrier(WRITERS), []

            def make(number, path=path, barrier=barrier, won=won):
                barrier.wait()
                if write_new(path, bytes([number]) * 9000):
                    won.append(number)

            threads = [Thread(target=make, args=(number,)) for number in range(WRITERS)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            assert len(won) == 1
            assert read_bytes(path) == bytes(won) * 9000

    def test_a_new_name_takes_the_content_along(self, place):
        write_atomic(place / "1.json", b"held")
        move(place / "1.json", place / "1.free")
        assert names(place) == ["1.free"]
        assert read_bytes(place / "1.free") == b"held"

    def test_records_come_back(self, place):
        write_json(place / "record.json", {"µ": [1, None, 0.1]})
        assert read_json(place / "record.json") == {"µ": [1, None, 0.1]}

    def test_the_time_of_the_last_file_rises(self, place):
        write_atomic(place / "t" / "1", b"")
        first = max(written(place / "t").values())
        write_atomic(place / "t" / "2", b"")
        assert 1.7e9 < first <= max(written(place / "t").values())

    def test_a_place_is_known_by_its_address_here_and_in_any_process(self, place):
        write_atomic(place / "x", b"1")
        for same in (
            place_at(str(place)),
            pickle.loads(pickle.dumps(place)),
        ):
            assert same == place
            assert read_bytes(same / "x") == b"1"
        assert (place / "a" / "b").name == "b"
        assert (place / "a" / "b").parent == place / "a"
        assert str(place / "a" / "b") == f"{place}/a/b"

    def test_each_keeps_the_order(self, place):
        assert each(place, lambda x: -x, range(100)) == [-x for x in range(100)]

    def test_sweeping_takes_no_finished_file(self, place):
        write_atomic(place / "a" / "file", b"x")
        sweep(place)
        assert names(place / "a") == ["file"]

    def test_a_table_keeps_its_rows(self, place):
        plan, columns = ShardPlan(5, 2), [Column("x", ("i",), (3,), "float32", "a number")]
        table = Table.create(place / "t.zarr", "row", 5, 2, columns, {"about": "it"})
        rows = np.arange(18, dtype=np.float32).reshape(6, 3) + 1
        for shard in plan:
            part = {"x": rows[shard.start : shard.start + shard.capacity]}
            assert table.write(shard, part) == table.write(shard, part)
        assert table.exists and not Table(place / "u.zarr").exists
        assert table.attributes["about"] == "it"
        assert names(place) == [] or names(place) == ["t.zarr"]  # no group around it
        np.testing.assert_array_equal(table.read("x"), rows[:5])
        table.grow(6)
        np.testing.assert_array_equal(Table(place / "t.zarr").read("x"), rows)

    def test_a_table_made_again_has_nothing_of_the_old_one(self, place):
        columns = [Column(name, (), (), "float32", "a number") for name in ("x", "y")]
        ones = {name: np.ones(2, np.float32) for name in ("x", "y")}
        Table.create(place / "t.zarr", "row", 2, 2, columns, {}).write(ShardPlan(2, 2)[0], ones)
        table = Table.create(place / "t.zarr", "row", 2, 2, columns[:1], {})
        assert [name for name, _ in table.arrays()] == ["x"]
        assert np.isnan(table.read("x")).all()

    def test_a_bundle_comes_back_and_is_replaced(self, place):
        path, old = place / "prior.zarr.zip", {"mean": (("y", "x"), np.ones((4, 3)))}
        assert not exists(path)
        write_bundle(path, {**old, "more": (("z",), np.zeros(2))}, {"rho": 0.5})
        write_bundle(path, {"mean": (("y", "x"), np.full((4, 3), 7.0))}, {"rho": 0.1})
        assert exists(path)
        arrays, attributes = read_bundle(path)
        assert attributes == {"rho": 0.1}
        assert list(arrays) == ["mean"]
        np.testing.assert_array_equal(arrays["mean"], np.full((4, 3), 7.0))
