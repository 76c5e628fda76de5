"""The verbs that fill maps and make fields from a finished run: the same as the object does."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

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


def test_cube_writes_the_cube_of_the_object(farfield, unbroken, base, tiny, tmp_path):
    out, targets = tmp_path / "cube.npz", ff.TargetSet.of(tiny().targets)
    slices = targets.fit_count
    call = ("cube", unbroken, "--slices", slices, "--depth", 3, "--out", out, "--json")
    answer = farfield(*call)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["depth"] == 3
    synth = ff.Synthesizer(ff.load_model(str(base)), tiny().method)
    made = synth.fit(targets, progress=False).cube(3, slices)
    assert np.array_equal(np.load(out)["maps"], made)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("cube", "--slices", "2", "--depth", "3", "--out", "f.npz"), "whole cubes of 3"),
        (("field", "--size", "24", "--out", "f.npz"), "expected rows and columns"),
        (("field", "--size", "8x8", "--out", "f.npz"), "no larger than the field"),
        (("field", "--size", "24x24", "--out", "f.doc"), "f.doc"),
        (("inpaint", "absent.npy", "--out", "f.npz"), "no such file"),
        (("inject", "absent.npy", "--out", "f.fits"), "no such file"),
        (("inject", "absent.npy", "--out", "f.npz"), "expected a new file NAME.fits"),
    ],
)
def test_what_cannot_be_made_is_one_error(farfield, unbroken, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    verb, *rest = call
    answer = farfield(verb, unbroken, *rest)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    assert not list(tmp_path.glob("f.*"))


def test_inject_lays_samples_into_a_mosaic_of_the_sky(farfield, unbroken, tmp_path):
    """The image keeps its plane of the sky; both tables say what was added to it."""
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -5.0}
    grid = {"CRPIX1": 40, "CRPIX2": 30, "CDELT1": -1e-4, "CDELT2": 1e-4}
    header = fits.Header({**sky, **grid})
    values = np.zeros((60, 80), dtype=np.float32)
    fits.writeto(tmp_path / "mosaic.fits", values, header)
    out = tmp_path / "with.fits"
    call = ("inject", unbroken, tmp_path / "mosaic.fits", "--number", 9, "--out", out, "--json")
    answer = farfield(*call)
    assert answer.code == 0, answer.err
    said, truth = json.loads(answer.out), Table.read(out.with_suffix(".ecsv"))
    assert said["objects"] == len(truth) == 9 - len(said["faint"])
    with fits.open(out, checksum=True) as hdus:
        image, cards, inside = hdus[0].data, hdus[0].header, Table(hdus["TRUTH"].data)
    assert truth["flux"].sum() == pytest.approx(image.astype(float).sum(), rel=1e-4)
    assert np.array_equal(inside["sample"], truth["sample"])
    assert cards["CTYPE1"] == "RA---TAN" and cards["SYNTH"] is True
    ra, dec = WCS(cards).all_pix2world(truth["x"], truth["y"], 0)
    assert np.allclose(truth["ra"], ra) and np.allclose(truth["dec"], dec)
    many = farfield(*call[:4], 999, "--out", tmp_path / "many.fits")
    assert many.code == 2 and "farfield extend" in many.err
    again = farfield(*call)
    assert again.code == 2 and "exists" in again.err
