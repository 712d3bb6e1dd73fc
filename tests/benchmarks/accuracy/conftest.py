"""What the tests of the accuracy benchmark share: a command line and a split of phantoms."""

import pytest

from benchmarks.accuracy.__main__ import parse_arguments
from benchmarks.accuracy.arms import configure
from lagseg_jax.data.run_split import load_split


@pytest.fixture(scope="session")
def options_for(phantom):
    """The options of a command line for the phantoms."""

    def options(workdir, *more):
        arguments = [f"--data={phantom}", f"--workdir={workdir}", "--counts=3,1,2"]
        arguments += [f"--config=tests/helpers/tiny_run.py:{phantom}", "--minutes=0.05", *more]
        return parse_arguments(arguments)

    return options


@pytest.fixture(scope="session")
def split(options_for, tmp_path_factory):
    """The cases of every part."""
    folder = tmp_path_factory.mktemp("split")
    return load_split(configure(options_for(folder), {}), folder)
