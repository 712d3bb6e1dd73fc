"""The PyTorch worker of the accuracy benchmark: a plain 2D U-Net (see common/worker.py).

Ronneberger et al. 2015 (arXiv 1505.04597) with 16 to 256 channels, GroupNorm instead of BatchNorm,
BCE + soft Dice, AdamW with linear warm-up and cosine decay over the given time, and the
augmentation of our config. bfloat16 where the processor multiplies it.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import machine
from benchmarks.common.pytorch import DEVICE, loss_of, use_all_cores, wait
from benchmarks.common.timing import CLOCKS
from lagseg_jax.runtime.host import processor_flags

FAST_BFLOAT16 = DEVICE.type == "cuda" or bool(machine.BFLOAT16 & processor_flags())
WIDTHS = (16, 32, 64, 128, 256)
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP = 8, 1e-3, 1e-4, 50
LOSS = loss_of("bce+dice")


def double(inputs: int, width: int) -> nn.Sequential:
    """Two times 3x3 convolution, GroupNorm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, width):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images (B, H, W) in 0..1, H and W multiples of 16 -> logits (B, H, W)."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(double(i, w) for i, w in zip((1, *WIDTHS), WIDTHS))
        pairs = list(itertools.pairwise(WIDTHS))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(w, n, 2, stride=2) for n, w in pairs)
        self.up = nn.ModuleList(double(2 * n, n) for n, _ in pairs)
        self.logits = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = (4 * images[:, None] - 2).contiguous(memory_format=torch.channels_last)
        skips = []
        for depth, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if depth else x)
            skips.append(x)
        for depth in reversed(range(len(self.up))):
            x = self.up[depth](torch.cat([skips[depth], self.grow[depth](x)], dim=1))
        return self.logits(x)[:, 0]


def train(
    folder: str, minutes: float, seed: int, clock: str, augmentation: dict[str, float]
) -> dict:
    """Trains on `slices.npz` and writes `probabilities.npz` of its test cases into the folder.

    `augmentation` is `config.augment` of ours.
    """
    use_all_cores()
    torch.manual_seed(seed)
    now = CLOCKS[clock]
    with np.load(Path(folder) / "slices.npz") as arrays:
        images, masks = (torch.from_numpy(arrays[name]) for name in ("images", "masks"))
        tests = {n.removeprefix("test/"): arrays[n] for n in arrays.files if n.startswith("test/")}
    network = UNet().to(DEVICE, memory_format=torch.channels_last)
    steps, seconds = fit(network, images, masks, augmentation, 60 * minutes, now)
    start = now()
    network.eval()
    found = {name: probability(network, slices) for name, slices in tests.items()}
    volume = (now() - start) / len(tests)
    np.savez(Path(folder) / "probabilities.npz", **found)
    return {
        "steps": steps,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        "volume_seconds": volume,
        "warning": "",
        "versions": machine.versions(),
    }


def fit(
    network: UNet,
    images: torch.Tensor,
    masks: torch.Tensor,
    augmentation: dict[str, float],
    seconds: float,
    now: Callable[[], float],
) -> tuple[int, float]:
    """Trains on slices (N, E, E) for so long by the clock; returns steps and seconds."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    start = now()  # after what torch imports late
    step, order = 0, torch.empty(0, dtype=torch.int64)
    while (part := (now() - start) / seconds) < 1:
        if len(order) < BATCH:
            order = torch.randperm(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        warmup = min(1, (step + 1) / WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmup * (1 + math.cos(math.pi * part)) / 2
        pair = (arrays[chosen].to(DEVICE).float() for arrays in (images, masks))
        x, y = augment(augmentation, *pair)
        optimizer.zero_grad()
        LOSS(logits_of(network, x), y).backward()
        optimizer.step()
        step += 1
    wait()
    return step, now() - start


def logits_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(B, H, W) float32."""
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST_BFLOAT16):
        return network(images).float()


def augment(
    strength: dict[str, float], images: torch.Tensor, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices and masks (B, E, E), transformed as `data.augment` does it."""
    batch, size = len(images), images.shape[-1]

    def uniform(*shape):
        return 2 * torch.rand(*shape, device=images.device) - 1

    angle = math.radians(strength["rotation_degrees"]) * uniform(batch)
    zoom = torch.exp(math.log1p(strength["scale"]) * uniform(batch))
    shift = 2 * strength["translation"] * uniform(2, batch)  # in halves of the image
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrix = torch.stack([cos, -sin, shift[0], sin, cos, shift[1]], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(matrix, [batch, 1, *images.shape[1:]], align_corners=False)
    images, masks = (
        F.grid_sample(x[:, None], grid, align_corners=False)[:, 0] for x in (images, masks)
    )
    x = torch.linspace(0, math.pi, size, device=images.device)
    cosines = (torch.arange(3, device=images.device)[:, None] * x).cos()
    field = (cosines.T @ (uniform(batch, 3, 3) / 3) @ cosines).clamp(-1, 1)
    images = images * torch.exp(strength["bias_field"] * field)
    images = images.clamp(min=1e-6) ** torch.exp(strength["gamma"] * uniform(batch, 1, 1))
    images = images * torch.exp(strength["contrast"] * uniform(batch, 1, 1))
    images = images + strength["brightness"] * uniform(batch, 1, 1)
    level = strength["noise"] * torch.rand(batch, 1, 1, device=images.device)
    return (images + level * torch.randn_like(images)).clamp(0, 1), masks.round()


@torch.no_grad()
def probability(network: nn.Module, slices: np.ndarray) -> np.ndarray:
    """Slices (Z, E, E) -> probability of atrium (Z, E, E), float16."""
    images = torch.from_numpy(slices).to(DEVICE).float()
    parts = [logits_of(network, part).sigmoid() for part in images.split(BATCH)]
    return torch.cat(parts).cpu().numpy().astype(np.float16)


COMMANDS = {"train": train}
