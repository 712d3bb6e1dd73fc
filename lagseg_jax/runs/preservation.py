"""Which checkpoints of a run are kept."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import orbax.checkpoint as ocp

NEWEST = 2  # so many are kept, and the best


@dataclasses.dataclass
class NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest ones and the one that `best` names: its step and validation Dice."""

    best: Callable[[], tuple[int, float] | None]

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        """For each checkpoint that is there, whether it stays."""
        steps = [info.step for info in checkpoints]
        best = self.best()
        keep = {*sorted(steps)[-NEWEST:], best and best[0]}
        return [step in keep for step in steps]
