"""Judges a state on all slices of the validation cases."""

from collections.abc import Callable

import jax
import ml_collections

from lagseg_jax.data.batches import SliceSource, evaluation_batches, split_over_devices
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runs.train_state import TrainState
from lagseg_jax.runtime.devices import settled
from lagseg_jax.runtime.processes import process
from lagseg_jax.training.metrics import computed, merged
from lagseg_jax.training.step import make_validation_step


class Validator:
    """Loss and Dice of a state on the validation slices, on all devices.

    Args:
        config: `config.train` names the loss and the size of a batch.
        model: encoder and head.
        encoder: the frozen encoder.
        slices: of the validation cases.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model: Model,
        encoder: FrozenEncoder,
        slices: SliceSource,
    ):
        self._step = make_validation_step(model, config.train.loss, len(slices.cases))
        self._encoder_params, self._slices = encoder.params, slices
        self._batch_size = config.train.batch_size

    def run(self, state: TrainState, asked: Callable[[], bool]) -> dict[str, float] | None:
        """The scores, `validation_loss`, `validation_dice` and so on, means over the cases.

        None when this process, being the only one, was asked to stop before the end.
        """
        total = None
        for batch in evaluation_batches(self._slices, self._batch_size, process()):
            batch = split_over_devices(batch, jax.local_device_count())
            metrics = settled(self._step(state.params, self._encoder_params, batch))
            total = metrics if total is None else merged(total, metrics)
            if process()[1] == 1 and asked():
                return None
        assert total is not None  # no split is without validation cases
        return {f"validation_{name}": float(value) for name, value in computed(total).items()}
