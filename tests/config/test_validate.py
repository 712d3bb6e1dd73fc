"""Impossible names, types, values and combinations: one sentence, soon, with a valid one."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_run
from configs import default
from lagseg_jax import main
from lagseg_jax.config.choices import DTYPE_NAMES, LOSS_NAMES
from lagseg_jax.config.rules import RULES
from lagseg_jax.config.validate import (
    check_batch_size,
    check_config,
    check_overrides,
    flat_fields,
    parse_blocks,
)
from lagseg_jax.data.datasets import check_processes
from lagseg_jax.runtime.errors import InputError

ROOT = Path(default.__file__).parent.parent


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("data.image_size", 450, "448 or 462"),
        ("data.image_size", -14, "multiple of 14"),
        ("data.fractions", (0.7, 0.3), "3 numbers"),
        ("data.fractions", (0.7, 0.2, 0.2), "sum 1"),
        ("data.fractions", (1.0, 0.5, -0.5), "above 0"),
        ("data.fractions", (0.7, "x", 0.2), "3 numbers"),
        ("data.counts", (4,), "3 whole numbers"),
        ("data.counts", (4.5, 1, 1), "3 whole numbers"),
        ("data.counts", (4, 0, 1), "at least one"),
        ("data.fold", 5, "0 to 4"),
        ("data.max_gb", 0.0, "above 0"),
        ("data.allow", ("empty_labels",), "did you mean empty_label?"),
        ("data.allow", ("label_values",), "no_contrast"),
        ("data.orientation", "LLS", "one letter of each pair"),
        ("data.plane", "axail", "did you mean axial?"),
        ("encoder.variant", "huge", "small"),
        ("encoder.variant", "gaint", "did you mean giant?"),
        ("encoder.registers", 2, "0 or 4"),
        ("encoder.seed", -1, "0 or more"),
        ("encoder.dtype", "float16", "did you mean bfloat16?"),
        ("encoder.lora_rank", -1, "0 or more"),
        ("encoder.lora_rank", 769, "0 to 768"),
        ("encoder.lora_blocks", -1, "0 or more"),
        ("encoder.lora_blocks", 13, "0 to 12"),
        ("decoder.scales", (8, 4, 1), "halves"),
        ("decoder.scales", (8.0, 4.0), "whole numbers"),
        ("decoder.widths", (8, 8), "multiples of 8"),
        ("decoder.widths", (8, 8, 8, 8, 12), "multiples of 8"),
        ("decoder.image_path", "pyramide", "did you mean pyramid?"),
        ("fusion.blocks", "2,12", "0 to 11"),
        ("fusion.blocks", "al", "did you mean all?"),
        ("train.loss", "focal", "bce+dice"),
        ("train.loss", "dise", "did you mean dice?"),
        ("train.batch_size", 0, "above 0"),
        ("train.epochs", float("inf"), "above 0"),
        ("train.learning_rate", float("nan"), "above 0"),
        ("train.encoder_learning_rate", 0.0, "above 0"),
        ("train.patience", -1, "0 or more"),
        ("train.feature_cache_gb", 0.0, "above 0"),
        ("train.profile_steps", (3,), "first <= last"),
        ("train.profile_steps", (5, 3), "first <= last"),
        ("train.profile_steps", (0, 3), "first <= last"),
        ("train.profile_steps", (1, 2.5), "whole numbers"),
        ("augment.noise", -0.1, "0 or more"),
        ("data.clip_percentiles", (99.0, 1.0), "low < high"),
        ("predict.threshold", 1.5, "above 0 and below 1"),
        ("predict.smooth_mm", -0.5, "0 or more"),
        ("predict.smooth_mm", float("nan"), "0 or more"),
        ("seed", -1, "0 or more"),
        ("predict.smooth_mm", 1e9, "at most 100 mm"),
        ("data.root", "", "--config.data.root"),
    ],
)
def test_impossible_values_are_one_sentence(field, value, expected):
    config = default.get_config()
    config.data.root = "somewhere"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as error:
        check_config(config)
    assert f"config.{field} is" in str(error.value) and expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"train.cache_features": True},
            "config.train.cache_features needs an encoder that never changes, but "
            "config.encoder.lora_rank is 4, expected 0",
        ),
        (
            {"encoder.lora_blocks": 3, "fusion.blocks": "2,8"},
            "config.encoder.lora_blocks is 3, which begins at block 9, but config.fusion.blocks is "
            "'2,8', expected at least 4, so that an adapted block is fused",
        ),
    ],
)
def test_adapters_that_cannot_work_are_refused(fields, expected):
    config = default.get_config()
    config.data.root = "somewhere"
    config.augment.update({name: 0.0 for name in config.augment})
    config.update_from_flattened_dict(fields)
    check_config(config)  # frozen, they mean nothing or can be
    config.encoder.lora_rank = 4
    with pytest.raises(InputError) as error:
        check_config(config)
    assert str(error.value) == expected


def test_names_are_those_of_the_functions_that_need_jax():
    from lagseg_jax.model.segmentation import DTYPES
    from lagseg_jax.training.losses import LOSSES

    assert tuple(LOSSES) == LOSS_NAMES and tuple(DTYPES) == DTYPE_NAMES


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.train.batch_size=abc", "is 'abc', expected a whole number such as 32"),
        ("--config.train.batch_size=3.5", "is '3.5', expected a whole number such as 32"),
        ("--config.train.epochs=many", "is 'many', expected a number such as 50.0"),
        ("--config.fusion.learned=maybe", "is 'maybe', expected True or False such as True"),
        ("--config.seed=x", "config.seed is 'x', expected a whole number such as 0"),
        ("--config.train.epoch=3", "not a field of the config, did you mean config.train.epochs?"),
        ("--config.trian.epochs=3", "did you mean config.train.epochs?"),
        ("--config.encodr=base", "did you mean config.encoder."),
    ],
)
def test_overrides(argument, expected):
    with pytest.raises(InputError) as error:
        check_overrides(["main", argument], default.get_config())
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_overrides_of_the_right_type_pass():
    arguments = ["--config.train.epochs=3", "--config.fusion.learned", "--config.seed=0x10"]
    arguments += ["--config.data.counts=(4,1,1)", "--workdir=x", "--config.fusion.learned=false"]
    check_overrides(arguments, default.get_config())


def test_every_field_has_a_rule_that_its_default_keeps():
    values = flat_fields(default.get_config()) | {"data.root": "somewhere"}
    assert set(RULES) == set(values)
    for field, rule in RULES.items():
        rule(field, values[field])


@pytest.mark.parametrize("field", RULES)
def test_a_value_of_another_type_is_refused(field):
    """As it could stand in a config.json that somebody edited."""
    for wrong in (None, {"a": 1}, [["a"]], object()):
        with pytest.raises(InputError, match=rf"^{field} is .*, expected "):
            RULES[field](field, wrong)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("train.batch_size", True, "whole number above 0"),
        ("train.batch_size", 8.0, "whole number above 0"),
        ("train.epochs", "50", "number above 0"),
        ("train.epochs", 10**400, "number above 0"),
        ("train.cache_features", 0, "True or False"),
        ("encoder.registers", False, "0 or 4"),
        ("data.fold", -1.0, "0 to 4"),
        ("data.allow", "empty_label", "codes such as"),
        ("fusion.blocks", 3, "text"),
    ],
)
def test_types_are_not_mistaken_for_each_other(field, value, expected):
    with pytest.raises(InputError, match=expected):
        RULES[field](field, value)


def test_fields_that_a_config_has_too_many_or_lacks_are_named():
    config = default.get_config()
    config.data.root = "somewhere"
    config.encoder.varient = "giant"
    with pytest.raises(InputError, match=r"varient is not.* mean config\.encoder\.variant\?"):
        check_config(config)
    del config.encoder.varient, config.predict.stride
    with pytest.raises(InputError, match=r"config\.predict\.stride is missing"):
        check_config(config)


@pytest.mark.parametrize(
    ("size", "suggestions"), [(450, "448 or 462"), (13, "14 or 28"), (0, "14 or 28")]
)
def test_an_image_size_that_patches_do_not_fill_is_refused(size, suggestions):
    expected = rf"config\.data\.image_size is {size}, expected a multiple of 14.*{suggestions}"
    with pytest.raises(InputError, match=expected):
        RULES["data.image_size"]("config.data.image_size", size)


def test_multiples_of_the_patch_are_accepted():
    for size in (14, 196, 448, 518):
        RULES["data.image_size"]("config.data.image_size", size)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("all", (0, 1, 2, 3)), ("last", (3,)), ("2", (2,)), ("0,2", (0, 2)), ("3, 0", (0, 3))],
)
def test_blocks(text, blocks):
    assert parse_blocks(text, 4) == blocks


@pytest.mark.parametrize("text", ["", "first", "0,4", "-1", "1,1", "1,,2", "0.5", "2;3"])
def test_blocks_that_do_not_exist_are_refused(text):
    expected = rf"config\.fusion\.blocks is '{text}', expected 'all', 'last' or .* from 0 to 3"
    with pytest.raises(InputError, match=expected):
        parse_blocks(text, 4)


@pytest.mark.parametrize(
    ("batch_size", "devices", "nearest"), [(7, 2, 8), (30, 8, 32), (3, 8, 8), (0, 1, 1), (-4, 4, 4)]
)
def test_a_batch_that_devices_cannot_share_is_refused(batch_size, devices, nearest):
    expected = f"train.batch_size is {batch_size}, expected .* {devices} dev.* as {nearest}$"
    with pytest.raises(InputError, match=expected):
        check_batch_size(batch_size, devices)


def test_batches_that_devices_can_share_are_accepted():
    for batch_size, devices in ((1, 1), (7, 1), (8, 8), (32, 4)):
        check_batch_size(batch_size, devices)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.fusion.blocks=99"], "config.fusion.blocks is '99'"),
        (["--config.train.batch_size=abc"], "config.train.batch_size is 'abc'"),
        (["--config.sead=1"], "did you mean config.seed?"),
        (["--config.data.image_size=450"], "448 or 462"),
        (["--num_processes=5"], "config.train.batch_size is 32, expected a multiple of the 5 proc"),
        (["--num_processes=8"], "8 processes for 6 labelled cases found, expected at most 6"),
    ],
)
def test_mistakes_are_answered_in_3_seconds_before_jax_and_data(
    phantom, tmp_path, arguments, expected
):
    script = (
        "import sys; from lagseg_jax import main; from lagseg_jax.runtime import console; "
        "status = console.exit_status(main.main); print('jax' in sys.modules); sys.exit(status)"
    )
    line = [
        "--config=configs/base.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.root={phantom}",
    ]
    start, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script, *line, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    wall, now = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert done.stderr.count("\n") == 1 and expected in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
    # Of its own: other programs use this machine, too. Nothing is waited for, such as a network.
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 3 and wall < 60


def test_processes_that_can_share_the_work_are_accepted(phantom):
    config = default.get_config()
    config.data.root = str(phantom)
    for count in (1, 2, 4):
        check_processes(config, count)
    config.data.root = "phantom"  # generated later
    check_processes(config, 8)


def test_a_batch_that_the_devices_cannot_share_is_met_before_the_data(phantom, tmp_path):
    config = tiny_run.config(phantom, batch_size=3)  # the tests have two devices
    with pytest.raises(InputError, match=r"batch_size is 3, expected a multiple of the 2 devices"):
        main.run(config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()
