"""The numbered checkpoints of a run: the two newest and the best are kept, by Orbax.

A checkpoint holds what training changes (step, head, adapter if there is one, optimiser), and as
`extra` a record: the position in the data order, the validation Dice, SHA-256 of all of them, and
the hash of the frozen encoder, never the encoder itself. Orbax writes under a temporary name and
renames, and what it removes is renamed before: a process killed at any moment leaves whole
checkpoints only. Files that break later show in the hashes (Orbax alone reads a flipped byte as if
nothing were). A training then continues from the checkpoint before, and says so; a reader refuses,
because without the best checkpoint it would answer with another model.
"""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lagseg_jax.runs.preservation import NewestAndBest
from lagseg_jax.runs.train_state import TrainState, is_whole, make_record
from lagseg_jax.runtime.console import errors_only
from lagseg_jax.runtime.devices import shared_by_processes, tree_hash
from lagseg_jax.runtime.errors import InputError, TrainingError
from lagseg_jax.runtime.processes import barrier

log = logging.getLogger(__name__)

REMOVED = "removed"  # folder of checkpoints that are being deleted


class _Damaged(Exception):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
        workdir: the run's folder; checkpoints lie in `checkpoints/<step>`.
        encoder_hash: SHA-256 of the frozen encoder; a checkpoint of another one is refused.
        split_hash: SHA-256 of the split, for what is saved; see `check_split`.
        read_only: changes nothing in the folder, where a training may be saving right now.

    Attributes:
        failed: steps whose checkpoints could not be saved.

    Raises:
        InputError: `read_only`, and there is no such folder.
    """

    def __init__(
        self, workdir: Path, encoder_hash: str, read_only: bool = False, split_hash: str = ""
    ):
        self.folder = Path(workdir).absolute() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise InputError(f"{self.folder} does not exist, expected the checkpoints of a run")
        self.failed: list[int] = []
        self._encoder_hash, self._split_hash = encoder_hash, split_hash
        self._read_only = read_only
        self._manager = self._open()
        self._records: dict[int, dict] = {}
        self._damaged: dict[int, str] = {}  # step -> what is wrong with its record
        for step in self._manager.all_steps():
            try:
                self._records[step] = self._read_record(step)
            except _Damaged as error:
                if (self.folder / str(step)).is_dir():  # a training may just have removed it
                    self._damaged[step] = str(error)

    @errors_only("absl")  # Orbax warns about what follows from `read_only`
    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=NewestAndBest(self.best),
            cleanup_tmp_directories=not self._read_only,
            create=not self._read_only,
            read_only=self._read_only,
            todelete_subdir=None if self._read_only else REMOVED,
            # A save takes a fraction of a second per epoch. Waiting for it bounds what a kill costs
            # by one interval, and a save that fails is met at once.
            enable_async_checkpointing=False,
        )
        if self._read_only:  # each process for itself: not all of them need to read
            me = jax.process_index()
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"reader{me}"
            )
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, data: dict, validation_dice: float | None) -> None:
        """Saves, and returns when all is on the disk; a checkpoint of the same step is replaced.

        A save that fails is logged, and its step stands in `failed`.

        Args:
            state: the train state.
            data: state of the training batches; what JSON can say.
            validation_dice: None for a checkpoint between validations, NaN when the validation
                cases have no atrium; neither can be the best.

        Raises:
            TrainingError: a save failed in one of several processes, which cannot agree any more.
        """
        step = int(state.step)
        if step in self._records:
            self._manager.delete(step)
        self._empty_removed()
        record = make_record(state, data, self._encoder_hash, validation_dice, self._split_hash)
        save_state = ocp.args.PyTreeSave(shared_by_processes(state))
        args = ocp.args.Composite(state=save_state, extra=ocp.args.JsonSave(record))
        try:
            # Counted in already when Orbax asks which ones to keep.
            self._records[step] = record
            self._manager.save(step, args=args)
        except Exception as error:
            self._fail(step, error)

    def _fail(self, step: int, error: Exception) -> None:
        self.failed.append(step)
        del self._records[step]
        sentence = f"the checkpoint of step {step} could not be saved ({_short(error)})"
        if jax.process_count() > 1:
            raise TrainingError(f"{sentence}, and the processes cannot go on together") from error
        newest = self.newest()
        stays = "there is none before it" if newest is None else f"that of step {newest} stays"
        log.error("ERROR: %s; the training goes on, and %s", sentence, stays)
        # A new manager knows only what lies on the disk, and clears away the half-written folder.
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()

    def _empty_removed(self) -> None:
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / REMOVED, ignore_errors=True)

    def newest(self) -> int | None:
        """Step of the newest checkpoint, None when there is none."""
        return max(self._records, default=None)

    def is_validated(self, step: int) -> bool:
        """Whether the checkpoint of this step knows its validation Dice."""
        return self._records.get(step, {}).get("validation_dice") is not None

    def best(self) -> tuple[int, float] | None:
        """Step and validation Dice of the best checkpoint, None before the first validation.

        Of equally good ones it is the earliest: early stopping counts from it.

        Raises:
            InputError: a checkpoint is damaged, and might be the best.
        """
        for step, reason in self._damaged.items():
            raise self._refusal(step, reason)
        dices = {step: record["validation_dice"] for step, record in self._records.items()}
        validated = sorted(step for step, dice in dices.items() if dice is not None)
        return max(((s, dices[s]) for s in validated), key=lambda found: found[1], default=None)

    def restore_newest(self, like: TrainState) -> tuple[TrainState, dict] | None:
        """Loads the newest checkpoint that is whole onto the devices where `like` lies.

        Newer ones, and any with a broken record, are renamed to `<step>.damaged`, with a warning.

        Args:
            like: a state of the same structure and placement (its values are not used).

        Returns:
            The state and the state of the training batches; None when there is no checkpoint.

        Raises:
            InputError: it belongs to another encoder, or not one of the checkpoints is whole.
        """
        damaged = dict(self._damaged)
        for step in sorted(self._records, reverse=True):
            try:
                found = self._restore(step, like)
            except _Damaged as error:
                damaged[step] = str(error)
                continue
            self._set_aside(damaged, step)
            return found
        if not damaged:
            return None
        reasons = "; ".join(f"{step}: {reason}" for step, reason in sorted(damaged.items()))
        raise InputError(
            f"not one checkpoint in {self.folder} can be read ({reasons}), expected a whole one; "
            "delete this folder to train from the start"
        )

    def _set_aside(self, damaged: dict[int, str], used: int) -> None:
        for step, reason in sorted(damaged.items()):
            folder, aside = self.folder / str(step), self.folder / f"{step}.damaged"
            log.warning(
                "checkpoint %s is damaged (%s) and renamed to %s; "
                "the training continues from checkpoint %s",
                *(folder, reason, aside.name, self.folder / str(used)),
            )
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
            self._records.pop(step, None)
        if damaged:
            barrier()  # none looks before they are set aside
            self._manager.reload()
        self._damaged = {}

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._restore_state(step, abstract)
        self._check_hash(step, "opt_state", state.opt_state)
        if int(state.step) != step:
            raise _Damaged(f"it says that it is of step {int(state.step)}")
        return state, self._records[step]["data"]

    def restore_params(self, step: int, like: dict) -> dict:
        """Loads the trained parameters alone, for inference.

        Args:
            step: which checkpoint.
            like: tree of `jax.ShapeDtypeStruct` with the sharding to restore to.

        Raises:
            InputError: the checkpoint belongs to another encoder, or is damaged.
        """
        try:
            return self._restore_state(step, {"params": like}, partial_restore=True)["params"]
        except _Damaged as error:
            raise self._refusal(step, str(error)) from None

    def _restore_state(self, step: int, like: Any, **options: Any) -> Any:
        """A tree with the shapes, dtypes and sharding of `like`, with checked parameters."""
        self._check_encoder(step)
        restore_args = ocp.checkpoint_utils.construct_restore_args(like)
        args = ocp.args.PyTreeRestore(like, restore_args=restore_args, **options)
        try:
            state = self._manager.restore(step, args=ocp.args.Composite(state=args)).state
        except Exception as error:  # of many types, for the many files of a checkpoint
            raise _Damaged(_short(error)) from None
        params = state["params"] if isinstance(state, dict) else state.params
        self._check_hash(step, "params", params)
        return state

    def check_encoder(self) -> None:
        """Raises InputError if the newest checkpoint belongs to another encoder."""
        if (step := self.newest()) is not None:
            self._check_encoder(step)

    def check_split(self, path: Path, split_hash: str) -> None:
        """Raises InputError if the newest checkpoint was trained with another split than `path`."""
        step = self.newest()
        if step is not None and self._records[step]["split_sha256"] != split_hash:
            raise InputError(
                f"{path} is not the split that {self.folder / str(step)} was trained with, "
                "expected that one; put it back, or take another --workdir"
            )

    def _check_encoder(self, step: int) -> None:
        saved_with = self._records[step]["encoder_sha256"]
        if saved_with != self._encoder_hash:
            raise InputError(
                f"{self.folder / str(step)} was trained on an encoder with SHA-256 {saved_with}, "
                f"but the one given has {self._encoder_hash}: other tensors, or another rule of "
                "position-embedding interpolation"
            )

    def _check_hash(self, step: int, part: str, tree: Any) -> None:
        if tree_hash(tree) != self._records[step]["sha256"][part]:
            raise _Damaged(f"the SHA-256 of its {part} is not what was saved")

    def _read_record(self, step: int) -> dict:
        args = ocp.args.Composite(extra=ocp.args.JsonRestore())
        try:
            record = self._manager.restore(step, args=args).extra
            if is_whole(record):
                return record
        except Exception as error:
            raise _Damaged(f"its record cannot be read: {type(error).__name__}") from None
        raise _Damaged("the SHA-256 of its record is not what was saved")

    def _refusal(self, step: int, reason: str) -> InputError:
        return InputError(
            f"checkpoint {self.folder / str(step)} is damaged ({reason}), expected a whole one; "
            "delete it to use the best of the others, which is another model"
        )

    def close(self) -> None:
        """Ends Orbax' threads; done by `with`, too."""
        self._manager.close()
        if not self._read_only:
            self._empty_removed()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
