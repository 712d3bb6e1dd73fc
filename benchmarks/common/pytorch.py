"""What the PyTorch workers share: the device, and the losses that ours trains with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.common import machine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_all_cores() -> None:
    """As many threads as this process may use cores."""
    torch.set_num_threads(machine.cores())


def wait() -> None:
    """Returns when the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def loss_of(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`config.train.loss`: (logits, masks), both (B, E, E) float32, -> scalar."""
    parts = {"bce": F.binary_cross_entropy_with_logits, "dice": soft_dice}
    return lambda logits, masks: sum(parts[part](logits, masks) for part in name.split("+"))


def soft_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Per slice and averaged, as `lagseg_jax.training.losses` has it."""
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum((1, 2))
    total = probability.sum((1, 2)) + masks.sum((1, 2))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()
