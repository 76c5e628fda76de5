"""The method fitted to the targets of the tiny run, once for all files that make maps of it."""

import pytest

import ood_core as ff


@pytest.fixture(scope="package")
def synth(base, tiny):
    settings = tiny()
    synth = ff.Synthesizer(ff.load_model(str(base)), settings.method, batch=3)
    return synth.fit(ff.TargetSet.of(settings.targets), progress=False)
