"""Target sets: one split, one transform, one check, and what makes them refuse maps."""

import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ood_core.errors import ConfigError, TargetError, TargetWarning
from ood_core.maps.mapset import MapSet, numbered_ids
from ood_core.maps.target_set import TargetSet, common_transform
from ood_core.maps.transforms import RangeTransform
from ood_core.models.loading import BaseModel
from tests.fields import smooth_fields

FIELDS = smooth_fields(12)


def model(**more: Any) -> BaseModel:
    """A base of 16 px, of which nothing but its sizes is looked at."""
    given = {"channels": 1, "size": 16, "size_multiple": 4, "source": "models/tiny"} | more
    rest: Any = {"denoiser": None, "digest": "", "parameters": 0, "prediction": "", "rulings": ()}
    return BaseModel(**rest, **given)


CODES: Any = SimpleNamespace(factor=2)


def made(values: Any = FIELDS, **options: Any) -> TargetSet:
    return TargetSet.from_arrays(values, **{"source": "mine", **options})


def test_arrays_become_a_set() -> None:
    targets = made(unit="K", symmetries=["flip"], held_out=5)
    assert targets.values.shape == (12, 1, 16, 16)
    assert (len(targets), targets.fit_count, targets.shape) == (12, 7, (1, 16, 16))
    assert (targets.unit, targets.symmetries) == ("K", ("flip",))
    assert targets.ids[:2] == ("map:0", "map:1")
    np.testing.assert_array_equal(targets.fit[:, 0], FIELDS[:7])
    np.testing.assert_array_equal(targets.held_out[:, 0], FIELDS[7:])
    with pytest.raises(FrozenInstanceError):
        targets.unit = "Jy"  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["linear", "log", "asinh"])
def test_the_transform_is_measured_on_the_fit_split_alone(kind: Any) -> None:
    values = FIELDS.copy()
    values[6:] *= 50
    targets = made(values, transform=kind)
    assert targets.transform == RangeTransform.measure(kind, values[:6])
    expected = targets.transform.forward(values[:, None])
    np.testing.assert_array_equal(targets.model_range.numpy(), expected)
    assert targets.fit_ranged.equal(targets.model_range[:6])
    assert targets.held_out_ranged.equal(targets.model_range[6:])
    assert targets.ranged(targets.values).equal(targets.model_range)
    back = targets.physical(targets.model_range)
    np.testing.assert_allclose(back, targets.values, rtol=1e-5)


