"""train state + data position <-> numbered Orbax checkpoints: the newest and the best are kept.

A checkpoint holds what training changes (step, head, optimiser), the position in the data order,
and in its metadata the hash of the frozen encoder, never the encoder itself. Orbax writes under a
temporary name and renames, so a checkpoint that is there is whole.
"""

import math
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lagseg_jax.errors import InputError
from lagseg_jax.train_step import TrainState

METRIC = "dice"  # of the validation cases; the best checkpoint has the largest


def _rank(metrics: dict) -> tuple[float, int]:
    """Of equally good checkpoints the earliest: early stopping counts from it."""
    return metrics[METRIC], -metrics["step"]


def _restore_args(like, **options) -> ocp.args.PyTreeRestore:
    """Restores a tree with the shapes, dtypes and sharding of `like`."""
    args = ocp.checkpoint_utils.construct_restore_args(like)
    return ocp.args.PyTreeRestore(like, restore_args=args, **options)


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
        workdir: the run's folder; checkpoints lie in `checkpoints/<step>`.
        encoder_hash: SHA-256 of the frozen encoder; a checkpoint of another one is refused.
        read_only: changes nothing in the folder, where a training may be saving right now.

    Raises:
        InputError: `read_only`, and there is no such folder.
    """

    def __init__(self, workdir: Path, encoder_hash: str, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise InputError(f"{self.folder} does not exist, expected the checkpoints of a run")
        self._encoder_hash = encoder_hash
        newest = LatestN(n=1)
        best = BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_rank,  # without it Orbax does not write the metrics
                preservation_policy=AnyPreservationPolicy([newest, best]),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, state: TrainState, data: dict, validation_dice: float | None) -> None:
        """Starts saving in the background.

        Args:
            state: the train state.
            data: state of the training batches.
            validation_dice: None for a checkpoint between validations, NaN when the validation
                cases have no atrium; neither can be the best.
        """
        step = int(state.step)
        extra = {"data": data, "encoder_sha256": self._encoder_hash}
        metrics = None
        if validation_dice is not None and math.isfinite(validation_dice):
            metrics = {METRIC: validation_dice, "step": step}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), extra=ocp.args.JsonSave(extra)
            ),
            metrics=metrics,
        )

    def newest(self) -> int | None:
        """Step of the newest checkpoint, None when there is none."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float] | None:
        """Step and validation Dice of the best checkpoint, None before the first validation."""
        self._manager.wait_until_finished()
        found = None
        for step in sorted(self._manager.all_steps()):
            metrics = self._manager.metrics(step)
            if metrics and (found is None or metrics[METRIC] > found[1]):
                found = step, float(metrics[METRIC])
        return found

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        """Loads a checkpoint onto the devices where `like` lies.

        Args:
            step: which one.
            like: a state of the same structure and placement (its values are not used).

        Returns:
            The state and the state of the training batches.

        Raises:
            InputError: the checkpoint belongs to another encoder.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=_restore_args(abstract), extra=ocp.args.JsonRestore()),
        )
        self._check_encoder(step, restored.extra["encoder_sha256"])
        return restored.state, restored.extra["data"]

    def restore_params(self, step: int, like: dict) -> dict:
        """Loads the head's parameters alone, for inference.

        Args:
            step: which checkpoint.
            like: tree of `jax.ShapeDtypeStruct` with the sharding to restore to.

        Raises:
            InputError: the checkpoint belongs to another encoder.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=_restore_args({"params": like}, partial_restore=True),
                extra=ocp.args.JsonRestore(),
            ),
        )
        self._check_encoder(step, restored.extra["encoder_sha256"])
        return restored.state["params"]

    def _check_encoder(self, step: int, saved_with: str) -> None:
        if saved_with != self._encoder_hash:
            raise InputError(
                f"{self.folder / str(step)} was trained on an encoder with SHA-256 {saved_with}, "
                f"but the one given has {self._encoder_hash}"
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save, and for the removal of old checkpoints."""
        self._manager.close()
