"""device -> its name, and the fastest matrix products and copies a framework gets out of it.

Its commands are those of a worker of its own (see worker.py), so that what is allocated here is in
no other worker's peak memory.
"""

import time
from collections.abc import Callable

from benchmarks import machine

# Rows, inner, columns: square ones, and ViT-S' or ViT-g's own.
SHAPES = {
    "cpu": [(1024, 1024, 1024), (2048, 2048, 2048), (4100, 384, 1536), (4100, 1536, 384)],
    "gpu": [(4096, 4096, 4096), (8192, 8192, 8192), (32800, 1536, 8192), (32800, 4096, 1536)],
}
COPY_BYTES = {"cpu": 2**28, "gpu": 2**31}
CALLS = 5


def of_jax(tiny: bool) -> dict:
    """Matrix products in both dtypes and a copy, in JAX.

    Returns:
        {"backend", "device", "versions", "rows": [{"what", "dtype", "rate"}]}.
    """
    import jax
    import jax.numpy as jnp

    shapes, copied = _plan(jax.default_backend(), tiny)
    found = []
    for dtype in (jnp.bfloat16, jnp.float32):
        precision = "highest" if dtype == jnp.float32 else None
        for m, k, n in shapes:
            a, b = (jax.random.normal(jax.random.key(0), s, dtype) for s in ((m, k), (k, n)))
            product = jax.jit(
                lambda a, b, precision=precision: jnp.matmul(
                    a, b, precision=precision, preferred_element_type=jnp.float32
                )
            )
            seconds = _best(lambda f, *x: jax.block_until_ready(f(*x)), product, a, b)
            rate = 2 * m * k * n / seconds
            found.append(_row(f"matmul {m}x{k}x{n}", jnp.dtype(dtype).name, rate))
    x = jnp.ones(copied // 4, jnp.float32)
    negate = jax.jit(jnp.negative)
    rate = 2 * x.nbytes / _best(lambda: jax.block_until_ready(negate(x)))
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": machine.versions(),
        "rows": [*found, _row(f"copy of {copied >> 20} MiB", "", rate)],
    }


def of_torch(tiny: bool) -> dict:
    """The same in PyTorch, on all cores."""
    import torch

    torch.set_num_threads(machine.cores())
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    shapes, copied = _plan(kind, tiny)

    def wait(_):
        if kind == "cuda":
            torch.cuda.synchronize()

    found = []
    for dtype in (torch.bfloat16, torch.float32):
        for m, k, n in shapes:
            a, b = (torch.randn(s, device=kind).to(dtype) for s in ((m, k), (k, n)))
            rate = 2 * m * k * n / _best(lambda *x: wait(torch.matmul(*x)), a, b)
            found.append(_row(f"matmul {m}x{k}x{n}", str(dtype).removeprefix("torch."), rate))
    x = torch.ones(copied // 4, device=kind)
    y = torch.empty_like(x)
    rate = 2 * copied / _best(lambda: wait(torch.neg(x, out=y)))
    return {
        "backend": kind,
        "device": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
        "versions": machine.versions(),
        "rows": [*found, _row(f"copy of {copied >> 20} MiB", "", rate)],
    }


def best(rows: list[dict], dtype: str) -> float:
    """The highest rate of this dtype ("": copies), FLOP/s or byte/s; 0 where none was measured."""
    return max((row["rate"] for row in rows if row["dtype"] == dtype), default=0.0)


def roofline_seconds(layers: list, matmul: float, copy: float) -> float:
    """The least time: each layer at the matmul ceiling (FLOP/s) or the copy ceiling (byte/s).

    Args:
        layers: (flops, bytes) of each, as in `cost.rows`.
        matmul: FLOP/s.
        copy: byte/s.
    """
    return sum(max(flops / matmul, moved / copy) for flops, moved in layers)


def _plan(backend: str, tiny: bool) -> tuple[list[tuple[int, int, int]], int]:
    kind = "cpu" if backend == "cpu" else "gpu"
    if tiny:
        return [(128, 128, 128)], 2**20
    return SHAPES[kind], COPY_BYTES[kind]


def _best(call: Callable, *arguments) -> float:
    """Seconds of the fastest call: a ceiling is what can be reached, not what usually is."""
    call(*arguments)
    call(*arguments)
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _row(what: str, dtype: str, rate: float) -> dict:
    return {"what": what, "dtype": dtype, "rate": rate}


COMMANDS = {"of_jax": of_jax, "of_torch": of_torch}
