"""Begins to compile a training while its weights and volumes are still to be read."""

import dataclasses

import jax
import ml_collections
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.frozen_encoder import encoder_spec
from lagseg_jax.model.segmentation import Model, build_model
from lagseg_jax.model.trained_shapes import trained_structs
from lagseg_jax.model.weights import param_structs
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import TrainStep, augmentation_of, init_state


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a training computes, whatever the values of its parameters and slices."""

    model: Model
    optimizer: optax.GradientTransformationExtraArgs
    train_step: TrainStep


def begin_compiling(config: ml_collections.ConfigDict) -> Programs:
    """The programs of a training; from now on threads compile its step.

    Raises:
        InputError: there are no converted weights where the config says so.
    """
    model = build_model(config, encoder_spec(config.encoder))
    optimizer, augmentation = make_optimizer(config.train), augmentation_of(config.augment)
    train_step = TrainStep(model, optimizer, config.train.loss, augmentation, config.seed)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), trained_structs(model))
    encoder_params = param_structs(model.encoder.spec, model.encoder.dtype)
    train_step.compile_ahead(state, unflatten_dict(encoder_params, sep="/"), _batch(config, model))
    return Programs(model, optimizer, train_step)


def _batch(config: ml_collections.ConfigDict, model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what `TrainingBatches` gives, divided over the devices."""
    side, devices = config.data.image_size, jax.device_count()
    image = devices, config.train.batch_size // devices, side, side
    batch = {
        "image": jax.ShapeDtypeStruct(image, np.float16),
        "mask": jax.ShapeDtypeStruct(image, np.uint8),
        "slice": jax.ShapeDtypeStruct(image[:2], np.int32),
        "case": jax.ShapeDtypeStruct(image[:2], np.int32),
    }
    if config.train.cache_features:
        spec, patches = model.encoder.spec, side // PATCH
        tokens = *image[:2], spec.depth, patches, patches, spec.width
        batch["tokens"] = jax.ShapeDtypeStruct(tokens, model.encoder.dtype)
    return batch
