"""Configs: every field is read somewhere, deltas touch known fields only, values are checked."""

import importlib
import re
from pathlib import Path

import ml_collections
import pytest

from configs import default
from lagseg_jax.errors import InputError
from lagseg_jax.experiment import check_config

ROOT = Path(default.__file__).parent.parent
NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


def fields(config):
    for section, content in config.items():
        if isinstance(content, ml_collections.ConfigDict):
            yield from ((section, name) for name in content)
        else:
            yield None, section


def test_every_field_is_read_somewhere():
    code = "\n".join(p.read_text() for p in (ROOT / "lagseg_jax").glob("*.py"))
    code = re.sub(r"  #.*", "", re.sub(r'""".*?"""', "", code, flags=re.DOTALL))
    for section, name in fields(default.get_config()):
        # As an attribute (config.data.root, data.root), or for augment as a field of the same name.
        pattern = rf"\.{name}\b" if section != "augment" else rf"strength\.{name}\b"
        assert re.search(pattern, code), f"nothing reads config.{section}.{name}"


def test_every_field_has_a_comment():
    lines = (ROOT / "configs" / "default.py").read_text().splitlines()
    for section, name in fields(default.get_config()):
        if section == "augment":
            continue  # one comment for the section, and names that say it
        owner = section or "config"
        line = next(text for text in lines if re.match(rf"\s+{owner}\.{name} = ", text))
        assert "  # " in line, line


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_deltas_that_pass_the_check(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert set(fields(config)) == set(fields(default.get_config()))
    config.data.root = config.data.root or "somewhere"
    check_config(config)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "default"])
def test_deltas_are_short_and_say_how_to_run_them(name):
    text = (ROOT / "configs" / f"{name}.py").read_text()
    assert f"--config=configs/{name}.py" in text
    assert len(re.findall(r"^    config\.", text, re.MULTILINE)) <= 15


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("data.image_size", 450, "448 or 462"),
        ("data.image_size", -14, "multiple of 14"),
        ("encoder.variant", "huge", "small"),
        ("encoder.registers", 2, "0 or 4"),
        ("encoder.dtype", "float16", "bfloat16"),
        ("decoder.scales", (8, 4, 1), "halves"),
        ("decoder.widths", (8, 8), "multiples of 8"),
        ("decoder.widths", (8, 8, 8, 8, 12), "multiples of 8"),
        ("decoder.image_path", "raw", "pyramid"),
        ("fusion.blocks", "2,12", "0 to 11"),
        ("train.loss", "focal", "bce+dice"),
        ("train.batch_size", 0, "above 0"),
        ("train.patience", -1, "0 or more"),
        ("augment.noise", -0.1, "0 or more"),
        ("data.clip_percentiles", (99.0, 1.0), "low < high"),
        ("predict.threshold", 1.5, "0..1"),
        ("data.root", "", "--config.data.root"),
    ],
)
def test_impossible_values_are_one_sentence(field, value, expected):
    config = default.get_config()
    config.data.root = "somewhere"
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(InputError) as error:
        check_config(config)
    assert f"config.{field} is" in str(error.value) and expected in str(error.value)
    assert "\n" not in str(error.value)
