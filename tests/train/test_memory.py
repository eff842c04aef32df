"""Freed memory stays with the process that asked for that."""

import subprocess
import sys

import pytest

from onebit.train import memory

# The file alone: the package around it would import torch.
COUNT_FAULTS = """
import resource, runpy, sys

if sys.argv[1] == "keep":
    assert runpy.run_path(sys.argv[2])["keep_freed"]()
piece = b"x" * (1 << 26)
del piece
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
piece = b"x" * (1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_second_use_of_the_same_memory_faults_no_page():
    faults = {
        mode: int(
            subprocess.check_output([sys.executable, "-c", COUNT_FAULTS, mode, memory.__file__])
        )
        for mode in ("give-back", "keep")
    }
    assert faults["keep"] < 100 < faults["give-back"]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed() is False
