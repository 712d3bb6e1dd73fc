"""config and command line -> the first impossible name, type, value or combination, as a sentence.

Nothing here needs jax: a mistake is answered before any device or volume is touched.
"""

import itertools
import math
from collections.abc import Sequence

import ml_collections
from absl import flags

from lagseg_jax.config.choices import DECODER_DTYPE_NAMES, DTYPE_NAMES, LOSS_NAMES, PATCH, VARIANTS
from lagseg_jax.runtime.errors import InputError, nearest_name, one_of

POSITIVE: tuple[str, ...] = ("data.cache_gb", "data.max_gb", "data.read_threads", "train.epochs")
POSITIVE += ("train.batch_size", "train.learning_rate", "train.log_every", "predict.batch_size")
POSITIVE += ("train.max_skipped", "train.feature_cache_gb", "predict.stride")
POSITIVE += ("train.encoder_learning_rate",)
NOT_NEGATIVE: tuple[str, ...] = ("train.warmup_steps", "train.weight_decay", "train.gradient_clip")
NOT_NEGATIVE += ("train.evaluate_every", "train.checkpoint_every", "train.patience")
NOT_NEGATIVE += ("predict.components", "data.label_value", "data.split_seed", "encoder.seed")
NOT_NEGATIVE += ("data.train_patients", "train.steps", "predict.smooth_mm")

