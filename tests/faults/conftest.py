"""What the sweeps over crashes share."""

import pytest


@pytest.fixture(scope="module")
def small(tiny):
    """Two timesteps, one batch of targets, two shards of samples."""
    return tiny(
        method={"steps": 1, "steering": {"steps": 1, "neighbours": 1}},
        generation={"samples": 6, "shard_size": 4},
    )
