"""arrays on the host -> the same arrays on every local device."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def local_mesh() -> Mesh:
    """The devices of this process, as one axis named `devices`."""
    return Mesh(np.array(jax.local_devices()), ("devices",))


def replicate(tree):
    """Puts a tree on all local devices once.

    A pmapped function whose argument has `in_axes=None` takes such arrays as they are; arrays that
    lie on one device would be copied to the others at every call.
    """
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec()))


def split_batch(tree):
    """Puts a tree on the local devices, the first axis of every leaf divided among them."""
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec("devices")))
