"""Seconds and memory of one fit of a prior; prints a line.

python -m benchmarks.prior_fit [--targets 1000] [--shape 3 256 256] [--kind spectral_low_rank]
"""

import argparse
import resource
import time

import torch

from ood_core.priors.gaussian import fit_gaussian


def main() -> None:
    """Fit white noise: cost depends on sizes alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 256, 256))
    parser.add_argument("--kind", default="spectral_low_rank")
    parser.add_argument("--symmetries", nargs="*", default=[])
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(arguments.targets, *arguments.shape, generator=generator)
    wall, cpu = time.perf_counter(), time.process_time()
    fit_gaussian(latents, arguments.kind, arguments.symmetries)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{arguments.targets} targets of {tuple(arguments.shape)}, {arguments.kind}: "
        f"{wall:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
