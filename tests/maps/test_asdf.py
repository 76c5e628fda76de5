"""ASDF files, as asdf writes them."""

from pathlib import Path

import asdf
import numpy as np
import pytest

from ood_core.errors import TargetError
from ood_core.limits import USUAL, Limits
from ood_core.maps.readers import read_maps

FIELDS = np.random.default_rng(0).normal(size=(5, 16, 20))


def written(path: Path, tree: dict, **options: object) -> str:
    asdf.AsdfFile(tree).write_to(path, **options)
    return str(path)


@pytest.mark.parametrize("kind", ["f4", "f8", ">f4", "i2", "u1"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzp2"])
def test_the_only_array_is_read(tmp_path: Path, kind: str, compression: str | None) -> None:
    values = np.round(50 * FIELDS + 100).clip(0, 255).astype(kind)
    path = written(tmp_path / "m.asdf", {"a": {"b": values}}, all_array_compression=compression)
    maps = read_maps(path, None, USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], values.astype("f4"))
    assert maps.ids[1] == "m:1"


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_masked_pixels_are_missing(tmp_path: Path, kind: str) -> None:
    values, bad = (100 * FIELDS).astype(kind), FIELDS > 1
    path = written(tmp_path / "m.asdf", {"a": np.ma.array(values, mask=bad)})
    expected = np.where(bad, np.nan, values.astype("f4"))
    np.testing.assert_array_equal(read_maps(path, None, USUAL).values[:, 0], expected)


def test_one_of_several_by_its_path_and_the_unit_beside_it(tmp_path: Path) -> None:
    """As in files of the Roman telescope."""
    roman = {"data": {"value": FIELDS, "unit": "DN / s"}, "err": 0.1 * FIELDS, "name": "x"}
    path = written(tmp_path / "r.asdf", {"roman": roman, "list": [1, 2]})
    with pytest.raises(TargetError, match=r"arrays \[roman/data, roman/err\]"):
        read_maps(path, None, USUAL)
    maps = read_maps(path, "roman/data", USUAL)
    np.testing.assert_array_equal(maps.values[:, 0], FIELDS.astype("f4"))
    assert maps.unit == "DN / s"


def test_damage_size_and_other_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.asdf", {"a": FIELDS})
    with pytest.raises(TargetError, match="max_bytes"):
        read_maps(path, None, Limits(max_bytes=1000))
    content = Path(path).read_bytes()
    for cut in (len(content) // 2, 200):
        (tmp_path / "cut.asdf").write_bytes(content[:cut])
        with pytest.raises(TargetError, match=r"cut\.asdf: got"):
            read_maps(str(tmp_path / "cut.asdf"), None, USUAL)
    outside = written(tmp_path / "o.asdf", {"a": FIELDS}, all_array_storage="external")
    with pytest.raises(TargetError, match="lie in another file"):
        read_maps(outside, None, USUAL)
