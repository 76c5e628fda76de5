"""The base that is shown examples: loaded, with and without them, and in runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ood_core as ff
from flows.runs.lifecycle import make_run, stored_settings
from flows.tools.replay import replay_sample
from ood_core.diffusion.denoiser import clean_from_output
from ood_core.errors import BaseModelError
from ood_core.models.in_context import (
    EXAMPLES,
    LOG_NOISE_RANGE,
    InContextDenoiser,
    InContextNetwork,
    Sizes,
    save_in_context,
)
from ood_core.models.loading import BaseModel, load_model
from ood_core.store.run import RunStore
from tests.fields import smooth_fields

SIZE = 16
WEIGHTS = "diffusion_pytorch_model.safetensors"


def untrained(seed: int = 0) -> InContextDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = InContextDenoiser(Sizes((8, 8, 16), vector=16, heads=2)).requires_grad_(False)
        for value in network.parameters():  # layers that begin at zero would hide what is shown
            value += 0.1 * torch.randn(value.shape)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("bases") / "shown"
    save_in_context(untrained(), SIZE, where, {"step": 0})
    return where


@pytest.fixture
def model(folder: Path) -> BaseModel:
    return load_model(str(folder))


def maps(n: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, SIZE, SIZE, generator=draw)


def network(model: BaseModel) -> InContextNetwork:
    found = model.denoiser.network
    assert isinstance(found, InContextNetwork)
    return found


def test_it_loads_as_any_base(model: BaseModel) -> None:
    assert (model.channels, model.size, model.size_multiple) == (1, SIZE, 4)
    assert (model.prediction, model.examples) == ("v_prediction", EXAMPLES)
    kept = untrained().state_dict()
    loaded = network(model).inner.state_dict()
    assert all(torch.equal(loaded[name], kept[name].half().float()) for name in kept)
    assert not any(p.requires_grad for p in network(model).parameters())


def test_without_examples_it_is_the_network_of_no_kind(model: BaseModel) -> None:
    x_t, t = maps(3), 400
    alpha, sigma = (
        float(row[t]) for row in (model.denoiser.schedule.alpha, model.denoiser.schedule.sigma)
    )
    inner = network(model).inner
    level = torch.full((3,), sigma / alpha).log()
    v = inner(x_t, level, inner.null_context(1))
    meant = clean_from_output(v, x_t, alpha, sigma, "v_prediction")
    torch.testing.assert_close(model.denoiser(x_t, t), meant, rtol=1e-4, atol=1e-5)
    shown = model.denoiser(x_t, t, *model.show(maps(4, 1), root=1))
    assert (shown - meant).abs().max() > 1e-3


def test_one_index_for_all_maps_or_one_for_each(model: BaseModel) -> None:
    x_t = maps(2)
    both = network(model)(x_t, torch.tensor([10, 700])).sample
    for row, t in enumerate((10, 700)):
        alone = network(model)(x_t[row : row + 1], t).sample
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_it_is_never_asked_beyond_the_noise_that_it_was_trained_at(model: BaseModel) -> None:
    asked = network(model).get_buffer("log_noise")
    low, high = LOG_NOISE_RANGE
    assert asked.min() == low and asked.max() == high
    ratio = (model.denoiser.schedule.sigma / model.denoiser.schedule.alpha).log().float()
    inside = (ratio > low) & (ratio < high)
    assert torch.equal(asked[inside], ratio[inside])


def test_the_root_decides_which_maps_are_shown(model: BaseModel) -> None:
    def vector(some: torch.Tensor, root: int) -> torch.Tensor:
        (context,) = model.show(some, root)
        found: torch.Tensor = context.vector
        return found

    many, few = maps(40), maps(EXAMPLES)
    assert torch.equal(vector(many, 5), vector(many, 5))
    assert not torch.equal(vector(many, 5), vector(many, 6))
    assert torch.equal(vector(few, 5), vector(few, 6))  # all of them, in their own order
    assert torch.equal(vector(few, 5), network(model).context(few).vector)


def test_other_bases_are_shown_nothing(base: Path) -> None:
    assert load_model(str(base)).show(maps(20), 1) == ()


def spoiled(folder: Path, to: Path, **changes: Any) -> str:
    to.mkdir()
    config = json.loads((folder / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    (to / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    return str(to)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"widths": [8, 16, 16], "vector": 16, "heads": 2}, "do not fit"),
        ({"widths": [2**20] * 3, "vector": 16, "heads": 2}, "do not fit"),
        ({"widths": [8, 8], "vector": 16, "heads": 2}, "make no base"),
        ({"widths": [8, 8, 16], "vector": 16, "heads": 0}, "make no base"),
    ],
)
def test_sizes_of_another_network_are_refused(
    folder: Path, tmp_path: Path, sizes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BaseModelError, match=words):
        load_model(spoiled(folder, tmp_path / "other", sizes=sizes))


def test_damaged_weights_are_refused_and_others_have_another_digest(
    folder: Path, tmp_path: Path, model: BaseModel
) -> None:
    same = Path(spoiled(folder, tmp_path / "copy", step=7))
    assert load_model(str(same)).digest == model.digest
    save_in_context(untrained(1), SIZE, tmp_path / "other", {})
    assert load_model(str(tmp_path / "other")).digest != model.digest
    (same / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(BaseModelError, match="cannot read"):
        load_model(str(same))


def test_channels_and_sides_of_any_number_are_shown_and_seen(model: BaseModel) -> None:
    """Each channel is seen by itself, and maps are mirrored beyond their borders."""
    maps = torch.from_numpy(smooth_fields(20).reshape(10, 2, SIZE, SIZE))[..., :-1]
    (shown,) = model.show(maps, root=0)
    x_t = torch.randn(2, 2, SIZE, SIZE - 1, generator=torch.Generator().manual_seed(1))
    made = model.denoiser(x_t, 300, shown)
    mirrored = torch.cat([x_t, x_t[..., -2:-1]], dim=-1)[:, 1:]
    alone = model.denoiser(mirrored, 300, shown)[..., :-1]
    torch.testing.assert_close(made[:, 1:], alone, rtol=0, atol=1e-5)  # rounding
    assert not torch.allclose(made[:, :1], alone, atol=1e-2)  # negative control


def test_samples_are_the_same_in_memory_in_shards_and_replayed(
    folder: Path, model: BaseModel, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """The negative control: a base that is not shown the targets makes other maps."""
    settings = tiny(base=str(folder))
    make_run(settings, str(tmp_path / "run"))
    run = RunStore(tmp_path / "run")
    stored = run.table("generate").read("maps")
    targets = ff.TargetSet.of(settings.targets)
    synth = ff.Synthesizer(model, settings.method, batch=4).fit(targets, progress=False)
    assert synth.identity == run.record["identity"]
    assert synth.trust().evaluations["base"] > 0
    assert synth.sample(10, progress=False).tobytes() == stored.tobytes()
    again = replay_sample(run, stored_settings(run), 9, False, None)
    assert (again["outcome"], again["difference_in_std"]) == ("equal", 0.0)
    synth.save(tmp_path / "kept.npz")
    loaded = ff.Synthesizer.load(tmp_path / "kept.npz", model, batch=4)
    assert loaded.sample(4, progress=False).tobytes() == stored[:4].tobytes()
    unshown = ff.Synthesizer(replace(model, examples=0), settings.method, batch=4)
    other = unshown.fit(targets, progress=False).sample(4, progress=False)
    assert abs(other - stored[:4]).max() > 1e-3 * stored.std()
