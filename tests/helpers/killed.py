"""Ends a training as if it were killed, at a step of one's choice."""

import contextlib
import itertools

import pytest

from lagseg_jax.data.batches import TrainingBatches


class _Killed(Exception):
    pass


@contextlib.contextmanager
def killed_after(step):
    """A training in this block is killed when it asks for the batch after this step."""
    following, count = TrainingBatches.__next__, itertools.count()

    def next_or_killed(batches):
        if next(count) == step:
            raise _Killed
        return following(batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(TrainingBatches, "__next__", next_or_killed)
        yield
