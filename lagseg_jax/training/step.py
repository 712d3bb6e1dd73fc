"""One training step and one validation step: what each device does with its share of a batch.

The steps are pure functions of arrays. They run inside an axis named `devices`: gradients are
averaged and metrics gathered over it, so that every device computes the same next state. A step
whose loss or gradient is not finite changes nothing but the step's number.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from lagseg_jax.config.choices import PATCH
from lagseg_jax.data.augment import Augmentation, augment, slice_keys
from lagseg_jax.model import backend
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runs.train_state import TrainState
from lagseg_jax.runtime.devices import AXIS, pmapped
from lagseg_jax.runtime.errors import TrainingError
from lagseg_jax.training.losses import slice_losses
from lagseg_jax.training.metrics import TrainMetrics, ValidationMetrics, overlap_counts


@flax.struct.dataclass
class StepOutcome:
    """What the host must know about a step; the same on every device of every process."""

    skipped: jax.Array  # bool scalar: the loss or the gradient was not finite


StepResult = tuple[TrainState, TrainMetrics, StepOutcome]


def init_state(params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # Compiled as one program, instead of one for every shape.
    return TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params))


def make_encode(model: Model, augmentation: Augmentation, seed: int) -> Callable:
    """The function to map: (step, encoder_params, batch of this device) -> what the step takes.

    The batch is one of `TrainingBatches`; if it has tokens, the encoder is left out. Returns {image
    (B, E, E) float32, mask (B, E, E) float32, tokens (L, B, h, w, D)}; no tokens where an adapter
    is trained, whose gradient needs the encoder in the same function.
    """

    def encode(step: jax.Array, encoder_params: dict, batch: dict) -> dict[str, jax.Array]:
        keys = slice_keys(seed, step, batch["slice"])
        images, masks = augment(
            augmentation, keys, batch["image"].astype(jnp.float32), batch["mask"]
        )
        if model.adapter is not None:
            return {"image": images, "mask": masks}
        if "tokens" in batch:
            tokens = _blocks_first(batch["tokens"])
        else:
            tokens = model.tokens(encoder_params, images)
        return {"image": images, "mask": masks, "tokens": tokens}

    return encode


def _blocks_first(tokens: jax.Array) -> jax.Array:
    """Cached tokens as batches hold them (B, L, h, w, D) -> as the encoder gives them."""
    return jnp.moveaxis(tokens, 1, 0)


def make_update(model: Model, optimizer: optax.GradientTransformation, loss: str) -> Callable:
    """The function to map: (state, rate, what `make_encode`'s gave) -> what the step returns.

    The rate is the step's learning rate, a float32 scalar. With an adapter, the function takes
    `encoder_params` as a fourth argument.
    """

    def update(
        state: TrainState, rate: jax.Array, encoded: dict, encoder_params: Any = None
    ) -> StepResult:
        images, masks = encoded["image"], encoded["mask"]

        def mean_loss(params: dict) -> tuple[jax.Array, jax.Array]:
            if model.adapter is None:
                tokens = encoded["tokens"]
            else:
                tokens = model.adapted_tokens(encoder_params, params, images)
            logits = model.head_logits(params, tokens, images)
            return slice_losses(loss, logits, masks).mean(), logits

        (value, logits), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        gradients = jax.lax.pmean(gradients, AXIS)
        norm = optax.tree.norm(gradients)
        # Averages over the devices: one bad slice on one of them is bad on all.
        finite = jnp.isfinite(jax.lax.pmean(value, AXIS)) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, rate=rate)
        params = optax.apply_updates(state.params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        counts = overlap_counts(logits, masks, jnp.full(len(masks), finite, jnp.float32))
        metrics = TrainMetrics.gather_from_model_output(
            axis_name=AXIS,
            loss=value[None],
            counts=counts.sum(axis=0, keepdims=True),
            gradient_norm=norm[None],
            mask=finite[None],
        )
        state = TrainState(state.step + 1, params, opt_state)
        return state, metrics, StepOutcome(skipped=~finite)

    return update


class TrainStep:
    """(state, rate, encoder_params, batch of all devices) -> all that a step returns; mapped.

    The state is given away: its memory becomes the next one's. The rate is the step's learning
    rate, a float32 scalar on all devices. The batch is one of `TrainingBatches`, divided by
    `split_over_devices`. Encoder and update are compiled apart: each has options of the compiler
    that the other must not have. An adapter's update contains the encoder, and goes without. Raises
    TrainingError where the devices' memory is too small.

    Args:
        model: encoder, head, and adapter if there is one.
        optimizer: of what is trained.
        loss: name of the loss.
        augmentation: of the slices.
        seed: of the augmentation.
        devices: by default all of this process.
    """

    def __init__(
        self,
        model: Model,
        optimizer: optax.GradientTransformationExtraArgs,
        loss: str,
        augmentation: Augmentation,
        seed: int,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._model, self._adapts = model, model.adapter is not None
        self._encode = pmapped(
            make_encode(model, augmentation, seed),
            (None, None, 0),
            out_axes=0,
            options=backend.encoder_compiler_options(model.encoder.form),
            devices=devices,
        )
        for_decoder = backend.decoder_compiler_options(model.head.decoder.dtype)
        self._update = pmapped(
            make_update(model, optimizer, loss),
            (None, None, 0, None) if self._adapts else (None, None, 0),
            donate=(0,),
            options=None if self._adapts else for_decoder,
            devices=devices,
        )

    def __call__(
        self, state: TrainState, rate: jax.Array, encoder_params: dict, batch: dict
    ) -> StepResult:
        """One step."""
        with named_where_memory_ends(batch["image"].shape):
            encoded = self._encode(state.step, encoder_params, batch)
            return self._update(state, rate, encoded, *([encoder_params] if self._adapts else []))

    def compile_ahead(self, state: TrainState, encoder_params: dict, batch: dict) -> None:
        """Begins to compile both parts in threads, for arguments of such shapes and dtypes."""
        image = jax.ShapeDtypeStruct(batch["image"].shape, jnp.float32)
        encoded = {"image": image, "mask": image}
        if not self._adapts:
            devices, count, side, _ = image.shape
            spec, patches = self._model.encoder.spec, side // PATCH
            shape = devices, spec.depth, count, patches, patches, spec.width
            encoded["tokens"] = jax.ShapeDtypeStruct(shape, self._model.encoder.dtype)
        rate = jax.ShapeDtypeStruct((), jnp.float32)
        self._encode.compile_ahead(state.step, encoder_params, batch)
        with_encoder = [encoder_params] if self._adapts else []
        self._update.compile_ahead(state, rate, encoded, *with_encoder)


@contextlib.contextmanager
def named_where_memory_ends(shape: tuple[int, ...]) -> Iterator[None]:
    """What runs out of memory is a TrainingError; of images (devices, B, E, E)."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"a step with {shape[1]} slices of {shape[2]} x {shape[3]} pixels on each device needs "
            "more memory than is free there (see docs/faq.md); config.train.batch_size and "
            "config.data.image_size make it smaller"
        ) from None


