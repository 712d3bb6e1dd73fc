"""The JAX worker of the speed benchmark: its commands (see common/worker.py)."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.common import cost, machine
from benchmarks.common.timing import Rows
from benchmarks.speed.cases import Case
from benchmarks.speed.exchange import write_problem
from benchmarks.speed.jax_rows import device_batch, head_loss, jax_rows
from benchmarks.speed.problem import SPACING, make_problem
from lagseg_jax.model import backend

opened = {}


def open_case(case: dict, folder: str) -> list[str]:
    """Makes the case and writes it for PyTorch; returns the names of the rows."""
    case = Case(**case)
    problem = make_problem(case)
    write_problem(problem, case, Path(folder))
    opened.update(problem=problem, rows=jax_rows(problem, Path(folder)))
    return list(opened["rows"])


def outputs(path: str) -> None:
    """Tokens of the last block, loss, logits, gradients and some probabilities as .npz."""
    problem = opened["problem"]
    images, masks = device_batch(problem)
    options = backend.encoder_compiler_options(problem.model.encoder.form)
    encode = jax.jit(problem.model.tokens, compiler_options=options)
    tokens = encode(problem.encoder.params, images)

    def loss(params):
        logits = problem.model.head.apply({"params": params}, tokens, images)
        return head_loss(problem, params, tokens, images, masks), logits

    options = backend.decoder_compiler_options(problem.model.head.decoder.dtype)
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
    (value, logits), gradients = gradient(jax.device_put(problem.head_params))
    found = {f"gradient/{k}": v for k, v in flatten_dict(gradients, sep="/").items()}
    found |= {"tokens": tokens[-1, 0].astype(np.float32), "loss": value, "logits": logits}
    part = problem.volume[:, :, : problem.config.predict.batch_size + 1]
    found["probability"] = problem.segmenter().predict_probability(part, SPACING, orientation="RAS")
    np.savez(path, **{name: np.asarray(array) for name, array in found.items()})


def make_call(row: str) -> tuple[Callable[[], object], dict]:
    """The row's call, compile time (s) and memory, if known."""
    jax.clear_caches()  # so that nothing is found that another row compiled
    return opened["rows"][row]()


def peak_bytes() -> int:
    """Of the device, or of the process where the device is the CPU."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0) or machine.peak_rss()


def costs() -> dict[str, dict]:
    """{row: {"flops", "bytes", "layers"}} of the opened case."""
    problem = opened["problem"]
    return cost.rows(problem.encoder.spec, problem.config, problem.volume.shape[2])


COMMANDS = {"open": open_case, "outputs": outputs, "peak_bytes": peak_bytes, "costs": costs}
COMMANDS |= Rows(make_call).commands
