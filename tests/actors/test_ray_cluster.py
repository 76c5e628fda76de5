"""Clusters of several nodes, in a process of their own: Ray keeps how it authenticates for life."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.actors
@pytest.mark.timeout(3600)
def test_clusters_in_a_process_of_their_own():
    tests = Path(__file__).with_name("ray_clusters.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=0", tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)  # shown with -s, and where it failed
    assert done.returncode == 0, done.stderr
