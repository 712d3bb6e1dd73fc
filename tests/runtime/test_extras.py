"""The command that installs an extra names one that exists, and a package that pip finds."""

import re
import tomllib
from pathlib import Path

import lagseg_jax
from lagseg_jax.runtime import extras
from lagseg_jax.runtime.extras import install_command

ROOT = Path(lagseg_jax.__file__).parent.parent


def test_in_a_checkout_from_elsewhere_and_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install_command("hub") == "`pip install '.[hub]'`"
    monkeypatch.chdir(tmp_path)
    assert install_command("hub") == f"`pip install '{ROOT}[hub]'`"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'")
    assert install_command("hub") == f"`pip install '{ROOT}[hub]'`"
    installed = tmp_path / "site-packages" / "lagseg_jax" / "runtime" / "extras.py"
    monkeypatch.setattr(extras, "__file__", str(installed))
    assert install_command("hub") == "`pip install 'lagseg_jax[hub]'`"


def test_every_extra_that_is_named_exists():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for folder in ("lagseg_jax", "weight_conversion"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            named |= set(re.findall(r"install_command\([\"'](\w+)[\"']\)", text))
            named |= set(re.findall(r"[Ee]xtra `(\w+)`", text))  # as a --help says it
            assert "pip install lagseg_jax" not in text, path
    assert {"hub", "conversion", "dicom", "mesh"} <= named <= set(known)
