"""Interpolated position embeddings equal torch.nn.functional.interpolate, and stay sane."""

import numpy as np
import pytest

from lagseg_jax.imaging.interpolation import RULES, bicubic_matrix
from lagseg_jax.model.position_embedding import interpolate

# Square and not, smaller and larger than the grid, even, odd and prime, one patch.
SIZES = [(16, 16), (32, 32), (14, 20), (36, 38), (37, 31), (53, 41), (73, 73), (1, 5), (38, 37)]


@pytest.mark.parametrize("grid", [37, 16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_equals_torch(rule, size, grid):
    torch = pytest.importorskip("torch")
    import dinov2_torch

    x = np.random.default_rng(0).normal(size=(grid, grid, 11)).astype(np.float32)
    chw = torch.from_numpy(x).permute(2, 0, 1)[None]
    reference = dinov2_torch.interpolate(chw, *size, rule)[0].permute(1, 2, 0).numpy()
    if size == (grid, grid):  # models do not interpolate at all there
        reference = x
    ours = np.asarray(interpolate(x, size, rule))
    assert ours.shape == (*size, 11)
    assert np.abs(ours - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.parametrize("rule", RULES)
def test_training_size_is_untouched(rule):
    x = np.random.default_rng(0).normal(size=(37, 37, 3)).astype(np.float32)
    assert np.array_equal(interpolate(x, (37, 37), rule), x)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("target", [5, 37, 74])
def test_constant_stays_constant(rule, target):
    assert np.allclose(bicubic_matrix(37, target, rule).sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("target", [31, 41])
def test_size_rules_are_symmetric_and_offset_is_not(target):
    for rule in ("size", "antialias"):
        matrix = bicubic_matrix(37, target, rule)
        assert np.allclose(matrix, matrix[::-1, ::-1], atol=1e-5)
    matrix = bicubic_matrix(37, target, "offset")
    assert not np.allclose(matrix, matrix[::-1, ::-1], atol=1e-3)


def test_one_tap_by_hand():
    # Doubling: output 2 lies a quarter step before input 1; Keys' kernel with a = -0.75 at
    # distances 1.75, 0.75, 0.25, 1.25 (taps -1, 0, 1, 2; tap -1 reads the border value 0).
    row = bicubic_matrix(4, 8, "size")[2]
    assert np.allclose(row, [-0.03515625 + 0.26171875, 0.87890625, -0.10546875, 0.0])


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match=r"'nearest' found, one of .*offset"):
        bicubic_matrix(37, 16, "nearest")
