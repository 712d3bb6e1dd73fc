"""Counts the kernels of a training step on a GPU, as XLA compiles it where there is none.

    python -m benchmarks.kernels --config=configs/cpu.py --target=h200.txtpb

Needs JAX's CUDA plugin and ptxas, but neither a GPU nor a driver. TARGET describes the GPU: one of
XLA's own files (xla/backends/gpu/target_config/specs in its repository). Nothing is autotuned, so
the choice among matrix products may differ on the device. Where kernels are many and small, their
number bounds the speed: each takes some microseconds to start, whatever it does.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.common.options import benchmark_parser
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.model import backend
from lagseg_jax.model.encoder_spec import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.trained_shapes import trained_structs
from lagseg_jax.model.weights import param_structs
from lagseg_jax.reports.markdown import table_head, table_row
from lagseg_jax.runtime.devices import AXIS
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import augmentation_of, init_state, make_encode, make_update

SIZES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8}
# What no kernel is started for.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "partition-id"}
ASSIGNMENT = re.compile(r" +(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:,|$)")
SMALL, INF = 1e6, float("inf")  # bytes


class Kernel(NamedTuple):
    """What is started once, or again and again in a loop.

    Attributes:
        name: of the instruction.
        kind: its opcode.
        times: how often.
        bytes: read and written each time.
    """

    name: str
    kind: str
    times: int
    bytes: int


def kernels_of(text: str) -> list[Kernel]:
    """Those of an optimised HLO module; loops count as often as they are known to run."""
    bodies: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"(ENTRY )?%([\w.\-]+) \(", line):
            lines = bodies.setdefault("ENTRY" if found[1] else found[2], [])
        elif line.startswith(" ") and bodies:
            lines.append(line)
    return list(_of_body(bodies, "ENTRY", 1))


def _of_body(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[Kernel]:
    types: dict[str, str] = {}
    for line in bodies[name]:
        if not (found := ASSIGNMENT.match(line)):
            continue
        result, types[result], kind, arguments = found[1], found[2], found[3], found[4]
        if kind == "while":
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            body = re.search(r"body=%([\w.\-]+)", line)
            assert body is not None
            yield from _of_body(bodies, body[1], times * int(count[1] if count else 1))
        elif kind not in FREE and not kind.endswith("-done"):
            read = [types.get(word.strip().lstrip("%"), "") for word in arguments.split(",")]
            yield Kernel(result, kind, times, sum(map(_bytes, [*read, types[result]])))


def _bytes(types: str) -> int:
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", types)
    return sum(
        SIZES.get(dtype, 0) * int(np.prod([int(n) for n in shape.split(",") if n]))
        for dtype, shape in found
    )


def programs(
    config: ml_collections.ConfigDict, device: jax.Device
) -> Iterator[tuple[str, jax.stages.Lowered]]:
    """The two functions of a step (`training.step`), lowered for one device."""
    mesh, whole = Mesh(np.array([device]), (AXIS,)), PartitionSpec()

    def lowered(function: Callable, *trees: Any, donated: tuple[int, ...] = ()) -> Any:
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
        )
        there = NamedSharding(mesh, whole)
        structs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), trees
        )
        return jax.jit(mapped, donate_argnums=donated).lower(*structs)

    spec = EncoderSpec(config.encoder.variant, config.encoder.registers)
    model, size = build_model(config, spec), config.data.image_size
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), trained_structs(model))
    shape = config.train.batch_size, size, size
    dtypes = {"image": jnp.float16, "mask": jnp.uint8}
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in dtypes.items()}
    batch["slice"] = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    params = unflatten_dict(param_structs(spec, config.encoder.dtype), sep="/")
    encode = make_encode(model, augmentation_of(config.augment), 0)
    yield "encode", lowered(encode, state.step, params, batch)
    encoded = jax.eval_shape(encode, state.step, params, batch)
    update = make_update(model, optimizer, config.train.loss)
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    yield "update", lowered(update, state, rate, encoded, donated=(0,))


@contextlib.contextmanager
def choices_of_a_gpu() -> Iterator[None]:
    """What this project and JAX ask of the devices is answered as on NVIDIA's of today."""
    answers = {
        "check_cudnn_version": lambda: 91000,
        "check_compute_capability": lambda _: True,
        "is_cuda_compute_capability_equal": lambda _: False,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(jax, "default_backend", lambda: "gpu"))
        stack.enter_context(mock.patch.object(backend, "has_cudnn_attention", lambda: True))
        stack.enter_context(mock.patch.multiple(fused_attention_stablehlo, **answers))
        yield


def main(arguments: list[str] | None = None) -> int:
    """Prints kernels, small ones, and gigabytes of each function."""
    parser = benchmark_parser("benchmarks.kernels", __doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--target", type=Path, required=True, help="description of the GPU")
    options, fields = parser.parse_known_args(arguments)  # --config.train.batch_size=16
    config = parse_flags(["", f"--config={options.config}", *fields], lambda _: None).config
    target = {"target_config": options.target.read_text(), "topology": "1x1x1"}
    jax.config.update("jax_platforms", "cpu")  # else the plugin looks for a driver
    (device,) = topologies.get_topology_desc(platform="cuda", **target).devices
    titles = ["function", "kernels", "of less than 1 MB", "GB", "temporary MB"]
    print(*table_head(titles), sep="\n")
    with choices_of_a_gpu():
        for name, lowered in programs(config, device):
            compiled = lowered.compile()
            kernels = kernels_of(compiled.as_text() or "")
            counts = [sum(k.times for k in kernels if k.bytes < most) for most in (INF, SMALL)]
            moved = sum(kernel.times * kernel.bytes for kernel in kernels) / 1e9
            temporary = compiled.memory_analysis().temp_size_in_bytes / 1e6
            row = [name, *map(str, counts), f"{moved:.2f}", f"{temporary:.0f}"]
            print(table_row(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
