"""Maps from memory keep their masks and units."""

from collections.abc import Callable
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from astropy.nddata import CCDData, NDData

from ood_core.config.targets import MissingSpec
from ood_core.errors import TargetError
from ood_core.maps.target_set import TargetSet
from tests.fields import smooth_fields

pytestmark = pytest.mark.filterwarnings("ignore::ood_core.errors.TargetWarning")
MAPS = smooth_fields(8)
HOLES = np.zeros(MAPS.shape, bool)
HOLES[2, 3, 4] = HOLES[5, :2, 0] = True
FILL = MissingSpec(fill="nearest")


@pytest.mark.parametrize(
    ("values", "unit", "holes"),
    [
        (np.ma.masked_array(MAPS, HOLES), "", HOLES),
        (np.ma.masked_array((100 * MAPS).astype("i2"), HOLES), "", HOLES),
        (MAPS * u.Jy, "Jy", None),
        (NDData(MAPS, unit="mJy", mask=HOLES), "mJy", HOLES),
        ([CCDData(m, unit="adu", mask=h) for m, h in zip(MAPS, HOLES, strict=True)], "adu", HOLES),
        (xr.DataArray(MAPS, dims=("n", "y", "x"), attrs={"units": "K"}), "K", None),
    ],
)
def test_masks_and_units_are_kept(values: Any, unit: str, holes: Any) -> None:
    found = TargetSet.from_arrays(values, missing=FILL)
    assert found.unit == unit
    scale = 100 if getattr(values, "dtype", None) == np.int16 else 1
    expected = (scale * MAPS).astype("i2") if scale > 1 else MAPS
    expected = expected if holes is None else np.where(holes, np.nan, expected)
    np.testing.assert_array_equal(found.known[:, 0], expected.astype("f4"))


def test_a_mask_without_a_rule_is_refused() -> None:
    with pytest.raises(TargetError, match="got 3 NaN pixels in 2 of 8 maps"):
        TargetSet.from_arrays(np.ma.masked_array(MAPS, HOLES))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"values": [MAPS[0], MAPS[1, :8]]}, "maps of one shape"),
        (lambda: {"values": [MAPS[0] * u.Jy, MAPS[1] * u.mJy]}, "'Jy' and 'mJy'; expected one"),
        (lambda: {"values": MAPS * u.Jy, "unit": "K"}, "'Jy' and the unit 'K'; expected one"),
    ],
)
def test_what_does_not_go_together_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        TargetSet.from_arrays(**make())
