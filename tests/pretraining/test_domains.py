"""Training domains: functions of seed and batch number, in model range, of the stated kinds."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ood_core.config.pretraining import Domain, PretrainSpec
from ood_core.errors import ConfigError, InputError
from ood_core.pretraining import domains
from ood_core.pretraining.domains import DOMAINS, cut_outs, random_fields, training_stream


def recipe(**more: object) -> PretrainSpec:
    return PretrainSpec(
        **{"name": "x", "size": 16, "widths": (16, 16), "attention": (False, False), **more}
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A ramp to the right, with black margins of a quarter at top and bottom."""
    ramp = np.tile(np.linspace(0, 255, 96), (64, 1))
    ramp[:16] = ramp[48:] = 0
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path


def test_random_fields_are_a_function_of_root_and_batch() -> None:
    maps = random_fields(1, 2, 6, 16)
    torch.manual_seed(9)
    assert torch.equal(maps, random_fields(1, 2, 6, 16))
    assert not torch.isclose(maps, random_fields(1, 3, 6, 16)).all()


def test_random_fields_fill_model_range_with_many_contrasts() -> None:
    maps = random_fields(5, 0, 64, 32)
    assert (maps.shape, maps.dtype) == ((64, 1, 32, 32), torch.float32)
    assert bool(maps.isfinite().all())
    spans = maps.amax((1, 2, 3)) - maps.amin((1, 2, 3))
    assert float(maps.abs().max()) <= 1.5  # noise is added after the range is known
    assert float(spans.min()) < 0.5
    assert float(spans.max()) > 1.5


def test_random_fields_are_not_all_gaussian() -> None:
    """Excess kurtosis of 1,024 Gaussian pixels scatters by sqrt(24 / 1024) = 0.15."""
    flat = random_fields(6, 0, 64, 32).flatten(1)
    standard = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    kurtosis = (standard**4).mean(1) - 3
    assert int((kurtosis > 1).sum()) > 16
    assert int((kurtosis.abs() < 0.6).sum()) > 4


def test_cut_outs_are_turned_pieces_of_the_image() -> None:
    """A linear ramp stays linear under cuts, averages, turns, contrast and offset."""
    ramp = torch.linspace(0, 1, 96).expand(64, 96)
    maps = cut_outs(ramp, 1, 0, 32, 16)
    steps_x, steps_y = maps.diff(dim=3), maps.diff(dim=2)
    for dx, dy in zip(steps_x, steps_y, strict=True):
        flat = min(float(dx.abs().max()), float(dy.abs().max()))
        slope = max((dx, dy), key=lambda d: float(d.abs().max()))
        assert flat < 1e-5
        assert float(slope.std()) < 1e-4 * (1 + float(slope.abs().max()))
    turned = [bool(d.abs().max() > 1e-5) for d in steps_y]
    assert any(turned)
    assert not all(turned)


def test_cut_outs_of_a_small_image_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        cut_outs(torch.zeros(8, 40), 0, 0, 1, 16)


def test_the_margin_of_a_mosaic_is_left_out(image: Path) -> None:
    """Inside the margins the image is a pure ramp; with them, cuts hold black rows as well."""
    inside = training_stream(recipe(domains=("mosaic",), mosaic=str(image), mosaic_margin=0.25))(0)
    whole = training_stream(recipe(domains=("mosaic",), mosaic=str(image)))(0)

    def smallest_change(maps: torch.Tensor) -> torch.Tensor:
        rows, columns = maps.diff(dim=2).abs(), maps.diff(dim=3).abs()
        return torch.minimum(rows.amax((1, 2, 3)), columns.amax((1, 2, 3)))

    assert float(smallest_change(inside).max()) < 1e-5
    assert float(smallest_change(whole).max()) > 0.1


def test_several_domains_share_a_batch_equally(image: Path) -> None:
    spec = recipe(
        domains=("dead_leaves", "random_fields", "mosaic"), mosaic=str(image), batch=12, size=16
    )
    maps = training_stream(spec)(3)
    alone = training_stream(recipe(domains=("random_fields",), batch=4))(3)
    assert maps.shape == (12, 1, 16, 16)
    assert torch.equal(maps[4:8], alone)


def test_names_and_table_agree() -> None:
    assert set(DOMAINS) == set(get_args(Domain))


def test_a_domain_that_is_not_in_the_table_is_refused_and_not_taken_for_the_mosaic(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = recipe(domains=("brand_new", "mosaic"), mosaic=str(image))
    with pytest.raises(InputError, match="domains: got brand_new; expected dead_leaves"):
        training_stream(spec)
    grey = {"brand_new": lambda spec: lambda batch, n: torch.zeros(n, 1, spec.size, spec.size)}
    monkeypatch.setattr(domains, "DOMAINS", DOMAINS | grey)
    half = training_stream(spec)(0)
    assert not half[: spec.batch // 2].any() and bool(half[spec.batch // 2 :].any())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": ("mosaic",)}, "give an image"),
        ({"mosaic": "x.png"}, "only then"),
        ({"domains": ("dead_leaves", "random_fields"), "batch": 7}, "multiple of the 2 domains"),
        ({"domains": ()}, "domains"),
        ({"patch": 3}, "multiple of 6"),
        ({"mosaic_margin": 0.5}, "mosaic_margin"),
    ],
)
def test_impossible_recipes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**fields)


def test_an_unreadable_or_small_mosaic_is_refused(tmp_path: Path, image: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (text, tmp_path / "missing.png"):
        with pytest.raises(InputError, match="expected an image file"):
            training_stream(recipe(domains=("mosaic",), mosaic=str(path)))
    with pytest.raises(InputError, match="inside its margins"):
        training_stream(recipe(domains=("mosaic",), mosaic=str(image), mosaic_margin=0.4, size=16))
