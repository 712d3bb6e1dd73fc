"""The optimiser of head and adapter, and its learning rate as a function of the step."""

from typing import Any

import jax
import ml_collections
import optax

from lagseg_jax.model.lora import LORA


def make_optimizer(
    train: ml_collections.ConfigDict, steps: int
) -> optax.GradientTransformationExtraArgs:
    """AdamW (Adam at weight decay 0) with linear warm-up and cosine decay to 0 at `steps`.

    An adapter has a peak learning rate of its own, and no weight decay. The update takes `step`,
    the number of steps before this one, as a keyword.
    """
    return optax.chain(
        optax.clip_by_global_norm(train.gradient_clip) if train.gradient_clip else optax.identity(),
        optax.scale_by_adam(),
        optax.add_decayed_weights(
            train.weight_decay, mask=lambda params: {name: name != LORA for name in params}
        ),
        _scale_by_learning_rate(
            learning_rate(train, steps), train.encoder_learning_rate / train.learning_rate
        ),
    )


def _scale_by_learning_rate(
    schedule: optax.Schedule, for_adapter: float
) -> optax.GradientTransformationExtraArgs:
    # optax.adamw would count the steps itself, and leave out those that are skipped.
    def update(
        updates: dict, state: Any, params: dict | None = None, *, step: jax.Array
    ) -> tuple[dict, Any]:
        scaled = jax.tree.map(lambda u: -schedule(step) * u, updates)
        if LORA in scaled:
            scaled[LORA] = jax.tree.map(lambda u: for_adapter * u, scaled[LORA])
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def learning_rate(train: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step alone, so resuming cannot make it jump."""
    warmup = min(train.warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, max(steps, 1))
