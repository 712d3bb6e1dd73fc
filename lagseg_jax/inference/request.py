"""What a prediction asks for beside its inputs: models and options."""

from collections.abc import Sequence
from dataclasses import dataclass

from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.inference.files import CasePage


@dataclass(frozen=True)
class Request:
    """How all cases are predicted.

    Attributes:
        workdirs: folders of training runs; several are an ensemble.
        weights: folders of encoder weights that were moved; one for all runs or one for each.
        components: connected components kept, 0 for all; None: as trained.
        min_mm3: components smaller than this go.
        tta: average over the four in-plane mirrorings.
        reading: what is told about the files; without a plane, the run says it.
        case_page: writes the review page of a case, for outputs that have one.
        estimate: whether the Dice and the volume of masks are estimated.
    """

    workdirs: Sequence[str]
    weights: Sequence[str] | None = None
    components: int | None = None
    min_mm3: float = 0.0
    tta: bool = False
    reading: Reading = AS_STORED
    case_page: CasePage | None = None
    estimate: bool = False
