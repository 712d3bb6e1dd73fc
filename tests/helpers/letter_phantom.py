"""A volume that shows the letter F, in any orientation: a mirrored or turned picture is seen."""

from pathlib import Path

import nibabel
import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.orientation import affine_of_letters
from lagseg_jax.imaging.review_case import case_content
from lagseg_jax.reports.review_case import write_case_page

SHAPE = (11, 13, 7)  # right, anterior, superior
SPACING = np.array([2.0, 2.5, 3.0])
F = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]])


def letter_phantom():
    """An F as one sees it in axial pictures, brighter from slice to slice: RAS, and two masks."""
    grey = np.full(SHAPE, 20.0) + 10 * np.arange(SHAPE[2])
    letter = np.zeros(SHAPE, np.uint8)
    letter[4:8, 3:8, 1:6] = F[::-1, ::-1].T[:, :, None]
    grey[letter == 1] += 150
    grey[0, 0, 0], grey[-1, -1, -1] = 0, 255
    return grey, letter, np.roll(letter, (1, 1), (0, 2))


def as_radiologists_look(ras, plane, number):
    """A picture (rows, columns) of an array in RAS, as radiologists look."""
    if plane == "axial":
        return ras[::-1, ::-1, number].T
    if plane == "coronal":  # planes count from the front, slices from the feet
        return ras[::-1, ::-1, ::-1][:, number].T
    return ras[::-1, ::-1, ::-1][number].T  # sagittal: from the right


def stored(ras, letters):
    """The array in another order and direction, with its affine."""
    start = nibabel.Nifti1Image(ras, affine_of_letters("RAS", SPACING))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(letters)
    )
    turned = start.as_reoriented(turn)
    return np.asanyarray(turned.dataobj), turned.affine


def write_letter_page(path, letters, title="F", **more):
    """The page of the phantom as a case, stored in that order and direction."""
    grey, truth, prediction = letter_phantom()
    (array, affine), (truth, _), (prediction, _) = (
        stored(one, letters) for one in (grey, truth, prediction)
    )
    volume = Volume(array, affine, array.shape, {}, Path("x.nii"))
    write_case_page(path, title, case_content(volume, prediction, truth, **more))
