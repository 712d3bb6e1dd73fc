"""The PyTorch worker of the speed benchmark: its commands (see common/worker.py)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine
from benchmarks.common.pytorch import DEVICE, use_all_cores, wait
from benchmarks.common.timing import Rows
from benchmarks.speed.torch_model import head_gradients
from benchmarks.speed.torch_rows import make_call, open_peer, predict_probability

opened = {}


def open_case(folder: str) -> None:
    """Loads what the JAX worker wrote; all cores from now on."""
    use_all_cores()
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


def waiting_call(row: str, mode: str) -> tuple[Callable[[], object], dict]:
    """The row's call; of a compiled mode, the first call's time tells that of compiling."""
    call = make_call(opened["peer"], row, mode)
    wait()
    return lambda: (call(), wait()), {"compile_seconds": None} if mode == "eager" else {}


def peak_bytes() -> int:
    """Of the device, or of the process where the device is the CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else machine.peak_rss()


COMMANDS = {"open": open_case, "outputs": outputs, "peak_bytes": peak_bytes}
COMMANDS |= Rows(waiting_call).commands
