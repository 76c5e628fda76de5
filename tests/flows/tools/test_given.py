"""The verbs that fill maps and make fields from a finished run: the same as the object does."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits

import ood_core as ff


def test_inpaint_writes_the_draws_of_the_object(farfield, unbroken, base, tiny, tmp_path):
    targets = ff.TargetSet.of(tiny().targets)
    maps = targets.held_out[:2].copy()
    maps[:, :, 2:7, 9:14] = np.nan
    np.save(tmp_path / "holes.npy", maps)
    out = tmp_path / "filled.fits"
    call = ("inpaint", unbroken, tmp_path / "holes.npy", "--draws", 3, "--out", out, "--json")
    answer = farfield(*call)
    assert answer.code == 0, answer.err
    assert re.search(r"inpaint .* 2/2 .* eta", answer.err)  # one batch of draws per map
    found = json.loads(answer.out)
    assert found["draws"] == 3 and found["missing"] == pytest.approx(25 / 256)
    synth = ff.Synthesizer(ff.load_model(str(base)), tiny().method, batch=64)
    made = synth.fit(targets, progress=False).inpaint(maps, draws=3, progress=False)
    stored = fits.getdata(out).reshape(6, 1, 16, 16)
    assert np.array_equal(stored, np.concatenate(list(made)))
    assert fits.getheader(out)["SYNTH"] is True


def test_field_writes_the_field_of_the_object(farfield, unbroken, base, tiny, tmp_path):
    out = tmp_path / "field.npz"
    answer = farfield("field", unbroken, "--size", "24x40", "--out", out, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["size"] == [24, 40]
    done, total = re.search(r"field .* (\d+)/(\d+) .* eta", answer.err).groups()
    assert done == total  # it knew before how much it would be
    targets = ff.TargetSet.of(tiny().targets)
    synth = ff.Synthesizer(ff.load_model(str(base)), tiny().method, batch=64)
    made = synth.fit(targets, progress=False).field(24, 40, progress=False)
    assert np.array_equal(np.load(out)["maps"][0], made)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("field", "--size", "24", "--out", "f.npz"), "expected rows and columns"),
        (("field", "--size", "8x8", "--out", "f.npz"), "no larger than the field"),
        (("field", "--size", "24x24", "--out", "f.doc"), "f.doc"),
        (("inpaint", "absent.npy", "--out", "f.npz"), "no such file"),
    ],
)
def test_what_cannot_be_made_is_one_error(farfield, unbroken, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    verb, *rest = call
    answer = farfield(verb, unbroken, *rest)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    assert not list(tmp_path.glob("f.*"))
