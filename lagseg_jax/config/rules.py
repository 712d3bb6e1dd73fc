"""What every field of a config may be; default and meaning of each stand in `configs/default.py`.

Nothing here needs jax: a mistake is answered before any device or volume is touched.
"""

import math
import numbers
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lagseg_jax.config.choices import (
    ALLOWED,
    DECODER_DTYPE_NAMES,
    DTYPE_NAMES,
    LOSS_NAMES,
    PATCH,
    PLANES,
    VARIANTS,
)
from lagseg_jax.runtime.errors import InputError, one_of

# Takes the name of a field and its value; raises InputError with what is expected instead.
Rule = Callable[[str, Any], None]


def expect(expected: str, holds: Callable[[Any], bool]) -> Rule:
    """The rule that a condition holds; `expected` says it in words."""

    def rule(field: str, value: Any) -> None:
        if not holds(value):
            found = "empty" if value == "" else repr(value)
            raise InputError(f"{field} is {found}, expected {expected}")

    return rule


def is_number(value: Any) -> bool:
    """Whether it is a real number that a float can hold; truth values are none."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> bool:
    """Whether it is an integer."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def is_tuple(values: Any, kind: Callable[[Any], bool], count: int | None = None) -> bool:
    """Whether it is a sequence of values of this kind, of so many if that is given."""
    counted = isinstance(values, tuple | list) and count in (None, len(values))
    return counted and all(map(kind, values))


def choice(names: Sequence[str]) -> Rule:
    """The rule that the value is one of these names."""
    return lambda field, value: one_of(field, value, names)


def whole(low: int) -> Rule:
    """The rule of whole numbers that begin at `low`, 0 or 1."""
    expected = "a whole number above 0" if low else "a whole number, 0 or more"
    return expect(expected, lambda value: is_whole(value) and value >= low)


