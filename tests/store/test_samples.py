"""Samples of a run as xarray and torch show them, beside the stored rows."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from flows.handle import RunHandle
from ood_core.errors import RunIncomplete
from ood_core.store.run import RunStore


def test_xarray_shows_what_is_stored(unbroken):
    run = RunStore(unbroken)
    shown = RunHandle(unbroken).dataset()
    table = run.table("generate")
    for name, array in table.arrays():
        np.testing.assert_array_equal(shown[name].values, table.read(name))
        assert shown[name].dims[0] == "sample" and shown.sizes["sample"] == array.shape[0]
    assert shown.maps.attrs["units"] and shown.attrs["synthetic"]


def test_a_bucket_is_shown_too(bucket, unbroken):
    import boto3

    client = boto3.client("s3")
    for path in unbroken.rglob("*"):
        if path.is_file():
            key = f"run/{path.relative_to(unbroken).as_posix()}"
            client.upload_file(str(path), bucket.removeprefix("s3://"), key)
    shown = RunStore.open(f"{bucket}/run").dataset()
    np.testing.assert_array_equal(
        shown.maps.values, RunStore(unbroken).table("generate").read("maps")
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_reads_every_sample_once(unbroken, workers):
    samples = RunHandle(unbroken).samples()
    stored = RunStore(unbroken).table("generate").read("maps")
    loader = DataLoader(
        samples, batch_size=3, shuffle=True, num_workers=workers,
        generator=torch.Generator().manual_seed(0),
        multiprocessing_context="forkserver" if workers else None,
    )  # fmt: skip
    batches = list(loader)
    numbers = torch.cat([batch["sample"] for batch in batches])
    assert sorted(numbers.tolist()) == list(range(10)) != numbers.tolist()
    np.testing.assert_array_equal(torch.cat([b["maps"] for b in batches]), stored[numbers])
    np.testing.assert_array_equal(samples[-1]["maps"], stored[9])
    with pytest.raises(IndexError):
        samples[10]


def test_missing_samples_are_refused(ready):
    with pytest.raises(RunIncomplete, match="shards of samples are missing"):
        RunHandle(ready).samples()
