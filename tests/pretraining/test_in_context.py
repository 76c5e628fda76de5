"""The denoiser that is shown examples, and its training: sets, sizes, resumption, export."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ood_core.errors import InputError
from ood_core.models.in_context import Context, InContextDenoiser, InContextNetwork, Sizes
from ood_core.models.loading import load_model
from ood_core.pretraining.in_context_batches import (
    Blocks,
    InContextSpec,
    block_of,
    draw_block,
    make_batch,
)
from ood_core.pretraining.in_context_trainer import (
    CHECKPOINT,
    CONSTANT,
    LOG,
    End,
    State,
    export,
    latest,
    learn,
    learning_rate,
    main,
    resume,
    save,
    start,
    train,
)
from ood_core.pretraining.in_context_validation import validate, validation_groups

TINY = Sizes((8, 8, 16), vector=16, heads=2)
SPEC = InContextSpec(
    seed=5, sizes=TINY, size=8, kinds=2, maps=3, fewest=1, most=4, block=4, passes=2, warm_up=2
)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums in another order, single precision


@pytest.fixture(scope="module")
def network() -> InContextDenoiser:
    torch.manual_seed(0)
    net = InContextDenoiser(TINY).eval().requires_grad_(False)
    for value in net.parameters():  # layers that begin at zero would hide what they look at
        value += 0.2 * torch.randn(value.shape)
    return net


def noised(maps: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(maps)
    return torch.randn(maps, 1, size, size, generator=draw), torch.linspace(-3, 3, maps)


def examples(kinds: int, each: int, size: int = 16) -> torch.Tensor:
    draw = torch.Generator().manual_seed(100 + kinds)
    return torch.randn(kinds, each, 1, size, size, generator=draw)


def rows(context: Context, kind: int) -> Context:
    part = slice(kind, kind + 1)
    return Context(context.fine[part], context.coarse[part], context.vector[part])


def test_examples_are_a_set(network: InContextDenoiser) -> None:
    x, level = noised(3)
    shown = examples(1, 5)
    v = network(x, level, network.context(shown))
    turned = network(x, level, network.context(shown[:, [3, 0, 4, 2, 1]]))
    torch.testing.assert_close(v, turned, **CLOSE)
    other = network(x, level, network.context(shown[:, :4]))
    assert not torch.allclose(v, other, atol=1e-3)


def test_a_map_depends_on_its_own_kind_alone(network: InContextDenoiser) -> None:
    x, level = noised(6)
    context = network.context(examples(2, 4))
    together = network(x, level, context)
    for kind in range(2):
        for row in range(3 * kind, 3 * kind + 3):
            alone = network(x[row : row + 1], level[row : row + 1], rows(context, kind))
            torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)


def test_without_examples(network: InContextDenoiser) -> None:
    x, level = noised(4)
    unshown = network(x, level, network.null_context(2))
    torch.testing.assert_close(unshown, network(x, level, network.null_context(1)), **CLOSE)
    shown = network(x, level, network.context(examples(2, 3)))
    assert not torch.allclose(unshown, shown, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (12, 20), (32, 32), (48, 48)])
def test_any_size(network: InContextDenoiser, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 1, *shape)
    v = network(x, torch.zeros(2), network.context(examples(1, 2, 16)))
    assert v.shape == x.shape and torch.isfinite(v).all()


def test_wrong_shapes_are_refused(network: InContextDenoiser) -> None:
    context = network.context(examples(2, 2))
    with pytest.raises(ValueError, match="divisible by 4"):
        network(torch.zeros(2, 1, 10, 10), torch.zeros(2), context)
    with pytest.raises(ValueError, match="divisible by 4"):
        network.context(torch.zeros(1, 2, 1, 6, 6))
    with pytest.raises(ValueError, match="as many of each"):
        network(torch.zeros(3, 1, 8, 8), torch.zeros(3), context)
    with pytest.raises(ValueError, match="expected multiples"):
        Sizes((12, 16, 16))


def test_the_shipped_size_is_small() -> None:
    count = sum(value.numel() for value in InContextDenoiser().parameters())
    assert 1.5e6 < count < 3e6
    assert 2 * count < 25e6  # bytes, in half precision


def test_every_parameter_learns() -> None:
    state = start(SPEC)
    for value in state.network.parameters():
        value.data += 0.1 * torch.randn(value.shape)
    shown = next(b for s in range(9) if (b := make_batch(SPEC, s, draw_block(SPEC, 0))).shown)
    learn(state, shown, 0)
    idle = {name for name, value in state.network.named_parameters() if value.grad is None}
    assert idle == {"no_examples"}


def test_batches_are_functions_of_the_step() -> None:
    block = draw_block(SPEC, 0)
    assert block.shape == (4, 7, 8, 8)
    assert np.array_equal(block, draw_block(SPEC, 0))
    assert not np.array_equal(block, draw_block(SPEC, 1))
    first, again, other = (make_batch(SPEC, step, block) for step in (1, 1, 2))
    assert torch.equal(first.x0, again.x0) and torch.equal(first.eps, again.eps)
    assert not torch.equal(first.eps, other.eps)
    assert first.x0.shape == (6, 1, 8, 8) and first.examples.shape[0] == 2
    assert [block_of(SPEC, step) for step in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_noised_maps_are_never_among_the_examples() -> None:
    block = np.arange(4 * 7 * 64, dtype=np.float32).reshape(4, 7, 8, 8).astype(np.float16) / 2048
    for step in range(8):
        batch = make_batch(SPEC, step, block)
        for kind in range(SPEC.kinds):
            maps = batch.x0[kind * 3 : kind * 3 + 3].flatten(1)
            shown = batch.examples[kind].flatten(1)
            assert torch.cdist(maps, shown).min() > 1e-3


def test_a_part_of_the_batches_shows_nothing() -> None:
    block = draw_block(SPEC, 0)
    unshown = sum(not make_batch(SPEC, step, block).shown for step in range(400))
    spread = (400 * SPEC.unshown * (1 - SPEC.unshown)) ** 0.5
    assert abs(unshown - 400 * SPEC.unshown) < 5 * spread


def test_blocks_drawn_by_another_process_are_the_same() -> None:
    with Blocks(SPEC, workers=1) as ahead, Blocks(SPEC, workers=0) as here:
        for number in (0, 1, 1, 2):
            assert np.array_equal(ahead.get(number), here.get(number))


def tensors(state: State) -> list[torch.Tensor]:
    moments = [
        value for of in state.optimiser.state_dict()["state"].values() for value in of.values()
    ]
    return [*state.network.state_dict().values(), *state.average.state_dict().values(), *moments]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, Path]:
    out = tmp_path_factory.mktemp("unbroken")
    return train(start(SPEC), out, End(steps=10), workers=0, groups=[]), out


@pytest.mark.parametrize("stop", [1, 4, 8])  # in a block, between blocks, while the rate falls
def test_stopped_and_resumed_equals_unbroken(
    unbroken: tuple[State, Path], tmp_path: Path, stop: int
) -> None:
    first = start(SPEC)
    train(first, tmp_path, End(steps=10), 0, stop=lambda: first.step == stop, groups=[])
    assert first.step == stop and not first.finished
    torch.manual_seed(12345)  # ambient randomness plays no part
    second = latest(tmp_path, End(steps=10))
    assert second is not None and second.step == stop
    train(second, tmp_path, End(steps=10), 0, groups=[])
    assert second.step == 10 and second.finished
    pairs = zip(tensors(second), tensors(unbroken[0]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_finished_training_goes_on_from_before_its_rate_fell(
    unbroken: tuple[State, Path],
) -> None:
    state = latest(unbroken[1], End(minutes=1))
    assert state is not None
    assert state.step == 7 and not state.falling
    assert resume(unbroken[1] / CHECKPOINT).finished
    assert latest(unbroken[1] / "elsewhere", End()) is None


def test_rate_and_end() -> None:
    rates = [learning_rate(SPEC, step, 0) for step in range(4)]
    assert rates == [SPEC.rate / 2, SPEC.rate, SPEC.rate, SPEC.rate]
    falling = [learning_rate(SPEC, 100, progress) for progress in (0.7, 0.85, 1.0, 1.2)]
    assert falling == pytest.approx([SPEC.rate, 0.505 * SPEC.rate, *2 * [0.01 * SPEC.rate]])
    now = [0.0]
    end = End(minutes=2, clock=lambda: now[0])
    now[0] = 60
    assert end.progress(10**6) == 0.5
    assert End().progress(10**6) == 0


def test_training_lowers_the_loss() -> None:
    spec = replace(SPEC, warm_up=1, rate=5e-3)
    state, block = start(spec), draw_block(spec, 0)
    losses = [learn(state, make_batch(spec, 0, block), 0) for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def test_validation_knows_what_was_held_out() -> None:
    groups = validation_groups(SPEC, worlds=4)
    assert [group.name for group in groups] == ["seen", "arcs", "craters"]
    state = start(SPEC)
    losses = validate(SPEC, state.average, groups)
    assert losses == validate(SPEC, state.average, groups)
    held = np.mean([losses[name]["with"] for name in SPEC.held_out])
    assert losses["held_out"]["with"] == pytest.approx(float(held))
    assert np.isfinite([value for of in losses.values() for value in of.values()]).all()


def test_the_command_goes_on_and_exports(unbroken: tuple[State, Path], tmp_path: Path) -> None:
    save(start(SPEC), tmp_path / CHECKPOINT)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    main([str(tmp_path), "--steps", "2", "--workers", "0", "--device", "cpu"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    main([str(tmp_path), "--export", str(tmp_path / "base")])
    line = json.loads((tmp_path / LOG).read_text().splitlines()[-1])
    assert line["step"] == 2 and line["samples"] == 12
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["finished"] and config["recipe"]["held_out"] == ["arcs", "craters"]
    assert config["validation"] == line["validation"]
    with pytest.raises(SystemExit):
        main([str(tmp_path)])


def inner(folder: Path) -> InContextDenoiser:
    network = load_model(str(folder)).denoiser.network
    assert isinstance(network, InContextNetwork)
    return network.inner


def test_export_keeps_the_network(unbroken: tuple[State, Path], tmp_path: Path) -> None:
    state, out = unbroken
    export(out, tmp_path)
    loaded = inner(tmp_path)
    x, level = noised(2, 8)
    shown = examples(1, 3, 8)
    with torch.no_grad():
        kept = loaded(x, level, loaded.context(shown))
        meant = state.average(x, level, state.average.context(shown))
    assert (kept - meant).abs().max() < 5e-3 * (1 + meant.abs().max())  # halves round by 5e-4
    begun = start(SPEC, weights=tmp_path)
    for name, value in begun.network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_what_cannot_be_read_is_refused(unbroken: tuple[State, Path], tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes((unbroken[1] / CONSTANT).read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be read"):
        latest(tmp_path, End())
    export(unbroken[1], tmp_path)
    with pytest.raises(InputError, match="expected"):
        start(InContextSpec(), weights=tmp_path)
    with pytest.raises(ValueError, match="unheard"):
        replace(SPEC, held_out=("unheard",))
    with pytest.raises(ValueError, match="whole batches"):
        replace(SPEC, block=5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_a_gpu(tmp_path: Path) -> None:
    state = train(start(SPEC, "cuda"), tmp_path, End(steps=3), workers=0, groups=[])
    assert state.step == 3
    assert resume(tmp_path / CHECKPOINT).step == 3
