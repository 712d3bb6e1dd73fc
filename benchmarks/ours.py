"""The JAX worker's commands (see worker.py)."""

import time
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks import cost, machine
from benchmarks.cases import Case
from benchmarks.exchange import write_problem
from benchmarks.ours_rows import device_batch, head_loss, ours_rows
from benchmarks.problem import SPACING, make_problem
from lagseg_jax.model import backend

LONG = 1.0  # seconds
opened = {}
prepared = {}


def open_case(case: dict, folder: str) -> list[str]:
    """Makes the case and writes it for the peer; returns the names of the rows."""
    case = Case(**case)
    problem = make_problem(case)
    write_problem(problem, case, Path(folder))
    opened.update(problem=problem, rows=ours_rows(problem, Path(folder)))
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
    found["probability"] = problem.segmenter().predict_probability(part, SPACING)
    np.savez(path, **{name: np.asarray(array) for name, array in found.items()})


def prepare(row: str) -> dict:
    """Compiles and warms up; the first call's time, compile time (s) and memory if known."""
    jax.clear_caches()  # so that nothing is found that another row compiled
    call, facts = opened["rows"][row]()
    prepared[row] = call
    return {"first_seconds": timed(call)} | facts


def measure(row: str, calls: int) -> list[float]:
    """Seconds of each call; one more goes before them to wake the device and its threads."""
    call = prepared[row]
    first = timed(call)
    # A call of seconds needs no waking.
    return [first] if calls == 1 and first > LONG else [timed(call) for _ in range(calls)]


def timed(call) -> float:
    """Seconds of a call, which waits for its own result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def forget(row: str) -> None:
    """Frees what the row holds."""
    del prepared[row]


def peak_bytes() -> int:
    """Of the device, or of the process where the device is the CPU."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0) or machine.peak_rss()


def costs() -> dict[str, dict]:
    """{row: {"flops", "bytes", "layers"}} of the opened case."""
    problem = opened["problem"]
    return cost.rows(problem.encoder.spec, problem.config, problem.volume.shape[2])


COMMANDS = {
    "open": open_case,
    "outputs": outputs,
    "prepare": prepare,
    "measure": measure,
    "forget": forget,
    "peak_bytes": peak_bytes,
    "costs": costs,
}
