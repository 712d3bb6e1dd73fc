"""Configs: every field is read somewhere, deltas touch known fields only, values are checked."""

import importlib
import re
from pathlib import Path

import ml_collections
import pytest

from configs import default
from lagseg_jax.config.validate import check_config

ROOT = Path(default.__file__).parent.parent
NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


def fields(config):
    for section, content in config.items():
        if isinstance(content, ml_collections.ConfigDict):
            yield from ((section, name) for name in content)
        else:
            yield None, section


def test_every_field_is_read_somewhere():
    files = set((ROOT / "lagseg_jax").rglob("*.py")) - set((ROOT / "lagseg_jax/config").iterdir())
    code = "\n".join(path.read_text() for path in files)
    code = re.sub(r"  #.*", "", re.sub(r'""".*?"""', "", code, flags=re.DOTALL))
    for section, name in fields(default.get_config()):
        # As an attribute (config.data.root, data.root), or for augment as a field of the same name.
        pattern = rf"\.{name}\b" if section != "augment" else rf"strength\.{name}\b"
        assert re.search(pattern, code), f"nothing reads config.{section}.{name}"


def test_every_field_has_a_meaning():
    """In the line of its default."""
    lines = (ROOT / "configs" / "default.py").read_text().splitlines()
    for section, name in fields(default.get_config()):
        start = rf"\s+{section or 'config'}\.{name} = "
        (line,) = [text for text in lines if re.match(start, text)]
        assert len(line.partition("  # ")[2].split()) > 2, line


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
