"""malloc: in a process of its own, because what is set cannot be taken back."""

import subprocess
import sys

import pytest

from lagseg_jax.runtime import host

PROGRAM = """
import resource
import numpy as np
from lagseg_jax.runtime import host
host.ACCELERATORS = ({device!r},)
print(host.tune())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25, np.uint8)  # 32 MiB, of 4096 or fewer pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(5)))
"""


def run(device):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(device=device)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    words, faults = done.stdout.splitlines()
    return words, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_buffer_is_reused_without_page_faults():
    words, faults = run("/nowhere")
    if "M_MMAP_MAX" not in words:
        pytest.skip("another C library")
    assert faults == 0


def test_nothing_is_set_beside_an_accelerator():
    words, _ = run("/")
    assert words == "malloc as it is: an accelerator is there"


def test_elsewhere_nothing_is_set(monkeypatch):
    monkeypatch.setattr(host, "ACCELERATORS", ())
    monkeypatch.setattr(host.sys, "platform", "darwin")
    assert host.tune() == "malloc as it is"
