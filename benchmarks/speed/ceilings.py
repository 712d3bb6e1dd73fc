"""The fastest matrix products and copies that each framework gets out of this device.

Measured by a worker of its own (see common/worker.py), so that what is allocated here is in no
other worker's peak memory.
"""

from collections.abc import Callable

from benchmarks.common import machine
from benchmarks.common.timing import measure

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

    def product(dtype: str, m: int, k: int, n: int) -> Callable[[], object]:
        a, b = (jax.random.normal(jax.random.key(0), s, dtype) for s in ((m, k), (k, n)))
        precision = "highest" if dtype == "float32" else None
        wanted = {"precision": precision, "preferred_element_type": jnp.float32}
        code = jax.jit(lambda a, b: jnp.matmul(a, b, **wanted))
        return lambda: jax.block_until_ready(code(a, b))

    def copy(size: int) -> Callable[[], object]:
        x, code = jnp.ones(size // 4, jnp.float32), jax.jit(jnp.negative)
        return lambda: jax.block_until_ready(code(x))

    return _facts(jax.default_backend(), jax.devices()[0].device_kind, product, copy, tiny)


def of_torch(tiny: bool) -> dict:
    """The same in PyTorch, on all cores."""
    import torch

    from benchmarks.common.pytorch import DEVICE, use_all_cores, wait

    use_all_cores()

    def product(dtype: str, m: int, k: int, n: int) -> Callable[[], object]:
        a, b = (torch.randn(s, device=DEVICE).to(getattr(torch, dtype)) for s in ((m, k), (k, n)))
        return lambda: (torch.matmul(a, b), wait())

    def copy(size: int) -> Callable[[], object]:
        x = torch.ones(size // 4, device=DEVICE)
        y = torch.empty_like(x)
        return lambda: (torch.neg(x, out=y), wait())

    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return _facts(DEVICE.type, device, product, copy, tiny)


def _facts(backend: str, device: str, product: Callable, copy: Callable, tiny: bool) -> dict:
    """What a side's worker answers; the fastest call: what can be reached, not what usually is."""
    kind = "cpu" if backend == "cpu" else "gpu"
    shapes, size = ([(128, 128, 128)], 2**20) if tiny else (SHAPES[kind], COPY_BYTES[kind])
    calls = {
        (f"matmul {m}x{k}x{n}", dtype, 2 * m * k * n): lambda d=dtype, s=(m, k, n): product(d, *s)
        for dtype in ("bfloat16", "float32")
        for m, k, n in shapes
    }
    calls[f"copy of {size >> 20} MiB", "", 2 * size] = lambda: copy(size)
    rows = []
    for (what, dtype, work), make in calls.items():
        call = make()
        call()
        rows.append({"what": what, "dtype": dtype, "rate": work / min(measure(call, CALLS))})
    facts = {"backend": backend, "device": device, "versions": machine.versions()}
    return facts | {"rows": rows}


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


COMMANDS = {"of_jax": of_jax, "of_torch": of_torch}
