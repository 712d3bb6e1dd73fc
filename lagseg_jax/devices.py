"""arrays on the host -> the same arrays on every local device; compiled code kept on disk."""

import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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


def split_batch(tree):
    """Puts a tree on the local devices, the first axis of every leaf divided among them."""
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec("devices")))


def cache_home() -> Path:
    """Where the project may keep what can be made again: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagseg_jax"


def use_compilation_cache() -> None:
    """Lets the second start of any command find what the first compiled.

    JAX's own setting (JAX_COMPILATION_CACHE_DIR) has precedence.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