def test_files_and_arrays_give_the_same_set(tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", FIELDS)
    read = TargetSet.read(str(tmp_path / "map.npy"), transform="asinh", held_out=4)
    assert read.digest() == made(transform="asinh", held_out=4).digest()
    assert read.transform == made(transform="asinh", held_out=4).transform


def test_the_digest_is_of_the_maps_and_not_of_what_is_declared() -> None:
    maps = MapSet(FIELDS[:, None], numbered_ids("map", 12), "", "", "elsewhere")
    assert made().digest() == maps.digest()
    assert made(held_out=4, transform="log", symmetries=("flip",)).digest() == maps.digest()
    assert made(unit="K").digest() != maps.digest()


def test_codes_are_what_a_latent_model_sees() -> None:
    targets = made(held_out=5)
    assert targets.fit_seen.equal(targets.fit_ranged)
    assert targets.encoded(None) is targets
    coded = targets.encoded(lambda maps: maps[..., ::2, ::2])
    assert coded.fit_seen.equal(targets.fit_ranged[..., ::2, ::2])
    assert coded.codes is not None and len(coded.codes) == 12


def test_quantization_is_that_of_the_exact_fit_values() -> None:
    targets = made(np.round(100 * FIELDS))
    assert targets.quantization.found[0]["step"] == 1
    noisy = targets.values + np.float32(0.2)
    np.testing.assert_array_equal(targets.quantization(noisy), targets.values)


def test_one_transform_for_several_sets_is_of_all_fit_splits() -> None:
    sets = [made(), made(3 * FIELDS)]
    pooled = np.concatenate([FIELDS[:6], 3 * FIELDS[:6]])
    assert common_transform(sets) == RangeTransform.measure("linear", pooled[:, None])


def changed(value: float) -> Any:
    values = FIELDS.astype(np.float64)
    values[1, 2, 3] = value
    return values


def constant() -> Any:
    values = FIELDS.copy()
    values[2] = 7
    return values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (FIELDS[:7], "got 7 maps, split into 3 to fit and 4 held out; expected at least 4 of each"),
        (changed(np.nan), r"got 1 NaN.* in 1 of 12 maps \(map:1 .*missing\.fill"),
        (changed(-np.inf), r"got 1 infinite .*\(map:1\)"),
        (changed(1e40), r"got 1 infinite .*\(map:1\)"),
        (constant(), r"got 1 constant maps \(map:2\).*leave them out"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(values: Any, words: str) -> None:
    with pytest.raises(TargetError, match=rf"^mine: {words}"):
        made(values)


@pytest.mark.parametrize("where", [0, 11])
def test_a_logarithm_needs_positive_values_in_both_splits(where: int) -> None:
    values = FIELDS.copy()
    values[where, 0, 0] = -1
    with pytest.raises(TargetError, match="^mine: .*positive values only; use the transform asinh"):
        made(values, transform="log")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"symmetries": "flip"}, "symmetries: got 'f', 'l', 'i', 'p'; expected some of flip"),
        ({"symmetries": ["mirror"]}, "got 'mirror'; expected some of flip, rotate90"),
        ({"transform": "sqrt"}, "transform: got 'sqrt'; expected one of linear, log"),
        ({"held_out": 12}, "split into 0 to fit"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        made(**options)
    with pytest.raises(ConfigError, match="held_out"):
        made(held_out=-1)


def test_a_held_out_map_identical_to_a_fitted_one_is_refused() -> None:
    values = FIELDS.copy()
    values[9] = values[2]
    with pytest.raises(TargetError, match=r"^mine: got 1 held-out maps identical .*map:2 = map:9"):
        made(values)


def test_negative_zero_does_not_hide_a_copy() -> None:
    values = FIELDS.copy()
    values[2, 0, 0], values[9] = 0.0, values[2]
    values[9, 0, 0], values[2, 0, 0] = -0.0, 0.0
    values[9, 0, 1:] = values[2, 0, 1:]
    with pytest.raises(TargetError, match=r"map:2 = map:9"):
        made(values)


@pytest.mark.parametrize("pair", [(1, 4), (8, 11)])
def test_copies_within_a_split_are_named_and_kept(pair: tuple[int, int]) -> None:
    values = FIELDS.copy()
    values[pair[1]] = values[pair[0]]
    with pytest.warns(TargetWarning, match=rf"map:{pair[0]} = map:{pair[1]}.*give each map once"):
        targets = made(values)
    assert len(targets) == 12 and len(targets.notes) == 1


def test_different_maps_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made().notes == ()


@pytest.mark.parametrize(("offset", "warned"), [(2.0**20, False), (2.0**24, True)])
def test_an_offset_that_float32_cannot_hold_is_noticed(offset: float, warned: bool) -> None:
    """Steps are 1/8 and 2 there, of a spread of 40; a constant channel has none to lose."""
    maps = np.stack([offset + 40 * FIELDS / FIELDS.std(), np.full_like(FIELDS, 0.1)], axis=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        notes = TargetSet.from_arrays(maps).notes
    assert any("float32 has steps of 2" in note for note in notes) == warned
    assert any("subtract an offset" in str(one.message) for one in told) == warned


def test_a_set_fits_a_model() -> None:
    made().check()
    model().check(made())
    model().check(made(np.stack([FIELDS, FIELDS], axis=1)))  # each channel by itself
    model(codes=CODES).check(made(smooth_fields(12).repeat(2, 1).repeat(2, 2)))


@pytest.mark.parametrize(
    ("values", "base", "words"),
    [
        (FIELDS.reshape(12, 2, 8, 16), model(channels=3), "2 channels; expected 3.*another base"),
        (FIELDS.reshape(12, 2, 8, 16), model(codes=CODES), "2 channels; expected 1.*another base"),
        (FIELDS, model(size_multiple=32), "16 x 16 px; expected more than 16 px a side"),
        (FIELDS[:, :14, :14], model(codes=CODES), "14 x 14 px; expected .* multiples of 4 px"),
        (FIELDS, model(size=32, fixed_size=True), "16 x 16 px; expected 32 x 32 .*models/tiny"),
        (FIELDS[:, :8], model(), "8 x 16 px; expected at least 16 px a side"),
        (FIELDS[:, :12, :12], None, "12 x 12 px; expected at least 16 px a side"),
        (FIELDS, model(codes=CODES), "16 x 16 px; expected at least 32 px a side"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(
    values: Any, base: BaseModel | None, words: str
) -> None:
    with pytest.raises(TargetError, match=rf"^mine: got .*{words}"):
        made(values).check() if base is None else base.check(made(values))


def test_oblong_maps_fit_unless_they_may_be_turned() -> None:
    tall = np.concatenate([FIELDS, FIELDS[:, :5]], axis=1)
    model(size_multiple=8).check(made(tall, symmetries=["flip"]))
    with pytest.raises(TargetError, match="21 x 16 px; expected .* squares where .* rotate90"):
        model().check(made(tall, symmetries=["rotate90"]))


def test_tensors_are_arrays_too() -> None:
    np.testing.assert_array_equal(made(torch.from_numpy(FIELDS)).values, made().values)


def test_a_constant_channel_is_noticed_and_restored_exactly() -> None:
    values = np.stack([FIELDS, np.full_like(FIELDS, 0.3)], axis=1)
    with pytest.warns(TargetWarning, match="channel 1 is 0.3 in all fitted maps"):
        targets = made(values)
    noisy = targets.model_range + 1e-3 * torch.randn(targets.model_range.shape)
    assert (targets.physical(noisy)[:, 1] == np.float32(0.3)).all()
    assert not (targets.physical(noisy)[:, 0] == values[:, 0]).all()
    assert made().constant_channels == {}
    assert targets.physical(noisy[0]).shape == (2, 16, 16)


def test_the_record_holds_what_changes_results_in_any_order_of_symmetries() -> None:
    targets = made(symmetries=["rotate90", "flip"], transform="asinh", held_out=5)
    assert targets.record() == {
        "digest": targets.digest(),
        "transform": "asinh",
        "symmetries": ["flip", "rotate90"],
        "fit_count": 7,
    }
    assert (
        targets.record()
        == made(symmetries=["flip", "rotate90"], transform="asinh", held_out=5).record()
    )
