"""What `farfield submit` refuses; tests/cluster hands jobs over."""

import pytest
import yaml

from flows.tools.submit import submit_run
from ood_core.errors import InputError


@pytest.fixture
def job(tmp_path, tiny_dict):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_dict()))
    (tmp_path / "fields.npy").write_bytes(b"no wheel")
    return tmp_path


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"out": "runs/x"}, "absolute path"),
        ({"address": "127.0.0.1:6379"}, "http://HEAD:8265"),
        ({"wheel": "fields.npy"}, "no wheel"),
        ({"sets": ["method.nothing=1"]}, "nothing"),
        ({"runtime_env": "environment.yaml"}, "--working-dir"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(job, wrong, said):
    (job / "environment.yaml").write_text("working_dir: .")
    files = {name: job / wrong.pop(name) for name in ("wheel", "runtime_env") if name in wrong}
    usual = {"out": "s3://bucket/run", "address": "http://127.0.0.1:1", "working_dir": job}
    options = {**usual, **wrong, **files}
    with pytest.raises(InputError, match=said):
        submit_run(job / "tiny.yaml", **options, write=print, say=print)
