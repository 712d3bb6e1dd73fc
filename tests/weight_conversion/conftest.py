"""What the tests of the conversion share."""

import shutil

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def clean_up(tmp_path):
    """pytest keeps the folders of three runs; these would be gigabytes."""
    yield
    shutil.rmtree(tmp_path)
