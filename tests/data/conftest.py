"""What the tests of the cache share: two cases and a folder."""

import pytest

from prepared import write_case


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "data").mkdir()
    return [write_case(tmp_path / "data", number) for number in range(3)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"
