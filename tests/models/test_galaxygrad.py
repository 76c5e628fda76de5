"""Score networks of an installed package: the same numbers as NumPy, and clear refusals."""

import io
import math
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import BaseModelError
from ood_core.models.galaxygrad import NETWORKS, find_weights
from ood_core.models.loading import load_model
from tests.oracles import mixer
from tests.strategies import randn

LINEAR = NoiseSchedule.linear()
HSC32 = "eqx_hsc_ScoreNet32.eqx"
LSST60 = "eqx_lsst_ScoreNet60.eqx"

try:
    INSTALLED = version("galaxygrad") == "0.2.1"
except PackageNotFoundError:
    INSTALLED = False


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with weights of our own, ahead of any other."""
    folder = mixer.install(tmp_path, {HSC32: 32, LSST60: 60})
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def time_of(k: int) -> float:
    """`-ln` of the product of `1 - beta`, betas linear from 1e-4 to 0.02, at most 10."""
    betas = np.linspace(1e-4, 0.02, 1000)
    return min(10.0, -math.log(np.prod(1 - betas[: k + 1])))


def gap(source: str, path: Path, k: int) -> float:
    """Largest difference to the oracle, in units of its root mean square."""
    size = NETWORKS[source.removeprefix("galaxygrad:")].size
    x = 2 * randn(1, 1, size, size, seed=k).float()
    with torch.no_grad():
        ours = load_model(source).denoiser.network(x, k).sample[0, 0].double().numpy()
    with path.open("rb") as file:
        arrays = mixer.read(file, 54)
    t = time_of(k)
    spread = math.sqrt(1 - np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: k + 1]))
    theirs = -spread * mixer.score(arrays, x[0, 0].double().numpy(), t)
    return float(np.abs(ours - theirs).max() / np.sqrt((theirs**2).mean()))


# Index 999 is beyond the longest time, -ln(abar) = 10.09, and is asked at 10.
@pytest.mark.parametrize("k", [0, 300, 999])
@pytest.mark.parametrize(("name", "file"), [("hsc32", HSC32), ("lsst60", LSST60)])
def test_noise_is_that_of_the_numpy_network(package: Path, name: str, file: str, k: int) -> None:
    # Float32 sums of 512 terms through ten layers, relative to answers of order one: some 1e-5.
    assert gap(f"galaxygrad:{name}", package / file, k) < 1e-4


@pytest.mark.skipif(not INSTALLED, reason="needs `pip install --no-deps galaxygrad==0.2.1`")
@pytest.mark.parametrize("name", NETWORKS)
def test_noise_of_the_real_weights_is_that_of_the_numpy_network(name: str) -> None:
    source = f"galaxygrad:{name}"
    assert gap(source, find_weights(source), 500) < 1e-4


def test_a_base_is_described_and_the_package_is_not_imported(package: Path) -> None:
    base = load_model("galaxygrad:hsc32")
    assert (base.channels, base.size, base.fixed_size) == (1, 32, True)
    assert base.prediction == "epsilon"
    assert base.parameters == sum(math.prod(shape) for shape in mixer.shapes(32)) == 605761
    assert torch.equal(base.denoiser.schedule.alpha, LINEAR.alpha)
    assert not any(p.requires_grad for p in base.denoiser.network.parameters())
    assert "galaxygrad" not in sys.modules and "jax" not in sys.modules


def test_the_denoiser_removes_the_estimated_noise(package: Path) -> None:
    """Tweedie: `E[x0 | x_t] = (x_t + sigma^2 s) / alpha`."""
    base = load_model("galaxygrad:hsc32")
    x_t = randn(1, 1, 32, 32).float()
    with (package / HSC32).open("rb") as file:
        score = mixer.score(mixer.read(file, 54), x_t[0, 0].double().numpy(), time_of(400))
    alpha, sigma = float(LINEAR.alpha[400]), float(LINEAR.sigma[400])
    expected = (x_t[0, 0].double().numpy() + sigma**2 * score) / alpha
    # 1e-4 of a score of order one, divided by alpha = 0.44.
    np.testing.assert_allclose(base.denoiser(x_t, 400)[0, 0], expected, rtol=0, atol=3e-4)


def test_one_weight_changes_the_digest(package: Path) -> None:
    before = load_model("galaxygrad:hsc32").digest
    assert load_model("galaxygrad:hsc32").digest == before
    data = bytearray((package / HSC32).read_bytes())
    data[200] ^= 1  # in the first array
    (package / HSC32).write_bytes(data)
    assert load_model("galaxygrad:hsc32").digest != before


@pytest.mark.parametrize("side", [16, 64])
def test_maps_of_another_size_are_refused(package: Path, side: int) -> None:
    with pytest.raises(BaseModelError, match=rf"\(1, {side}, {side}\); expected \(1, 32, 32\)"):
        load_model("galaxygrad:hsc32").denoiser(torch.zeros(1, 1, side, side), 10)


def with_array(index: int, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    arrays = mixer.random_arrays(32, seed=1)
    arrays[index] = change(arrays[index])
    file = io.BytesIO()
    mixer.write(file, arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"", "EOF"),
        (lambda data: data[:-1], "ends in an array"),
        (lambda data: data[:1_000_000], "ends in an array"),
        (lambda data: data[: 128 + 64 * 2 * 16 * 4], "EOF"),
        (lambda data: data + b"x", "more data after the last array"),
        (lambda data: b"PK" + data[2:], "magic string is not correct"),
        (lambda data: data[:6] + b"\x03" + data[7:], "another npy version"),
        (lambda data: data[:20] + b"\x00" + data[21:], "header"),
        (lambda data: data.replace(b"(64, 2, 4, 4), ", b"(99999999999,),", 1), "99999999999"),
        (lambda data: data.replace(b"<f4", b"<f2", 1), "float16"),
        (lambda data: data.replace(b"<f4", b"|O4", 1), "header|object|descr"),
        (lambda data: with_array(7, lambda a: a * np.nan), "not finite"),
        (lambda data: with_array(7, lambda a: a[:-1]), r"expected \(64,\)"),
        (lambda data: with_array(4, np.asfortranarray), r"\(512, 64\)"),
    ],
)
def test_files_that_are_not_such_weights_are_refused(
    package: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = package / HSC32
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BaseModelError, match=message) as caught:
        load_model("galaxygrad:hsc32")
    assert HSC32 in str(caught.value)
    assert "pip install --no-deps galaxygrad==0.2.1" in str(caught.value)


def test_no_byte_of_a_header_can_raise_another_error(package: Path) -> None:
    """All of version, length, dictionary and padding; the file is cut short, so none may pass."""
    path = package / HSC32
    whole = path.read_bytes()[:10_000]
    for place in range(0, 128, 2):
        for value in (0x00, 0x28):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with pytest.raises(BaseModelError):
                load_model("galaxygrad:hsc32")


def test_weights_of_another_size_are_refused(package: Path) -> None:
    (package / "eqx_hsc_ScoreNet64.eqx").write_bytes((package / HSC32).read_bytes())
    with pytest.raises(BaseModelError, match="not the weights of a 64 px network"):
        load_model("galaxygrad:hsc64")


def test_a_package_without_the_file_is_refused_with_the_version_that_has_it(package: Path) -> None:
    with pytest.raises(BaseModelError, match=r"galaxygrad 0\.2\.1 holds no eqx_ZTF.*--no-deps"):
        load_model("galaxygrad:ztf32")


def test_an_absent_package_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BaseModelError, match=r"`pip install --no-deps galaxygrad==0\.2\.1`"):
        load_model("galaxygrad:hsc32")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BaseModelError, match=r"got network 'hst'; expected one of hsc32, hsc64"):
        load_model("galaxygrad:hst")
