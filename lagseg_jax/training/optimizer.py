"""The optimiser of head and adapter, and its learning rate as a function of the step."""

from typing import Any

import jax
import ml_collections
import optax

from lagseg_jax.model.lora import LORA


def make_optimizer(train: ml_collections.ConfigDict) -> optax.GradientTransformationExtraArgs:
    """AdamW (Adam at weight decay 0); the update takes its learning rate `rate` as a keyword.

    Trainings of another length or dataset are then the same program, which can be compiled before
    the slices are counted. An adapter has a peak learning rate of its own, and no weight decay.
    """
    return optax.chain(
        optax.clip_by_global_norm(train.gradient_clip) if train.gradient_clip else optax.identity(),
        optax.scale_by_adam(),
        _decay_head(train.weight_decay),
        _scale_by_rate(train.encoder_learning_rate / train.learning_rate),
    )


def _decay_head(weight_decay: float) -> optax.GradientTransformation:
    # optax's mask would change the tree of the optimiser's state, and with it old checkpoints.
    decay = optax.add_decayed_weights(weight_decay)

    def update(updates: dict, state: Any, params: dict | None = None) -> tuple[dict, Any]:
        decayed, state = decay.update(updates, state, params)
        return (decayed | {LORA: updates[LORA]} if LORA in updates else decayed), state

    return optax.GradientTransformation(decay.init, update)


def _scale_by_rate(for_adapter: float) -> optax.GradientTransformationExtraArgs:
    # optax.adamw would count the steps itself, and leave out those that are skipped.
    def update(
        updates: dict, state: Any, params: dict | None = None, *, rate: jax.Array
    ) -> tuple[dict, Any]:
        scaled = jax.tree.map(lambda u: -rate * u, updates)
        if LORA in scaled:
            scaled[LORA] = jax.tree.map(lambda u: for_adapter * u, scaled[LORA])
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def learning_rate(train: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step alone, so resuming cannot make it jump.

    Linear warm-up, then cosine decay to 0 at `steps`.
    """
    warmup = min(train.warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, max(steps, 1))
