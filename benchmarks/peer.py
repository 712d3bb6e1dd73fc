"""The PyTorch worker's commands (see worker.py)."""

import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import machine
from benchmarks.peer_model import head_gradients
from benchmarks.peer_rows import DEVICE, make_call, open_peer, predict_probability

LONG = 1.0  # seconds
opened = {}
prepared = {}


def open_case(folder: str) -> None:
    """Loads what ours wrote; all cores from now on."""
    torch.set_num_threads(machine.cores())
    opened["peer"] = open_peer(Path(folder))


def outputs(path: str, mode: str) -> None:
    """Tokens of the last block, loss, logits, gradients and some probabilities as .npz."""
    peer = opened["peer"]
    images, masks = peer.batch()
    tokens = peer.tokens(mode, images)
    loss, logits = peer.loss(mode, tokens, images, masks)
    loss.backward()
    gradients = head_gradients(peer.head, peer.arrays)
    peer.head.zero_grad(set_to_none=True)
    found = {"tokens": tokens[-1, 0], "loss": loss, "logits": logits}
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}
    arrays |= {f"gradient/{name}": array for name, array in gradients.items()}
    part = peer.inputs["volume"][:, :, : peer.facts["predict_batch"] + 1]
    arrays["probability"] = predict_probability(peer, mode, part)
    np.savez(path, **arrays)


def prepare(row: str, mode: str) -> dict:
    """Compiles where the mode does, and warms up; the first call's time (s)."""
    call = prepared[row, mode] = make_call(opened["peer"], row, mode)
    return {"first_seconds": timed(call)} | ({"compile_seconds": None} if mode == "eager" else {})


def measure(row: str, mode: str, calls: int) -> list[float]:
    """Seconds of each call; one more goes before them to wake the device and its threads."""
    call = prepared[row, mode]
    first = timed(call)
    # A call of seconds needs no waking.
    return [first] if calls == 1 and first > LONG else [timed(call) for _ in range(calls)]


def timed(call) -> float:
    """Seconds until the device has done it."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def forget(row: str, mode: str) -> None:
    """Frees what the row holds."""
    del prepared[row, mode]


def peak_bytes() -> int:
    """Of the device, or of the process where the device is the CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else machine.peak_rss()


COMMANDS = {
    "open": open_case,
    "outputs": outputs,
    "prepare": prepare,
    "measure": measure,
    "forget": forget,
    "peak_bytes": peak_bytes,
}
