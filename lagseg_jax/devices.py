"""arrays on the host -> the same arrays on every local device; compiled code kept on disk."""

import os
import warnings
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lagseg_jax.folders import cache_home


def local_mesh() -> Mesh:
    """The devices of this process, as one axis named `devices`."""
    return Mesh(np.array(jax.local_devices()), ("devices",))


def replicated() -> NamedSharding:
    """The sharding of an array that lies whole on every local device."""
    return NamedSharding(local_mesh(), PartitionSpec())


def replicate(tree):
    """Puts a tree on all local devices once.

    A pmapped function whose argument has `in_axes=None` takes such arrays as they are; arrays that
    lie on one device would be copied to the others at every call.
    """
    return jax.device_put(tree, replicated())


def shared_by_processes(tree):
    """Arrays that every process has on its local devices -> the same as arrays on all devices.

    Nothing is copied. Several processes can save only such arrays together.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def split_batch(tree):
    """Puts a tree on the local devices, the first axis of every leaf divided among them."""
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec("devices")))


def use_compilation_cache() -> None:
    """Lets the second start of any command find what the first compiled.

    JAX's own settings (JAX_COMPILATION_CACHE_DIR and the one below) have precedence.
    """
    # Of what runs in oneDNN (see `convolution`, `encoder_form`), XLA can write nothing.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*bad_alloc")
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    # Encoder and decoder take less than JAX's bound of 1 s each, and are loaded in a tenth of it.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def processor_flags() -> set[str]:
    """Names of the instruction sets of this machine's CPU; empty where it is not Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
