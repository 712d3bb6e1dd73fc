"""Keeps what JAX traced of a function on the disk, so that the next start need not trace it again.

Tracing and lowering take half a second of Python at every start, also where all compiled code is
there (docs/log/2026-11-28-start.md). The files lie beside JAX's compiled code, which is trusted as
much. Their names are hashes of all that the trace depends on: this package's code, the versions,
the device, JAX's settings, and the shapes of the arguments.
"""

import functools
import hashlib
import logging
import platform
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import flax
import jax
import jax.export
import jaxlib
import numpy as np

from lagseg_jax.runtime.files import write_atomically

log = logging.getLogger(__name__)

MOST = 64  # files of a tenth of a megabyte; the oldest go
# Of the calls that jax.export will not promise to read in another version, those that may be kept:
# no other version finds the file. cuDNN's attention, without a gradient.
CALLS = [jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")]
PACKAGE = Path(__file__).parents[1]


class KeptJit:
    """As `jax.jit(function, static_argnums=0)`, but its traces are kept.

    They are where one device computes alone and JAX keeps compiled code in a folder; elsewhere
    nothing is.

    Args:
        function: (static, *trees of arrays) -> tuple of arrays, or an array. What it returns must
            depend on nothing but its arguments, and `repr(static)` must say all of the first one.
        options: of the compiler.

    Attributes:
        programs: one for each static argument and shapes of the others.
    """

    def __init__(self, function: Callable, options: dict | None = None):
        self.programs: dict[Hashable, Any] = {}
        self._function, self._options = function, options

    def __call__(self, static: Hashable, *trees: Any) -> Any:
        """What the function returns."""
        key, leaves = self._key(static, trees), jax.tree.leaves(trees)
        return self.programs[key](*leaves)

    def compile(self, static: Hashable, *trees: Any) -> None:
        """Compiles ahead of the first call for trees like these, of arrays or of their shapes.

        Shapes are `jax.ShapeDtypeStruct`. Where several devices compute, the first call compiles.
        """
        key = self._key(static, trees)
        program = self.programs[key]
        if jax.device_count() == 1 and not isinstance(program, jax.stages.Compiled):
            *_, like = key
            self.programs[key] = program.lower(*like).compile()

    def _key(self, static: Hashable, trees: Any) -> tuple[Hashable, Any, tuple]:
        """Of the program for these arguments, which is there."""
        leaves, tree = jax.tree.flatten(trees)
        like = tuple(jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.result_type(x)) for x in leaves)
        key = (static, tree, like)
        if key not in self.programs:
            self.programs[key] = self._program(*key)
        return key

    def _program(self, static: Hashable, tree: Any, like: tuple) -> Callable:
        """The function of the leaves."""

        def function(*leaves: Any) -> Any:
            return self._function(static, *tree.unflatten(leaves))

        function.__name__ = self._function.__name__
        jitted = jax.jit(function, compiler_options=self._options)
        folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        if not folder or "://" in folder or jax.device_count() > 1:
            return jitted
        name = f"{self._function.__module__}.{self._function.__qualname__}"
        about = repr([name, static, tree, like, _surroundings()])
        path = Path(folder) / f"traced-{hashlib.sha256(about.encode()).hexdigest()}"
        traced = _read(path)
        if traced is None:
            try:
                # Without options: JAX refuses them within another function.
                traced = jax.export.export(jax.jit(function), disabled_checks=CALLS)(*like)
                _write(path, bytes(traced.serialize()))
            except (ValueError, NotImplementedError, OSError) as error:
                # jax.export refuses other calls, and disks may be full: the function is traced at
                # every start then, as without this file.
                log.debug("the trace of %s is not kept: %s", name, error)
                return jitted
        program = functools.partial(traced.call)
        program.__name__ = self._function.__name__  # type: ignore[attr-defined]
        return jax.jit(program, compiler_options=self._options)


def _surroundings() -> list:
    """What else the trace and its use depend on."""
    device = jax.local_devices()[0]
    settings = sorted(jax.config.values.items())
    # Of an accelerator, its client names the versions of CUDA and the like.
    client = device.client.platform_version
    python = platform.python_version()
    versions = [jax.__version__, jaxlib.__version__, flax.__version__, python, client]
    return [_code_sha256(), device.platform, device.device_kind, settings, versions]


@functools.cache
def _code_sha256() -> str:
    """Of this package's code."""
    code = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        content = file.read_bytes()
        code.update(f"{file.relative_to(PACKAGE)} {len(content)};".encode() + content)
    return code.hexdigest()


def _read(path: Path) -> jax.export.Exported | None:
    """What `_write` wrote; None where nothing is there, or something else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return jax.export.deserialize(bytearray(body))


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, hashlib.sha256(body).digest() + body)
    kept = sorted(path.parent.glob("traced-*"), key=lambda file: file.stat().st_mtime)
    for file in kept[:-MOST]:
        file.unlink(missing_ok=True)
