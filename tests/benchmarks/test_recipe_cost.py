"""python -m benchmarks.recipe_cost: a table for every config, and mistakes in one sentence."""

import re

import numpy as np
import pytest

from benchmarks import recipe_cost
from benchmarks.paper.hours import MACHINES
from lagseg_jax.runtime.errors import InputError


@pytest.mark.parametrize("name", ["giant", "large", "base", "small", "cpu", "demo"])
def test_a_table_for_every_config(name, capsys):
    assert recipe_cost.main([f"--config=configs/{name}.py"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Predicted, not measured")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {2 + len(MACHINES)}
    assert not re.search(r"nan|inf\b", text)


def test_flags_and_fields_count(capsys):
    def hours(*flags):
        assert recipe_cost.main(["--config=configs/base.py", *flags]) == 0
        rows = [r for r in capsys.readouterr().out.splitlines() if r.startswith("| **hours")]
        return np.array([float(x) for x in re.findall(r"\*\*([\d.]+)\*\*", rows[0])])

    flags = ["--training_slices=320000", "--validation_slices=32000"]
    slow = hours(*flags, "--fraction=0.25")
    np.testing.assert_allclose(slow, 2 * hours(*flags), rtol=0.05)
    np.testing.assert_allclose(slow, hours(*flags, "--config.train.epochs=100"), rtol=0.05)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="--config"):
        recipe_cost.main([])
    with pytest.raises(InputError, match=r"train.batch_size is 12.*multiple of the 8 devices"):
        recipe_cost.main(["--config=configs/base.py", "--config.train.batch_size=12"])
    with pytest.raises(InputError, match="workdir"):
        recipe_cost.main(["--config=configs/base.py", "--workdir=runs"])
