"""What the speed benchmark times in PyTorch, row by row.

Modes: "eager" and "compile" (torch.compile). bfloat16 is autocast, with the frozen encoder's
matrices held in bfloat16; float32 is as PyTorch has it by default (TF32 in convolutions
on GPUs, as in JAX).
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common.pytorch import DEVICE, loss_of
from benchmarks.speed.torch_model import FrozenEncoder, Head, head_state
from lagseg_jax.imaging.masks import clean_mask

WHOLE = 12  # encoders with more blocks are compiled block by block: minutes become seconds


@dataclasses.dataclass
class Peer:
    """The model and its inputs.

    Attributes:
        facts: of case.json.
        folder: that ours wrote.
        encoder: frozen.
        head: trained.
        arrays: the head's parameters as ours has them.
        inputs: image, mask, volume.
        modes: {mode: (encoder, head) as they run in it}.
    """

    facts: dict
    folder: Path
    encoder: FrozenEncoder
    head: Head
    arrays: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    modes: dict[str, tuple]

    def networks(self, mode: str) -> tuple:
        """Encoder and head as they run in this mode."""
        if mode not in self.modes:
            encoder = self.encoder
            if len(encoder.blocks) > WHOLE:
                encoder = encoder.compiled_by_block()
            else:
                encoder = torch.compile(encoder, dynamic=False)
            self.modes[mode] = encoder, torch.compile(self.head, dynamic=False)
        return self.modes[mode]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Of the case's dtype."""
        enabled = self.facts["dtype"] == "bfloat16"
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and masks (B, E, E) float32, from the host: a training step starts with it."""
        arrays = (torch.from_numpy(self.inputs[name]) for name in ("image", "mask"))
        images, masks = (array.to(DEVICE, non_blocking=True).float() for array in arrays)
        return images, masks

    @torch.no_grad()
    def tokens(self, mode: str, images: torch.Tensor) -> torch.Tensor:
        """The frozen encoder."""
        with self.autocast():
            return self.networks(mode)[0](images)

    @torch.no_grad()
    def fused(self, mode: str, images: torch.Tensor) -> torch.Tensor:
        """Tokens of all blocks, then their sums."""
        with self.autocast():
            return self.head.fuse(self.networks(mode)[0](images))

    def loss(self, mode: str, tokens, images, masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logits."""
        with self.autocast():
            logits = self.networks(mode)[1](tokens, images)
        return loss_of(self.facts["loss"])(logits.float(), masks), logits


def open_peer(folder: Path) -> Peer:
    """Loads what ours wrote."""
    from transformers import Dinov2Model

    facts = json.loads((folder / "case.json").read_text())
    dinov2 = Dinov2Model.from_pretrained(
        folder / "encoder", attn_implementation="sdpa", dtype=torch.float32
    )
    dtype = getattr(torch, facts["dtype"])
    encoder = FrozenEncoder(dinov2.eval().requires_grad_(False), dtype).to(DEVICE)
    arrays = dict(np.load(folder / "head.npz"))
    head = Head(facts, arrays["fusion/theta"].shape[1])
    head.load_state_dict(head_state(arrays), strict=True)
    head.to(DEVICE, memory_format=torch.channels_last)
    inputs = dict(np.load(folder / "inputs.npz"))
    return Peer(facts, folder, encoder, head, arrays, inputs, {"eager": (encoder, head)})


@torch.no_grad()
def predict_probability(peer: Peer, mode: str, volume: np.ndarray) -> np.ndarray:
    """(x, y, z) -> probability of atrium, by batches of slices (rows run to the patient's back)."""
    facts = peer.facts
    slices = volume[::-1, ::-1].transpose(2, 1, 0)
    low, high = np.percentile(slices, facts["percentiles"])
    count, height, width = slices.shape
    side, size, batch = max(height, width), facts["size"], facts["predict_batch"]
    top, left = (side - height) // 2, (side - width) // 2
    margins = (left, side - width - left, top, side - height - top)
    result = np.empty(slices.shape, np.float32)
    for start in range(0, count, batch):
        block = np.zeros((batch, height, width), slices.dtype)  # one shape, one compilation
        part = slices[start : start + batch]
        block[: len(part)] = part
        images = torch.from_numpy(block).to(DEVICE, non_blocking=True).float()
        images = F.pad(((images - low) / (high - low)).clamp(0, 1), margins)[:, None]
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)[:, 0]
        encoder, head = peer.networks(mode)
        with peer.autocast():
            logits = head(encoder(images), images)
        back = torch.sigmoid(logits.float())[:, None]
        back = F.interpolate(back, size=(side, side), mode="bilinear", antialias=True)[:, 0]
        back = back[: len(part), top : top + height, left : left + width]
        result[start : start + batch] = back.cpu().numpy()
    return result.transpose(2, 1, 0)[::-1, ::-1]


def predict_volume(peer: Peer, mode: str, volume: np.ndarray) -> np.ndarray:
    """(x, y, z) -> mask (x, y, z), uint8."""
    probability = predict_probability(peer, mode, volume)
    mask = (probability >= peer.facts["threshold"]).astype(np.uint8)
    return clean_mask(mask, peer.facts["spacing"], peer.facts["components"])


def make_call(peer: Peer, row: str, mode: str) -> Callable[[], object]:
    """What is timed for this row."""
    if row == "volume":
        return lambda: predict_volume(peer, mode, peer.inputs["volume"])
    images, masks = peer.batch()
    if row == "encoder":
        return lambda: peer.tokens(mode, images)
    if row == "fused encoder":
        return lambda: peer.fused(mode, images)
    if row.startswith("head"):
        tokens = torch.randn_like(peer.tokens("eager", images))
    if row == "head forward":
        return lambda: peer.loss(mode, tokens, images, masks)
    if row == "head forward+backward":
        return lambda: backward(peer, mode, tokens, images, masks)
    return training_call(peer, row, mode)


def training_call(peer: Peer, row: str, mode: str) -> Callable[[], object]:
    """The optimiser alone, or the whole step from the host's batch on."""
    facts, parameters = peer.facts, list(peer.head.parameters())
    optimizer = torch.optim.AdamW(
        parameters, facts["learning_rate"], weight_decay=facts["weight_decay"], fused=True
    )

    def update():
        if facts["gradient_clip"]:
            torch.nn.utils.clip_grad_norm_(parameters, facts["gradient_clip"])
        optimizer.step()

    def step():
        images, masks = peer.batch()
        peer.loss(mode, peer.tokens(mode, images), images, masks)[0].backward()
        update()
        optimizer.zero_grad(set_to_none=True)

    if row == "train step":
        return step
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def optimise():
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        update()
        optimizer.zero_grad(set_to_none=True)

    return optimise


def backward(peer: Peer, mode: str, tokens, images, masks) -> None:
    """Forward and backward of the head."""
    peer.loss(mode, tokens, images, masks)[0].backward()
    peer.head.zero_grad(set_to_none=True)
