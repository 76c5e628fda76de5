"""Files of targets that changed since the run was planned: refused, with nothing touched."""

import numpy as np
import pytest

from flows.runs.lifecycle import make_run
from ood_core.errors import IdentityRefused


def test_one_flipped_byte_of_the_targets_is_refused(finished, tiny, targets_file, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    changed = tmp_path / "fields.npy"
    content = bytearray(targets_file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    changed.write_bytes(content)
    assert np.isfinite(np.load(changed)).all()  # else it would be refused for another reason
    with pytest.raises(IdentityRefused, match=r"targets\.digest"):
        make_run(tiny(targets={"path": str(changed)}), str(finished))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
