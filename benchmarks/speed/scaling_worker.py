"""The JAX worker of `scaling.py`: its commands (see common/worker.py).

Each returns rows of {"what", "value", "unit"}.
"""

import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from benchmarks.common.timing import timed
from benchmarks.speed.cases import Case
from benchmarks.speed.exchange import write_volume
from benchmarks.speed.problem import SPACING, config_of, make_problem, make_volume
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.model.backend import encoder_compiler_options, encoder_form
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import build_model, compute_dtype
from lagseg_jax.model.weights import param_structs
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.workdir import write_config
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import init_state

DEEP = 40


def row(what: str, value: float, unit: str) -> dict:
    """One line of the table."""
    return {"what": what, "value": value, "unit": unit}


def slices(case: dict, counts: list[int]) -> list[dict]:
    """Time per slice of volumes with so many slices, resizing included."""
    case = Case(**case)
    problem = make_problem(case)
    segmenter = problem.segmenter()
    found = []
    for count in counts:
        repeats = -(-count // problem.volume.shape[2])
        volume = np.tile(problem.volume, (1, 1, repeats))[:, :, :count]
        segmenter.predict_volume(volume[:, :, : case.predict_batch], SPACING, orientation="RAS")
        seconds = [
            timed(
                lambda volume=volume: segmenter.predict_volume(volume, SPACING, orientation="RAS")
            )
            for _ in range(3 if count < 1000 else 1)
        ]
        per_slice = 1e3 * statistics.median(seconds) / count
        found.append(row(f"{case.variant}: time per slice of {count}", per_slice, "ms"))
    return found


def compile_time(variants: list[str], size: int, batch: int, dtype: str) -> list[dict]:
    """Fused encoders compiled for weights that exist only as shapes."""
    found = []
    for variant in variants:
        spec = EncoderSpec(variant)
        seconds = timed(lambda spec=spec: _compile_fused(spec, size, batch, dtype))
        found.append(row(f"{variant}: fused encoder compiled", seconds, "s"))
    return found


def depth_memory(variant: str, size: int, batch: int, dtype: str) -> list[dict]:
    """Temporary memory of fused inference at the variant's own depth and at 40 blocks."""
    found = []
    for depth in (VARIANTS[variant]["depth"], DEEP):
        name = f"{variant}, {depth} blocks"
        VARIANTS[name] = VARIANTS[variant] | {"depth": depth}
        try:
            code = _compile_fused(EncoderSpec(name), size, batch, dtype)
        finally:
            del VARIANTS[name]
        used = code.memory_analysis().temp_size_in_bytes
        found.append(row(f"{name}: temporary memory of inference", used / 2**20, "MiB"))
    return found


def compilations(case: dict) -> list[dict]:
    """How often XLA compiles for a volume with a smaller last batch, and for the next volume."""
    problem = make_problem(Case(**case))
    segmenter, batch, count = problem.segmenter(), case["predict_batch"], [0]

    def listen(event: str, _seconds: float, **_) -> None:
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    found = []
    for name, number in (("first", batch + 1), ("next", 2 * batch + 1)):
        count[0] = 0
        volume = np.tile(problem.volume, (1, 1, 1 + number // problem.volume.shape[2]))
        segmenter.predict_volume(volume[:, :, :number], SPACING, orientation="RAS")
        what = f"compilations for the {name} volume ({number} slices in batches of {batch})"
        found.append(row(what, count[0], ""))
    return found


def write_run(case: dict, folder: str) -> None:
    """folder/run, a workdir as training leaves it, and folder/volume.nii.gz, for `two_starts`."""
    case, run = Case(**case), Path(folder) / "run"
    config = config_of(case)
    write_volume(make_volume(case.shape)[0], Path(folder))
    encoder = load_frozen_encoder(config)
    params = build_model(config, encoder.spec).init_head(jax.random.key(0), config.data.image_size)
    write_config(run, config)
    checkpoints = Checkpoints(run, encoder.sha256)
    state = init_state(params, make_optimizer(config.train))
    checkpoints.save(state, {"slices_consumed": 0}, 0.5)
    checkpoints.close()


def _compile_fused(spec: EncoderSpec, size: int, batch: int, dtype: str):
    compute = compute_dtype("dtype", dtype)
    encoder = Encoder(spec, compute, encoder_form(compute))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    weights = jax.ShapeDtypeStruct((5, spec.depth), jnp.float32)

    def fused(params, x, w):
        return encoder.apply({"params": params}, x, w, method="fused")

    code = jax.jit(fused, compiler_options=encoder_compiler_options(encoder.form))
    params = unflatten_dict(param_structs(spec, dtype), sep="/")
    return code.lower(params, images, weights).compile()


COMMANDS = {f.__name__: f for f in (slices, compile_time, depth_memory, compilations, write_run)}