_PARSERS: dict[type, tuple[flags.ArgumentParser, str]] = {
    bool: (flags.BooleanParser(), "True or False"),
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses impossible values at once, before any data or device is touched.

    Raises:
        InputError: the first field whose value cannot work, and what is expected.
    """
    data, train = config.data, config.train
    check_image_size(data.image_size)
    check_encoder(config.encoder)
    check_decoder(config.decoder, data.image_size)
    check_adapter(config)
    one_of("config.encoder.dtype", config.encoder.dtype, DTYPE_NAMES)
    one_of("config.decoder.dtype", config.decoder.dtype, DECODER_DTYPE_NAMES)
    one_of("config.train.loss", train.loss, LOSS_NAMES)
    low, high = _numbers("data.clip_percentiles", data.clip_percentiles, 2)
    if not 0 <= low < high <= 100:
        raise InputError(
            f"config.data.clip_percentiles is {(low, high)}, expected 0 <= low < high <= 100"
        )
    shares = _numbers("data.fractions", data.fractions, 3)
    if min(shares) <= 0 or not math.isclose(sum(shares), 1):
        raise InputError(
            f"config.data.fractions is {shares}, expected three numbers above 0 with sum 1"
        )
    if len(data.counts) and min(_numbers("data.counts", data.counts, 3, whole=True)) < 1:
        raise InputError(f"config.data.counts is {tuple(data.counts)}, expected at least one each")
    if data.allow:
        from lagseg_jax.config.choices import ALLOWED

        for code in data.allow:
            one_of("config.data.allow", code, ALLOWED)
    if len(train.profile_steps):
        first, last = _numbers("train.profile_steps", train.profile_steps, 2, whole=True)
        if not 1 <= first <= last:
            raise InputError(
                f"config.train.profile_steps is {(first, last)}, expected 1 <= first <= last"
            )
    if data.fold not in range(-1, 5):
        raise InputError(f"config.data.fold is {data.fold}, expected 0 to 4, or -1 for no folds")
    if not 0 < data.train_fraction <= 1:
        raise InputError(
            f"config.data.train_fraction is {data.train_fraction}, expected above 0, at most 1"
        )
    if not 0 < config.predict.threshold < 1:
        raise InputError(f"config.predict.threshold is {config.predict.threshold}, expected 0..1")
    if config.predict.smooth_mm > 100:
        raise InputError(
            f"config.predict.smooth_mm is {config.predict.smooth_mm}, expected at most 100 mm"
        )
    for fields, smallest in ((POSITIVE, "above 0"), (NOT_NEGATIVE, "0 or more")):
        for field in fields:
            section, name = field.split(".")
            value = config[section][name]
            # Written so that NaN fails, too.
            if not 0 <= value < math.inf or (value == 0 and fields is POSITIVE):
                raise InputError(f"config.{field} is {value}, expected {smallest}")
    for name, value in config.augment.items():
        if not 0 <= value < math.inf:
            raise InputError(f"config.augment.{name} is {value}, expected 0 or more")
        if value and train.cache_features:
            raise InputError(
                "config.train.cache_features needs images that never change, but "
                f"config.augment.{name} is {value}, expected 0 for all of config.augment"
            )
    if not data.root:
        raise InputError(
            "config.data.root is empty, expected the folder of a dataset "
            "(--config.data.root=FOLDER), or 'phantom' for synthetic volumes"
        )


def check_overrides(arguments: Sequence[str], config: dict) -> None:
    """Refuses a `--config.SECTION.FIELD=VALUE` that the config has no place for.

    Args:
        arguments: of the command line.
        config: the config as nested dicts; its values say which type is expected.

    Raises:
        InputError: no such field (with the nearest name), or a value of another type.
    """
    known = {
        f"config.{section}.{name}" if isinstance(content, dict) else f"config.{section}": value
        for section, content in config.items()
        for name, value in (content if isinstance(content, dict) else {section: content}).items()
    }
    for argument in arguments:
        if not argument.startswith("--config."):
            continue
        field, equals, value = argument.removeprefix("--").partition("=")
        if field not in known:
            raise InputError(f"{field} is not a field of the config{nearest_name(field, known)}")
        parser, expected = _PARSERS.get(type(known[field]), (None, ""))
        if parser and equals:
            try:
                parser.parse(value)
            except (ValueError, TypeError):
                raise InputError(
                    f"{field} is {value!r}, expected {expected} such as {known[field]}"
                ) from None


def check_batch_size(name: str, batch_size: int, devices: int, what: str = "devices") -> None:
    """Raises InputError unless the batch divides evenly over all devices (or processes)."""
    if batch_size < 1 or batch_size % devices:
        nearest = max(devices, round(batch_size / devices) * devices)
        raise InputError(
            f"{name} is {batch_size}, expected a multiple of the {devices} {what}, "
            f"such as {nearest}"
        )


def check_image_size(image_size: int) -> None:
    """Raises InputError unless the image size is a positive multiple of the 14-pixel patch."""
    if image_size < PATCH or image_size % PATCH:
        lower = max(PATCH, image_size // PATCH * PATCH)
        raise InputError(
            f"config.data.image_size is {image_size}, expected a multiple of {PATCH} such as "
            f"{lower} or {lower + PATCH}"
        )


def check_encoder(encoder: ml_collections.ConfigDict) -> None:
    """Raises InputError for a variant or a number of registers that does not exist."""
    one_of("config.encoder.variant", encoder.variant, tuple(VARIANTS))
    if encoder.registers not in (0, 4):
        raise InputError(f"config.encoder.registers is {encoder.registers}, expected 0 or 4")


def check_adapter(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for an adapter that the encoder cannot have, or that nothing depends on."""
    encoder, size = config.encoder, VARIANTS[config.encoder.variant]
    fused = parse_blocks(config.fusion.blocks, size["depth"])
    for name, largest in (("lora_rank", size["width"]), ("lora_blocks", size["depth"])):
        if not 0 <= encoder[name] <= largest:
            raise InputError(f"config.encoder.{name} is {encoder[name]}, expected 0 to {largest}")
    if not encoder.lora_rank:
        return
    first = size["depth"] - (encoder.lora_blocks or size["depth"])
    if fused[-1] < first:
        raise InputError(
            f"config.encoder.lora_blocks is {encoder.lora_blocks}, which begins at block {first}, "
            f"but config.fusion.blocks is {config.fusion.blocks!r}, expected at least "
            f"{size['depth'] - fused[-1]}, so that an adapted block is fused"
        )
    if config.train.cache_features:
        raise InputError(
            "config.train.cache_features needs an encoder that never changes, but "
            f"config.encoder.lora_rank is {encoder.lora_rank}, expected 0"
        )


def check_decoder(decoder: ml_collections.ConfigDict, image_size: int) -> None:
    """Raises InputError for scales, widths or an image path that the decoder cannot have."""
    scales = _numbers("decoder.scales", decoder.scales, whole=True)
    widths = _numbers("decoder.widths", decoder.widths, whole=True)
    halves = all(2 * fine == coarse for coarse, fine in itertools.pairwise(scales))
    if not scales or not halves or scales[-1] < 1 or image_size % scales[-1]:
        raise InputError(
            f"config.decoder.scales is {scales}, expected halves such as (8, 4, 2, 1), the last "
            f"one dividing the image size {image_size}"
        )
    if len(widths) != len(scales) + 1 or any(w < 8 or w % 8 for w in widths):
        raise InputError(
            f"config.decoder.widths is {widths}, expected {len(scales) + 1} multiples of 8: one "
            f"for 1/14 and one for each scale of {scales}"
        )
    one_of("config.decoder.image_path", decoder.image_path, ("resized", "pyramid"))


def parse_blocks(blocks: str, depth: int) -> tuple[int, ...]:
    """Turns `config.fusion.blocks` into sorted 0-based block numbers.

    Args:
        blocks: "all", "last", or block numbers separated by commas, as in DINOv2's
            `get_intermediate_layers`.
        depth: L, the number of blocks of the encoder.

    Raises:
        InputError: a number is not a block of this encoder, or stands there twice.
    """
    if blocks == "all":
        return tuple(range(depth))
    if blocks == "last":
        return (depth - 1,)
    try:
        chosen = sorted(int(number) for number in blocks.split(","))
    except ValueError:
        chosen = []
    if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < depth:
        raise InputError(
            f"config.fusion.blocks is {blocks!r}, expected 'all', 'last' or different block "
            f"numbers from 0 to {depth - 1} separated by commas"
            f"{nearest_name(blocks, ('all', 'last'), 0.5)}"
        )
    return tuple(chosen)


def _numbers(field: str, values: Sequence, count: int | None = None, whole=False) -> tuple:
    values, kinds = tuple(values), (int,) if whole else (int, float)
    numeric = all(type(value) in kinds and math.isfinite(value) for value in values)
    if not numeric or (count is not None and len(values) != count):
        expected = f"{count or ''}{' whole' * whole} numbers in parentheses".strip()
        raise InputError(f"config.{field} is {values}, expected {expected}")
    return values
