"""Puts arrays on all devices of a process, maps functions over them, and keeps compiled code."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lagseg_jax.runtime.ahead import ahead
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import cache_home, check_writable
from lagseg_jax.runtime.trace import count_compilations, stage

log = logging.getLogger(__name__)

Tree = TypeVar("Tree")  # of arrays


def local_mesh() -> Mesh:
    """The devices of this process, as one axis named `devices`."""
    return Mesh(np.array(jax.local_devices()), ("devices",))


def replicated() -> NamedSharding:
    """The sharding of an array that lies whole on every local device."""
    return NamedSharding(local_mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Puts a tree on all local devices once.

    A pmapped function whose argument has `in_axes=None` takes such arrays as they are; arrays that
    lie on one device would be copied to the others at every call.
    """
    return jax.device_put(tree, replicated())


def shared_by_processes(tree: Tree) -> Tree:
    """Arrays that every process has on its local devices -> the same as arrays on all devices.

    Nothing is copied. Several processes can save only such arrays together.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def split_batch(tree: Any) -> Any:
    """Puts a tree on the local devices, the first axis of every leaf divided among them."""
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec("devices")))


def settled(tree: Tree) -> Tree:
    """The same arrays; on simulated CPU devices, where collectives must not overlap, computed."""
    return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree


def use_compilation_cache() -> None:
    """Lets the second start of any command find what the first compiled.

    JAX's own settings (JAX_COMPILATION_CACHE_DIR and the one below) have precedence. Without a
    place that can be written to, nothing is kept.
    """
    # Of what runs in oneDNN (see `model.backend`), XLA can write nothing.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*bad_alloc")
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            folder = cache_home() / "xla"
            check_writable(folder, "XDG_CACHE_HOME to name a folder that can")
            jax.config.update("jax_compilation_cache_dir", str(folder))
        except InputError as error:
            log.warning("compiled code is not kept: %s", error)
    # Encoder and decoder take less than JAX's bound of 1 s each, and are loaded in a tenth of it.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    count_compilations()
    with stage("device"):
        jax.local_devices()


AXIS = "devices"


def pmapped(
    function: Callable,
    in_axes: tuple[int | None, ...],
    out_axes: int | None = None,
    donate: tuple[int, ...] = (),
    options: dict | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> "Mapped":
    """Maps over the local devices, or those given; collectives name the axis `AXIS`.

    Args:
        function: of arrays of one device.
        in_axes: by argument; 0: its first axis is divided among the devices, None: all get it.
        out_axes: 0: outputs have a first axis of devices; None: they are the same on all devices.
        donate: arguments whose memory the outputs may take.
        options: of the compiler; several processes go without.
        devices: by default all of this process.
    """
    on_all = jax.pmap(
        function, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate, devices=devices
    )
    return Mapped(on_all, options)


class Mapped:
    """What `jax.pmap` gives; with options of the compiler, or compiled ahead, for one shape only.

    In one of several processes it is never compiled ahead, nor with options: only `jax.pmap` itself
    puts their arrays together. Those that tune their code for GPUs wait for each other there, too,
    and must come to the same functions in the same order.

    Args:
        on_all: the mapped function.
        options: of the compiler.
    """

    def __init__(self, on_all: Any, options: dict | None):
        self._on_all, self._options = on_all, options or None
        self._alone = jax.process_count() == 1
        self._compiled: Callable[[], Callable] | None = None

    def compile_ahead(self, *like: Any) -> None:
        """Begins to compile for such arguments (`jax.ShapeDtypeStruct`s), beside what comes next.

        The first call waits for it, and raises what went wrong.
        """
        if self._alone:
            self._compiled = ahead(self._compile, *like).result

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if self._alone and self._options and self._compiled is None:
            compiled = self._compile(*arguments)
            self._compiled = lambda: compiled
        if self._compiled is None:
            return self._on_all(*arguments)
        return self._compiled()(*arguments)

    def _compile(self, *like: Any) -> Callable:
        # pmap has no place for options of the compiler, but what it lowers to has.
        return self._on_all.lower(*like).compile(compiler_options=self._options)


def params_hash(params: dict) -> str:
    """SHA-256 (hexadecimal) over names, shapes, dtypes and bytes of a parameter tree."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(params, sep="/").items()):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.shape} {array.dtype};".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def tree_hash(tree: Any) -> str:
    """SHA-256 (hexadecimal) over paths, shapes, dtypes and bytes of the arrays of any tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return params_hash({jax.tree_util.keystr(path): leaf for path, leaf in leaves})
