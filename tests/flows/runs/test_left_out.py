"""Samples that are targets bit for bit: never in what a run publishes."""

from dataclasses import replace

import numpy as np
import pytest

from flows.handle import RunHandle
from flows.runs.lifecycle import make_run
from flows.tools.downstream import _chosen
from ood_core.config.gate import KINDS_OF_COPIES
from ood_core.limits import USUAL
from ood_core.maps.readers import read_maps
from ood_core.store.arrays import rows_digest
from ood_core.store.run import RunStore
from ood_core.store.targets import load_targets
from tests.fields import SIZE
from tests.oracles.fields import power_law

FIT, HELD_OUT, SAMPLES = 32, 64, 128
COPIES = (0, 1, 17, 63, 64, 127)


@pytest.fixture(scope="module")
def copying(tmp_path_factory, tiny):
    """A run whose samples are of the true law, but for six targets; and its settings."""
    folder = tmp_path_factory.mktemp("copying")
    real = [power_law(n, SIZE, seed=k).numpy() for k, n in enumerate((FIT, HELD_OUT, SAMPLES))]
    np.save(folder / "fields.npy", np.concatenate(real[:2]))
    settings = tiny(
        targets={
            "path": str(folder / "fields.npy"),
            "held_out": HELD_OUT,
            "symmetries": ["flip", "rotate90"],
        },
        method={"calibration": None, "steering": None, "steps": 1},
        generation={"samples": SAMPLES, "shard_size": 32},
        gate={"unsteered_p": 0.05, "copy_kinds": KINDS_OF_COPIES[:9]},  # no quadrants of 8 px
    )
    make_run(settings, str(folder / "run"))
    run, samples = RunStore(folder / "run"), real[2]
    samples[list(COPIES)] = real[0][3 : 3 + len(COPIES)]
    for shard in run.plan("generate"):
        rows = run.table("generate").rows(shard.start, shard.stop)
        rows["maps"] = samples[shard.start : shard.stop]
        run.table("generate").write(shard, rows)
        receipt = run.ledger("generate").read(shard)
        changed = replace(receipt, digest=rows_digest(rows), statistics="")
        run.ledger("generate").write(changed)
    return run, settings


def judged(copying, **gate):
    run, settings = copying
    gate = replace(settings.gate, **gate)
    return make_run(settings.model_copy(update={"gate": gate}), str(run.root))


def assert_no_target(maps, run):
    fit = load_targets(run).fit
    assert not (maps[:, None] == fit[None]).all(axis=(2, 3, 4)).any()


def test_six_copies_of_128_are_more_than_a_set_may_have(copying, farfield, tmp_path):
    found = judged(copying)
    assert (found["state"], tuple(found["left_out"])) == ("quarantined", COPIES)
    run = copying[0]
    assert farfield("export", run.root, tmp_path / "m.npz").code == 3
    assert farfield("export", run.root, tmp_path / "m.npz", "--force").code == 0
    assert_no_target(np.load(tmp_path / "m.npz")["maps"], run)


def test_a_published_set_has_no_copy_in_it(copying, farfield, tmp_path):
    """And the negative control: they lie in the store."""
    found = judged(copying, copies=0.05)
    run = copying[0]
    assert (found["state"], tuple(found["left_out"])) == ("published", COPIES)
    for place, arguments in (("m.npz", ()), ("parts", ("--format", "npz", "--per-file", 50))):
        assert farfield("export", run.root, tmp_path / place, *arguments).code == 0
    assert "left out (6): 0, 1, 17," in (tmp_path / "m.npz.README.md").read_text()
    exported = np.load(tmp_path / "m.npz")
    assert not set(exported["sample"]) & set(COPIES)
    parts = [np.load(path) for path in sorted((tmp_path / "parts").glob("*.npz"))]
    assert [len(part["maps"]) for part in parts] == [50, 50, 22]
    kept = RunHandle(run.root).maps()
    for maps in (exported["maps"], np.concatenate([part["maps"] for part in parts]), kept):
        assert len(maps) == SAMPLES - len(COPIES)
        assert_no_target(maps, run)
    assert len(RunHandle(run.root).maps(60, 65)) == 3
    shown, loaded = RunHandle(run.root).dataset(), RunHandle(run.root).samples()
    assert shown.sample.values.tolist() == [loaded[i]["sample"] for i in range(len(loaded))]
    assert shown.attrs["left_out"] == list(COPIES)
    assert_no_target(shown.maps.values, run)
    assert_no_target(
        np.stack([sample["maps"] for sample in map(loaded.__getitem__, range(len(loaded)))]), run
    )
    again = read_maps(str(run.root / "dataset.zarr"), "maps", USUAL)
    assert len(again) == 122 and "left out 6 maps" in again.notes[-1]
    assert_no_target(again.values, run)
    assert not set(_chosen(run, np.arange(SAMPLES), SAMPLES)) & set(COPIES)
    with pytest.raises(AssertionError):
        assert_no_target(run.table("generate").read("maps"), run)
    card = (run.root / "README.md").read_text()
    assert "6 of the maps in `dataset.zarr` are copies of targets" in card
    sentence = "6 samples are copies of a target"
    assert sentence in card and sentence in RunHandle(run.root).result().summary
