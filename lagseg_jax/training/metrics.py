"""Loss and Dice of the network's slices, accumulated on the devices (clu.metrics).

These steer the training (curves, early stopping, best checkpoint). The figures to report come from
`evaluation.metrics`, on whole volumes in their original grid.
"""

import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics


def overlap_counts(logits: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Pixels of truth and prediction, of the truth, and of the prediction, for each slice.

    Args:
        logits: (B, H, W).
        mask: (B, H, W) with values 0 and 1.
        weight: (B,); 0 leaves a padding slice out.

    Returns:
        (B, 3) float32.
    """
    predicted = (logits > 0).astype(jnp.float32)
    mask = mask.astype(jnp.float32)
    counts = [(predicted * mask), mask, predicted]
    return jnp.stack([c.sum(axis=(1, 2)) for c in counts], axis=-1) * weight[:, None]


@flax.struct.dataclass
class Dice(metrics.Metric):
    """Mean Dice over groups of slices (the cases of a validation, or one batch).

    Dice = 2 |A and B| / (|A| + |B|), pooled over the slices of a group: of a whole case this is
    its 3D Dice at the network's resolution. Groups where both are empty are left out.

    Attributes:
        counts: (groups, 3) of `overlap_counts`, summed over the slices of each group.
    """

    counts: jax.Array

    @classmethod
    def from_model_output(cls, counts: jax.Array, **_: object) -> "Dice":
        """From counts (groups, 3)."""
        return cls(counts=counts)

    def merge(self, other: "Dice") -> "Dice":
        """Adds the counts of further slices."""
        return type(self)(counts=self.counts + other.counts)

    def compute(self) -> jax.Array:
        """Mean over the groups, scalar; NaN when all are empty."""
        both, truth, prediction = self.counts.T
        total = truth + prediction
        dice = 2 * both / jnp.maximum(total, 1)
        return jnp.sum(dice * (total > 0)) / jnp.sum(total > 0)


@flax.struct.dataclass
class TrainMetrics(metrics.Collection):
    """Over the batches between two log lines."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    dice: Dice
    gradient_norm: metrics.Average.from_output("gradient_norm")  # type: ignore[valid-type]


@flax.struct.dataclass
class ValidationMetrics(metrics.Collection):
    """Over all slices of the validation cases."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    dice: Dice


@jax.jit
def merged(total: metrics.Collection, more: metrics.Collection) -> metrics.Collection:
    """Both together; as one program, where each sum would be compiled and started by itself."""
    return total.merge(more)


@jax.jit
def computed(total: metrics.Collection) -> dict[str, jax.Array]:
    """{name: value} of a collection; as one program, too."""
    return total.compute()
