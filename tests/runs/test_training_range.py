"""What the training cases look like: the record of it, and who is told to be unlike them."""

import numpy as np
import pytest

from lagseg_jax.runs.training_range import (
    RANGE,
    read_training_range,
    unlike_training,
    write_training_range,
)
from lagseg_jax.runtime.errors import InputError


def test_what_was_written_is_read(tmp_path):
    assert read_training_range(tmp_path) == {}
    write_training_range(tmp_path, [{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert read_training_range(tmp_path) == {"a": [1.0, 3.0], "b": [2.0]}


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": ["x"]}', '{"a": [NaN]}'])
def test_a_record_that_was_edited_is_refused(tmp_path, content):
    (tmp_path / RANGE).write_text(content)
    with pytest.raises(InputError, match=r"training_range\.json cannot be read"):
        read_training_range(tmp_path)


@pytest.mark.parametrize("cases", [3, 8, 60])
@pytest.mark.parametrize("name", ["contrast", "roughness"])
def test_one_in_a_hundred_like_cases_is_called_unlike(cases, name):
    """What is positive is as a logarithm like a normal distribution."""
    rng = np.random.default_rng(0)
    draws = rng.normal(-1, 0.5, (4000, cases + 1))
    draws = np.exp(draws) if name == "roughness" else draws
    found = [unlike_training({name: one[0]}, {name: one[1:]}) for one in draws]
    assert 0.004 < np.mean([bool(one) for one in found]) < 0.018


def test_a_field_of_view_may_differ_a_little_from_fields_that_are_all_the_same():
    same = {"field_mm": [360.0] * 20}
    assert not unlike_training({"field_mm": 320}, same) + unlike_training({"field_mm": 400}, same)
    assert unlike_training({"field_mm": 280}, same) == unlike_training({"field_mm": 450}, same)
    assert unlike_training({"field_mm": 380}, {"field_mm": [107, 114, 121, 125, 145]})


def test_each_number_is_judged_apart_and_of_two_cases_nothing_is_told():
    trained = {"a": [1, 2, 3, 2, 1, 3], "b": [1, 2, 3, 2, 1, 3]}
    assert unlike_training({"a": 2, "b": 50, "c": 7}, trained) == ["b"]
    assert unlike_training({"a": 50}, {"a": [1, 2]}) == []
    assert unlike_training({"roughness": 0.0}, {"roughness": [0.1, 0.2, 0.15]}) == ["roughness"]