def make_validation_step(
    model: Model, loss: str, cases: int, devices: Sequence[jax.Device] | None = None
) -> Callable[[dict, dict, dict], ValidationMetrics]:
    """(params, encoder_params, batch of all devices) -> metrics; mapped, in two parts as above.

    If the batch has tokens, the encoder is left out.

    Args:
        model: encoder and head.
        loss: name of the loss.
        cases: number of validation cases, which `batch["case"]` counts from 0.
        devices: by default all of this process.
    """

    def encode(params: dict, encoder_params: dict, batch: dict) -> jax.Array:
        if "tokens" in batch:
            return model.fuse(params, _blocks_first(batch["tokens"]))
        encoder_params = model.adapted(encoder_params, params)
        return model.fused(encoder_params, params, batch["image"].astype(jnp.float32))

    def judge(params: dict, fused: jax.Array, batch: dict) -> ValidationMetrics:
        logits = model.decode(params, fused, batch["image"].astype(jnp.float32))
        counts = overlap_counts(logits, batch["mask"], batch["weight"])
        return ValidationMetrics.gather_from_model_output(
            axis_name=AXIS,
            loss=slice_losses(loss, logits, batch["mask"]),
            mask=batch["weight"],
            counts=jax.ops.segment_sum(counts, batch["case"], num_segments=cases),
        )

    for_encoder = backend.encoder_compiler_options(model.encoder.form)
    encoder = pmapped(encode, (None, None, 0), out_axes=0, options=for_encoder, devices=devices)
    options = backend.decoder_compiler_options(model.head.decoder.dtype)
    judged = pmapped(judge, (None, 0, 0), options=options, devices=devices)

    def validation_step(params: dict, encoder_params: dict, batch: dict) -> ValidationMetrics:
        # Each part gets what it reads: tokens and masks go to the devices once.
        inputs = {name: batch[name] for name in ("image", "tokens") if name in batch}
        fused = encoder(params, encoder_params, inputs)
        rest = {name: value for name, value in batch.items() if name != "tokens"}
        return judged(params, fused, rest)

    return validation_step


def augmentation_of(augment_config: ml_collections.ConfigDict) -> Augmentation:
    """`config.augment` as the static argument of the step."""
    return Augmentation(
        **{f.name: augment_config[f.name] for f in dataclasses.fields(Augmentation)}
    )
