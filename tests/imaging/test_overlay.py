"""The overlay is a complete PNG that shows both contours, whatever the masks."""

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lagseg_jax.imaging import overlay
from lagseg_jax.imaging.overlay import (
    MOST_PIXELS,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    _region,
    write_overlay,
)

SHAPE = (13, 37, 53)  # Z, H, W
# Axial slices: to the head, to the back, to the left.
AFFINE = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]])


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)


def ball(centre, radius):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), centre)) < radius**2


def pixels(path, colour, below=0.2):
    """Number of pixels of a colour in a PNG, under the header with its legend."""
    picture = matplotlib.image.imread(path)[..., :3]
    picture = picture[int(below * len(picture)) :]
    return int((np.abs(picture - to_rgb(colour)) < 0.02).all(-1).sum())


def test_both_contours_are_drawn(tmp_path, image):
    path = tmp_path / "case.png"
    write_overlay(path, image, ball((6, 15, 20), 5), ball((6, 19, 26), 5), "Dice 0.5", AFFINE)
    assert pixels(path, TRUTH_COLOUR) > 200 and pixels(path, PREDICTION_COLOUR) > 200
    assert [entry.name for entry in tmp_path.iterdir()] == ["case.png"]


def test_prediction_alone(tmp_path, image):
    write_overlay(tmp_path / "case.png", image, None, ball((6, 15, 20), 5), "no truth", AFFINE)
    assert pixels(tmp_path / "case.png", TRUTH_COLOUR, below=0) == 0
    assert pixels(tmp_path / "case.png", PREDICTION_COLOUR) > 200


@pytest.mark.parametrize("kind", ["empty", "full", "voxel", "int16 image"])
def test_unusual_masks_are_drawn_too(tmp_path, image, kind):
    mask = np.zeros(SHAPE, np.uint8)
    if kind == "full":
        mask[:] = 1
    elif kind != "empty":
        mask[12, 36, 52] = 1
    if kind == "int16 image":
        image = image.astype(np.int16)
    write_overlay(tmp_path / "case.png", image, np.zeros_like(mask), mask, kind, AFFINE)
    assert pixels(tmp_path / "case.png", TRUTH_COLOUR) == 0
    assert (pixels(tmp_path / "case.png", PREDICTION_COLOUR) > 0) == bool(mask.any())


def test_an_old_picture_is_replaced_and_no_global_state_touched(tmp_path, image):
    before = dict(matplotlib.rcParams)
    (tmp_path / "case.png").write_bytes(b"old")
    write_overlay(str(tmp_path / "case.png"), image, None, ball((6, 15, 20), 5), "new", AFFINE)
    assert matplotlib.image.imread(tmp_path / "case.png").ndim == 3
    assert dict(matplotlib.rcParams) == before


def test_a_tall_crop_stays_within_the_pixels(tmp_path):
    image = np.random.default_rng(0).normal(size=(3, 97, 23))
    write_overlay(tmp_path / "case.png", image, None, np.ones(image.shape), "tall", AFFINE)
    height, width = matplotlib.image.imread(tmp_path / "case.png").shape[:2]
    assert 0.95 * MOST_PIXELS < height * width <= MOST_PIXELS


def test_region_spreads_over_the_atrium_and_adds_a_margin():
    mask = np.zeros((29, 61, 67), bool)
    mask[3:25, 20:40, 30:64] = True  # 22 slices, 20 rows, 34 columns
    numbers, rows, columns = _region(mask)
    assert numbers.tolist() == [3, 6, 9, 12, 15, 18, 21, 24]
    assert rows == slice(20 - 8, 40 + 8)  # at least 8
    assert columns == slice(30 - 8, 67)  # not beyond the image


def test_region_shows_only_slices_with_a_mask():
    mask = np.zeros(SHAPE, bool)
    mask[2, 5, 5] = mask[11, 6, 6] = True
    assert _region(mask)[0].tolist() == [2, 11]
    assert _region(np.zeros(SHAPE, bool))[1:] == (slice(0, 37), slice(0, 53))


def letters_of(path, image, affine, monkeypatch):
    """Texts that are written on the panels, and the number of rows of the picture on each."""
    said, shown = [], []
    monkeypatch.setattr(overlay, "_write", lambda panel, x, y, text, **where: said.append(text))
    original = overlay.Axes.imshow

    def imshow(self, picture, **options):
        shown.append((picture, options["aspect"]))
        return original(self, picture, **options)

    monkeypatch.setattr(overlay.Axes, "imshow", imshow)
    write_overlay(path, image, None, np.ones(image.shape, np.uint8), "x", affine)
    return said[:6], shown


def test_letters_bar_and_shape_of_pixels(tmp_path, image, monkeypatch):
    said, shown = letters_of(tmp_path / "a.png", image, AFFINE, monkeypatch)
    assert said == ["slice 0", "R", "L", "A", "P", "10 mm"]
    assert shown[0][1] == 1
    np.testing.assert_array_equal(shown[0][0], image[0])


def test_heads_are_at_the_top_of_coronal_slices(tmp_path, image, monkeypatch):
    # To the back, to the head, to the left; rows are twice as tall as columns are wide.
    affine = np.array([[0, 0, -1.0, 0], [-3.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1.0]])
    said, shown = letters_of(tmp_path / "a.png", image, affine, monkeypatch)
    assert said[1:5] == ["R", "L", "S", "I"] and shown[0][1] == 2
    np.testing.assert_array_equal(shown[0][0], image[0, ::-1])
    height, width = matplotlib.image.imread(tmp_path / "a.png").shape[:2]
    rows = (height / (2 * 2 * 37 * 3.0 / 53 + 0.55)) * 2 * 37 * 3.0 / 53  # of one panel
    assert abs(rows / (width / 4) - 2 * 37 / 53) < 0.02
