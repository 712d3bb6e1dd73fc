"""Refuses a config or a command line with one sentence about the first thing that cannot work.

Nothing here needs jax: a mistake is answered before any device or volume is touched.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags

from lagseg_jax.config.choices import ONE_OR_SEVERAL, VARIANTS
from lagseg_jax.config.rules import RULES
from lagseg_jax.runtime.errors import InputError, nearest_name

_PARSERS: dict[type, tuple[flags.ArgumentParser, str]] = {
    bool: (flags.BooleanParser(), "True or False"),
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses an impossible config at once, before any data or device is touched.

    Raises:
        InputError: the first field that is missing, unknown (with the nearest name), or has a value
            that cannot work by itself or beside the others, and what is expected.
    """
    values = flat_fields(config)
    for field in values:
        if field not in RULES:
            nearest = nearest_name(f"config.{field}", [f"config.{name}" for name in RULES])
            raise InputError(f"config.{field} is not a field of the config{nearest}")
    for field, rule in RULES.items():
        if field not in values:
            raise InputError(f"config.{field} is missing, expected all of configs/default.py")
        rule(f"config.{field}", values[field])
    check_decoder(config.decoder, config.data.image_size)
    check_lora(config)
    check_token_cache(config)
    check_data(config.data)


def check_data(data: ml_collections.ConfigDict) -> None:
    """Raises InputError for fields of `config.data` that contradict each other."""
    if not as_tuple(data.root) and not str(data.images).lower().endswith(".csv"):
        raise InputError(
            "config.data.root is empty, expected the folder of a dataset "
            "(--config.data.root=FOLDER), 'phantom' for synthetic volumes, or the table of the "
            "cases (--config.data.images=FILE.csv)"
        )
    if data.window and tuple(data.clip_percentiles) != (0.5, 99.5):
        raise InputError(
            f"config.data.window is {tuple(data.window)} and config.data.clip_percentiles is "
            f"{tuple(data.clip_percentiles)}, expected one of them: grey values become 0 and 1 "
            "either by a window or by percentiles"
        )
    if data.label_value and data.label_threshold:
        raise InputError(
            f"config.data.label_value is {data.label_value} and config.data.label_threshold "
            f"is {data.label_threshold}, expected one of them"
        )


def as_tuple(value: Any) -> tuple:
    """A field that holds one value or several, as several; "" and 0 are none."""
    if isinstance(value, tuple | list):
        return tuple(value)
    return (value,) if value else ()


def flat_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config by their names, such as `data.image_size`."""
    flat: dict[str, Any] = {}
    for section, content in config.to_dict().items():
        if isinstance(content, dict):
            flat |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            flat[section] = content
    return flat


def check_overrides(arguments: Sequence[str], config: ml_collections.ConfigDict) -> None:
    """Refuses a `--config.SECTION.FIELD=VALUE` that the config has no place for.

    Args:
        arguments: of the command line.
        config: its values say which type is expected.

    Raises:
        InputError: no such field (with the nearest name), or a value of another type.
    """
    known = {f"config.{name}": value for name, value in flat_fields(config).items()}
    for argument in arguments:
        if not argument.startswith("--config."):
            continue
        field, equals, value = argument.removeprefix("--").partition("=")
        if field not in known:
            raise InputError(f"{field} is not a field of the config{nearest_name(field, known)}")
        if field.removeprefix("config.") in ONE_OR_SEVERAL:
            continue  # the rule of the field says what is wrong
        parser, expected = _PARSERS.get(type(known[field]), (None, ""))
        if parser and equals:
            try:
                parser.parse(value)
            except (ValueError, TypeError):
                raise InputError(
                    f"{field} is {value!r}, expected {expected} such as {known[field]}"
                ) from None


def check_batch_size(batch_size: int, devices: int, what: str = "devices") -> None:
    """Raises InputError unless the batch divides evenly over all devices (or processes)."""
    if batch_size < 1 or batch_size % devices:
        nearest = max(devices, round(batch_size / devices) * devices)
        raise InputError(
            f"config.train.batch_size is {batch_size}, expected a multiple of the {devices} "
            f"{what}, such as {nearest}"
        )


def check_decoder(decoder: ml_collections.ConfigDict, image_size: int) -> None:
    """Raises InputError for scales that do not fit the image, or widths that do not fit them."""
    scales, widths = tuple(decoder.scales), tuple(decoder.widths)
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


def check_lora(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for an adapter that the encoder cannot have, or that nothing depends on."""
    encoder, size = config.encoder, VARIANTS[config.encoder.variant]
    fused = parse_blocks(config.fusion.blocks, size["depth"])
    for name, largest in (("lora_rank", size["width"]), ("lora_blocks", size["depth"])):
        if encoder[name] > largest:
            raise InputError(f"config.encoder.{name} is {encoder[name]}, expected 0 to {largest}")
    first = size["depth"] - (encoder.lora_blocks or size["depth"])
    if encoder.lora_rank and fused[-1] < first:
        raise InputError(
            f"config.encoder.lora_blocks is {encoder.lora_blocks}, which begins at block {first}, "
            f"but config.fusion.blocks is {config.fusion.blocks!r}, expected at least "
            f"{size['depth'] - fused[-1]}, so that an adapted block is fused"
        )


def check_token_cache(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for cached tokens of images or of an encoder that change in training."""
    if not config.train.cache_features:
        return
    if config.encoder.lora_rank:
        raise InputError(
            "config.train.cache_features needs an encoder that never changes, but "
            f"config.encoder.lora_rank is {config.encoder.lora_rank}, expected 0"
        )
    for name, value in config.augment.items():
        if value:
            raise InputError(
                "config.train.cache_features needs images that never change, but "
                f"config.augment.{name} is {value}, expected 0 for all of config.augment"
            )


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
