"""The configuration file: strictness, overrides, paths, the shipped examples."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from flows.settings import PROJECT, load_recipe, load_settings, parse
from ood_core.errors import ConfigError

SECTIONS = ("targets", "method", "generation", "gate", "execution")
EXAMPLES = sorted((PROJECT / "examples").glob("*.yaml"))


def test_an_unknown_key_is_refused_at_the_top(config):
    with pytest.raises(ConfigError, match=r"sampels: .*not permitted.*\(got 3\)"):
        load_settings(config(sampels=3))


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_in_every_section(config, section):
    with pytest.raises(ConfigError, match=f"{section}.*nonsense"):
        load_settings(config(**{section: {"nonsense": 1}}))


def test_an_unknown_key_is_refused_two_levels_down(config):
    path = config()
    for part in ("calibration", "steering"):
        with pytest.raises(ConfigError, match=f"method.*{part}.*nonsense"):
            load_settings(path, [f"method.{part}.nonsense=1"])


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("generation.samples=0", "generation"),
        ("generation.seed=-1", "generation"),
        ("targets.held_out=0", "targets"),
        ("targets.transform=sqrt", "targets"),
        ("method.solver=euler", "method"),
        ("execution.pool=dask", "execution.pool"),
        ("execution.workers=0", "execution.workers"),
        ("execution.workers=many", "execution.workers"),
        ("execution.cpus_per_worker=0", "execution.cpus_per_worker"),
        ("name=''", "name"),
        ("base=[1]", "base"),
    ],
)
def test_an_impossible_value_is_refused_with_its_place(config, override, place):
    with pytest.raises(ConfigError) as error:
        load_settings(config(), [override])
    assert place in str(error.value)


def test_set_overrides_nested_keys_and_makes_sections(config):
    found = load_settings(
        config(),
        ["generation.samples=64", "gate.c2st=0.7", "targets.symmetries=[flip]", "name=other"],
    )
    assert found.generation.samples == 64
    assert found.generation.shard_size == 4
    assert found.gate.c2st == 0.7
    assert found.targets.symmetries == ("flip",)
    assert found.name == "other"


@pytest.mark.parametrize(
    "override",
    ["generation.samples", "name.inner=3", "base=[1", "name=!!python/object:os.system x"],
)
def test_a_set_that_cannot_be_read_is_a_config_error(config, override):
    with pytest.raises(ConfigError, match="--set"):
        load_settings(config(), [override])


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "name: !!python/name:os.system",
        "name: !ENV ${HOME}",
        "[1, 2]",
        "just text",
        "",
        "name: [",
        "\x00",
    ],
)
def test_other_yaml_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_settings(path)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        load_settings(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.yaml"):
        load_settings(tmp_path / "b.yaml")


def test_paths_are_looked_for_here_then_beside_the_file(tmp_path, tiny_dict, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "maps.npy").touch()
    (beside / "only.npy").touch()
    (beside / "c.yaml").write_text(yaml.safe_dump(tiny_dict(targets={"path": "maps.npy"})))
    monkeypatch.chdir(here)
    assert load_settings(beside / "c.yaml").targets.path == str(here / "maps.npy")
    (here / "maps.npy").unlink()
    assert load_settings(beside / "c.yaml").targets.path == str(beside / "maps.npy")
    found = load_settings(beside / "c.yaml", ["targets.path=on*.npy"])
    assert found.targets.path == str(beside / "on*.npy")


def test_the_projects_own_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = load_settings(PROJECT / "examples" / "hubble.yaml")
    assert Path(found.targets.path) == PROJECT / "examples" / "targets" / "hubble.fits"


def test_a_hub_id_stays_as_it_is(config):
    assert load_settings(config(base="google/ddpm-celebahq-256")).base == "google/ddpm-celebahq-256"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_shipped_examples_are_valid(path):
    if path.stem.startswith("pretrain"):
        assert path.stem == f"pretrain-{load_recipe(path).name}"
    else:
        assert load_settings(path).name == path.stem


def test_there_are_examples():
    assert {"hubble", "pretrain-dead-leaves-32"} <= {path.stem for path in EXAMPLES}


@given(
    samples=st.integers(1, 10**7),
    seed=st.integers(0, 2**63 - 1),
    held_out=st.one_of(st.floats(0.01, 0.99), st.integers(1, 500).map(float)),
    preset=st.sampled_from(["calibrated", "discovery"]),
)
@profile(deadline=None, derandomize=True, max_examples=40)
def test_settings_survive_json(samples, seed, held_out, preset):
    found = parse(
        {
            "name": "n",
            "base": "b",
            "targets": {"path": "p", "held_out": held_out},
            "method": {"preset": preset},
            "generation": {"samples": samples, "seed": seed},
        }
    )
    assert parse(found.model_dump(mode="json")) == found
