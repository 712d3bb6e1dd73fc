"""Test floor: two simulated CPU devices, one compilation cache, and a tiny run to share."""

import os
import tempfile

from pod import FAST_COMPILATION

# Before jax is imported anywhere: the 1-device-against-2 tests need a second device.
DEVICES = "--xla_force_host_platform_device_count=2"
os.environ.setdefault("XLA_FLAGS", f"{DEVICES} {FAST_COMPILATION}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Several tests compile the same step; nothing is kept from one session to the next.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="xla-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import gc
import logging
from pathlib import Path

import jax
import pytest

import tiny_run

# Tracing makes so many small objects that looking for cycles at Python's pace is a tenth of all.
gc.set_threshold(100_000, 20, 20)

# Files of half a minute or more. One that came last would keep a worker while the others wait.
LONG = {
    "test_convert",
    "test_faults",
    "test_init_from",
    "test_step",
    "test_training_on_cached_tokens",
    "test_training_on_two_processes",
}


def pytest_collection_modifyitems(items):
    """Long files first, in every worker."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def console():
    """Command lines that a test calls in this process leave no handler to the next test."""
    yield
    log = logging.getLogger("lagseg_jax")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="module")
def unload_programs():
    """Linux maps at most 65530 pieces of memory: XLA ends the process that loads one more.

    Each training step that JAX keeps compiled takes a thousand of them.
    """
    yield
    mapped = Path("/proc/self/maps")
    if not mapped.exists() or mapped.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


@pytest.fixture
def failed_futures():
    """What Orbax started and never asked for goes here, not in another test or at the very end."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Root of six small synthetic cases in the LAScarQS layout."""
    return tiny_run.write_phantom(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, phantom):
    """Workdir of a training run of a few steps, with its evaluation; not to be changed."""
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    tiny_run.run(workdir, phantom)
    return workdir


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What is not UTF-8 in captured output cannot be sent from a worker to the runner."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report