def multiple_of_patch(field: str, value: Any) -> None:
    """Patches of 14 pixels fill the image."""
    expect("a whole number", is_whole)(field, value)
    lower = max(PATCH, value // PATCH * PATCH)
    expected = f"a multiple of {PATCH} such as {lower} or {lower + PATCH}"
    expect(expected, lambda pixels: pixels > 0 and pixels % PATCH == 0)(field, value)


def problem_codes(field: str, value: Any) -> None:
    """Only codes of problems that a training can do with."""
    expect("codes such as ('empty_label',)", lambda codes: is_tuple(codes, is_text))(field, value)
    for code in value:
        one_of(field, code, ALLOWED)


def orientation(field: str, value: Any) -> None:
    """Nothing, three letters, or the name of a form."""
    TEXT(field, value)
    if value:  # only then are the volumes' libraries needed
        from lagseg_jax.imaging.orientation import check_orientation

        check_orientation(field, value)


TEXT = expect("text", is_text)
TEXTS = expect("text, or several in parentheses", lambda v: is_text(v) or is_tuple(v, is_text))
FLAG = expect("True or False", lambda value: isinstance(value, bool))
POSITIVE = expect("a number above 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = expect("a number, 0 or more", lambda value: is_number(value) and value >= 0)
WHOLE_NUMBERS = expect("whole numbers in parentheses", lambda value: is_tuple(value, is_whole))

RULES: dict[str, Rule] = {
    "seed": whole(0),
    "data.root": expect(
        "the folder of a dataset (--config.data.root=FOLDER), several in parentheses, or 'phantom' "
        "for synthetic volumes",
        lambda value: is_text(value) or (is_tuple(value, is_text) and all(value)),
    ),
    "data.images": TEXTS,
    "data.labels": TEXTS,
    "data.cases": TEXTS,
    "data.exclude": TEXTS,
    "data.balance": choice(("slices", "datasets")),
    "data.label_value": expect(
        "a whole number, or several above 0 in parentheses; 0 for the only one",
        lambda v: (is_whole(v) and v >= 0) or (is_tuple(v, is_whole) and v and min(v) > 0),
    ),
    "data.label_threshold": NOT_NEGATIVE,
    "data.orientation": orientation,
    "data.plane": choice(("", *PLANES)),
    "data.image_size": multiple_of_patch,
    "data.clip_percentiles": expect(
        "two numbers with 0 <= low < high <= 100",
        lambda value: is_tuple(value, is_number, 2) and 0 <= value[0] < value[1] <= 100,
    ),
    "data.window": expect(
        "two numbers (low, high) with low < high, or () for the percentiles",
        lambda v: (
            is_tuple(v, is_number, 0)
            or (is_tuple(v, is_number, 2) and v[0] + abs(v[0]) * 1e-6 < v[1])
        ),
    ),
    "data.patient": TEXT,
    "data.split": TEXT,
    "data.fractions": expect(
        "3 numbers in parentheses, all above 0 and with sum 1",
        lambda value: (
            is_tuple(value, is_number, 3) and min(value) > 0 and math.isclose(sum(value), 1)
        ),
    ),
    "data.counts": expect(
        "3 whole numbers in parentheses, at least one each, or () for the fractions",
        lambda v: is_tuple(v, is_whole, 0) or (is_tuple(v, is_whole, 3) and min(v) > 0),
    ),
    "data.fold": expect(
        "0 to 4, or -1 for no folds", lambda value: is_whole(value) and -1 <= value <= 4
    ),
    "data.split_seed": whole(0),
    "data.train_patients": whole(0),
    "data.train_fraction": expect(
        "a number above 0, at most 1", lambda value: is_number(value) and 0 < value <= 1
    ),
    "data.allow": problem_codes,
    "data.max_gb": POSITIVE,
    "data.cache_dir": TEXT,
    "data.cache_gb": POSITIVE,
    "data.read_threads": whole(1),
    "encoder.variant": choice(tuple(VARIANTS)),
    "encoder.registers": expect("0 or 4", lambda value: is_whole(value) and value in (0, 4)),
    "encoder.weights": TEXT,
    "encoder.seed": whole(0),
    "encoder.dtype": choice(DTYPE_NAMES),
    "encoder.lora_rank": whole(0),
    "encoder.lora_blocks": whole(0),
    "fusion.blocks": TEXT,
    "fusion.learned": FLAG,
    "decoder.scales": WHOLE_NUMBERS,
    "decoder.widths": WHOLE_NUMBERS,
    "decoder.image_injection": FLAG,
    "decoder.image_path": choice(("resized", "pyramid")),
    "decoder.dtype": choice(DECODER_DTYPE_NAMES),
    "augment.rotation_degrees": NOT_NEGATIVE,
    "augment.scale": NOT_NEGATIVE,
    "augment.translation": NOT_NEGATIVE,
    "augment.gamma": NOT_NEGATIVE,
    "augment.contrast": NOT_NEGATIVE,
    "augment.brightness": NOT_NEGATIVE,
    "augment.noise": NOT_NEGATIVE,
    "augment.bias_field": NOT_NEGATIVE,
    "train.init_from": TEXT,
    "train.epochs": POSITIVE,
    "train.steps": whole(0),
    "train.batch_size": whole(1),
    "train.loss": choice(LOSS_NAMES),
    "train.learning_rate": POSITIVE,
    "train.encoder_learning_rate": POSITIVE,
    "train.warmup_steps": whole(0),
    "train.weight_decay": NOT_NEGATIVE,
    "train.gradient_clip": NOT_NEGATIVE,
    "train.evaluate_every": whole(0),
    "train.checkpoint_every": whole(0),
    "train.patience": whole(0),
    "train.max_skipped": whole(1),
    "train.log_every": whole(1),
    "train.profile_steps": expect(
        "2 whole numbers with 1 <= first <= last, or () for none",
        lambda v: is_tuple(v, is_whole, 0) or (is_tuple(v, is_whole, 2) and 1 <= v[0] <= v[1]),
    ),
    "train.cache_features": FLAG,
    "train.feature_cache_gb": POSITIVE,
    "predict.batch_size": whole(1),
    "predict.stride": whole(0),
    "predict.threshold": expect(
        "a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1
    ),
    "predict.smooth_mm": expect(
        "0 or more and at most 100 mm", lambda value: is_number(value) and 0 <= value <= 100
    ),
    "predict.components": whole(0),
}
