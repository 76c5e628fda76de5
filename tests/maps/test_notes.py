"""Pixels of different sizes are told of."""

from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from ood_core.maps.target_set import TargetSet
from tests.fields import smooth_fields

pytestmark = pytest.mark.filterwarnings("ignore::ood_core.errors.TargetWarning")


@pytest.mark.parametrize(
    ("cards", "told"),
    [
        ({}, False),
        ({"CDELT1": -0.1}, False),
        ({"CDELT1": 0.1004}, False),
        ({"CDELT1": 0.25}, True),
        ({"CD1_1": -0.06, "CD2_1": 0.08}, False),  # turned: the length is 0.1
        ({"CD1_1": -2e-1, "CD2_1": 0.0}, True),
        ({"CDELT1": "wide"}, False),
    ],
)
def test_pixels_of_different_sizes(tmp_path: Path, cards: dict[str, Any], told: bool) -> None:
    """Seven files of 0.1 degrees a pixel, and one of another header."""
    for number, field in enumerate(smooth_fields(8)):
        hdu = fits.PrimaryHDU(field)
        hdu.header.update(cards if number == 3 else {"CDELT1": 0.1})
        hdu.writeto(tmp_path / f"m{number}.fits")
    notes = TargetSet.read(str(tmp_path)).notes
    assert any("pixels have sizes from 0.1 to 0.2" in note for note in notes) == told
