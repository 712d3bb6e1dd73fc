"""The section of the report that sets estimates of Dice and volume beside the truth."""

import numpy as np

from lagseg_jax.evaluation.statistics import estimate_agreement
from lagseg_jax.inference.uncertainty import LEVEL
from lagseg_jax.reports.blocks import facts, missing, note, table
from lagseg_jax.reports.figures import number
from lagseg_jax.reports.html import SPACE, Html, join, tag
from lagseg_jax.reports.read import Evaluation

TITLE = "Estimates beside the truth"


def estimates(evaluation: Evaluation) -> Html:
    """How well estimates agree with the truth, and both for each case."""
    found = evaluation.estimates
    if not found:
        return missing(TITLE, "This evaluation has no estimates of Dice and volume.")
    dice, truth = evaluation.values["dice"], evaluation.values["truth_ml"]
    interval = found["volume_low_ml"], found["volume_high_ml"]
    said = estimate_agreement(found["estimated_dice"], dice, truth, interval)
    numbers = {
        "Cases with an estimate": f"{said['n']} of {len(evaluation.names)}",
        "Mean absolute error of the Dice": number(said["mean_absolute_error"], 3),
        "Correlation with the true Dice": f"{number(said['spearman'], 2)} (Spearman), "
        f"{number(said['pearson'], 2)} (Pearson)",
        f"Volumes in their {LEVEL:.0%} interval": f"{said['covered']} of {said['n']}",
    }
    return join(
        tag("h2", TITLE),
        facts(numbers),
        table(["Case", "Dice", "estimated", "mL", "estimated", "unlike in"], _rows(evaluation)),
        note(
            "Estimates come from the probabilities alone, as the validation cases calibrate them; "
            f"a case unlike the training cases has none. With fewer than about{SPACE}20 test cases "
            "these numbers say little."
        ),
    )


def _rows(evaluation: Evaluation) -> list[list[str]]:
    """A row for each case, those first that need a look: no estimate, then the lowest one."""
    found, values = evaluation.estimates, evaluation.values
    order = np.argsort(np.nan_to_num(found["estimated_dice"], nan=-1), kind="stable")
    rows = []
    for at in order.tolist():
        bounds = (number(found[name][at], 1) for name in ("volume_low_ml", "volume_high_ml"))
        estimate = found["estimated_dice"][at]
        rows.append(
            [
                evaluation.names[at],
                number(values["dice"][at], 3),
                number(estimate, 3),
                number(values["truth_ml"][at], 1),
                " to ".join(bounds) if np.isfinite(estimate) else number(estimate, 3),
                evaluation.unlike[at],
            ]
        )
    return rows
