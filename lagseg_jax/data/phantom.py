"""Makes synthetic scans of the left atrium with labels, LGE-MRI or CT, as a dataset on disk.

A heart in its chest, made of distance functions in mm: ellipsoids and tubes, painted from the back
to the front with soft edges (partial volume). All blood is about equally bright (in CT that of the
left heart), so brightness alone does not find the atrium; the border to the left ventricle is only
a faint mitral valve, and the veins go on beyond the labelled stump. Axes: x to the patient's left,
y to the back, z to the head, in mm from the centre of the atrium.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from lagseg_jax.data.phantom_scans import FAMILIES, Family, ct_scanner, mri_scanner
from lagseg_jax.data.phantom_shapes import as_column, blend, ellipsoid, pose, texture, tube, warp
from lagseg_jax.runtime.errors import InputError, one_of
from lagseg_jax.runtime.files import read_json, write_atomically, written_atomically

LABEL_VALUE = 420  # what LAScarQS 2022 writes for the atrium
STUMP_MM = 11.0  # a vein belongs to the label up to this distance from the body of the atrium

# Tubes: the points of the centre line and the radius at each of them, in mm.
VEINS = {
    "right superior": ([(-20, 4, 10), (-40, 7, 18), (-56, 16, 26), (-66, 28, 33)], (9, 7, 5, 3)),
    "right inferior": ([(-22, 8, -6), (-39, 18, -9), (-54, 30, -14), (-64, 38, -22)], (9, 7, 5, 3)),
    "left superior": ([(20, 4, 10), (38, 4, 19), (53, 9, 26), (64, 18, 34)], (9, 7, 5, 3)),
    "left inferior": ([(20, 8, -5), (36, 17, -7), (50, 28, -11), (62, 36, -20)], (8, 7, 5, 3)),
}
APPENDAGE = ([(22, -6, 6), (35, -15, 10), (42, -26, 13), (39, -35, 14)], (8, 7, 7.5, 5))
MITRAL_ORIFICE = ([(15, -15, -11), (32, -37, -18)], (13, 15))
RIGHT_VESSELS = {
    "superior vena cava": ([(-36, -20, 4), (-34, -17, 30), (-33, -14, 80)], (10, 9, 9)),
    "inferior vena cava": ([(-36, -12, -20), (-33, -2, -45), (-32, 0, -90)], (12, 12, 12)),
    "pulmonary trunk": ([(14, -62, 0), (22, -52, 22), (20, -34, 38)], (14, 13, 12)),
    "right pulmonary artery": ([(20, -32, 39), (-8, -14, 38), (-44, -2, 35)], (11, 10, 8)),
    "left pulmonary artery": ([(20, -32, 39), (34, -8, 40), (50, 14, 36)], (11, 10, 8)),
}
AORTA = {
    "ascending": ([(6, -33, 0), (-3, -34, 16), (-14, -34, 36), (-16, -30, 70)], (13, 14, 13, 13)),
    "descending": ([(20, 37, -90), (24, 36, 0), (24, 34, 80)], (11, 11, 12)),
}
# Ellipsoids: centre (mm), half-axes (mm), turn about z (degrees).
ATRIUM = ((0, 0, 0), (31, 20, 24), 0)
VENTRICLE = ((37, -42, -21), (42, 23, 25), -40)
RIGHT_CHAMBERS = {
    "right ventricle": ((-6, -62, -24), (44, 21, 30), -18),
    "right atrium": ((-42, -30, -14), (23, 27, 27), 0),
}


SUB = 2  # sub-slices per slice; their mean gives a thick slice its partial volume


def make_case(
    rng: np.random.Generator,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    family: str = "lge",
) -> tuple[np.ndarray, np.ndarray]:
    """One random heart, scanned.

    Args:
      rng: source of anatomy, pose, contrast, bias field and noise: same state, same case.
      shape: voxels along x, y, z; None: those of the family.
      spacing: mm per voxel along x, y, z; None: those of the family.
      family: a name of `FAMILIES`: "lge", or "ct".

    Returns:
      The image, int16 (x, y, z), of LGE-MRI in a scanner's arbitrary units, of CT in HU, and the
      label, uint8 (x, y, z), 1 in the cavity of the left atrium with its appendage and the stumps
      of four veins.
    """
    grey = FAMILIES[family]
    shape, spacing = shape or grey.shape, spacing or grey.spacing
    fine_shape = (shape[0], shape[1], shape[2] * SUB)
    steps = np.array(spacing) / (1, 1, SUB)
    scan = _points(rng, fine_shape, steps)
    heart = warp(rng, pose(rng, scan))
    edge = float(steps.mean())  # mm over which the border of a structure fades

    atrium, veins = _atrium(rng, heart)
    ventricle, myocardium = _ventricle(rng, heart)
    right = [ellipsoid(rng, heart, part) for part in RIGHT_CHAMBERS.values()]
    right = np.minimum.reduce(right + [tube(rng, heart, part) for part in RIGHT_VESSELS.values()])
    aorta = np.minimum.reduce([tube(rng, heart, part) for part in AORTA.values()])
    valve = np.exp(-(((heart - as_column(MITRAL_ORIFICE[0][0])) ** 2).sum(0) / 15**2))
    grain, patches = (texture(rng, fine_shape, mm / steps) for mm in (2, 5))
    blood = 1 + 0.04 * grain

    heart_distance = np.minimum.reduce([atrium, myocardium, right, aorta])
    image = _chest(rng, scan, heart_distance, grain, edge, grey)
    _paint(image, veins, blood, edge)
    _paint(image, right - 2, grey.wall, edge)
    _paint(image, right, blood * rng.uniform(*grey.right_blood), edge)
    _paint(image, myocardium, rng.uniform(*grey.myocardium) + 0.03 * grain, edge)
    _paint(image, ventricle, blood * rng.uniform(0.94, 1.06), edge)
    _paint(image, aorta - 1.5, grey.wall, edge)
    _paint(image, aorta, blood * rng.uniform(0.94, 1.06), edge)
    _paint(image, atrium - 2.2, grey.wall + 0.05 + grey.valve * valve, edge)
    scar = np.clip(2 * (patches - rng.uniform(0.4, 1.3)), 0, 1) * (1 - valve)
    _paint(image, atrium - 2.4, rng.uniform(*grey.scar), edge, opacity=scar)
    _paint(image, np.minimum(atrium, veins), blood * rng.uniform(0.94, 1.06), edge)
    return _scanned(rng, image, atrium, family, shape, edge)


def _scanned(
    rng: np.random.Generator,
    image: np.ndarray,
    atrium: np.ndarray,
    family: str,
    shape: Sequence[int],
    edge: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What is painted on sub-slices, and the distance to the atrium -> image and label."""
    inside = np.clip(0.5 - atrium / edge, 0, 1).reshape(*shape, SUB).mean(-1)
    image = ndimage.gaussian_filter(image, (0.45, 0.45, 0.6)).reshape(*shape, SUB).mean(-1)
    scanner = ct_scanner if family == "ct" else mri_scanner
    return scanner(rng, image), (inside >= 0.5).astype(np.uint8)


def _points(rng: np.random.Generator, shape: Sequence[int], steps: np.ndarray) -> np.ndarray:
    """Where the voxels are, (3, X, Y, Z) float32 in mm, of a field of view beside the heart."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, steps)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    return points - as_column(rng.uniform((-6, -1, -4), (6, 9, 2)))


def write_dataset(
    root: str | os.PathLike,
    cases: int = 12,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    family: str = "lge",
    each: Callable = map,
) -> Path:
    """Writes `cases` phantoms in the layout of LAScarQS 2022 task 2, and returns `root`.

    `root/task2/train_data/train_1/{enhanced,atriumSegImgMO}.nii.gz` and so on, both int16, the
    atrium as 420. Case i depends on `family`, `seed` and i alone. Each file appears complete or not
    at all, and a case that is there stays as it is, so calling again finishes what was interrupted.
    `each(function, numbers)` calls a function for each case; that of a pool does so side by side.

    Raises:
      InputError: `root` holds something else, or phantoms of other parameters, or no such family.
    """
    root = Path(root)
    one_of("family", family, tuple(FAMILIES))
    shape, spacing = shape or FAMILIES[family].shape, spacing or FAMILIES[family].spacing
    parameters: dict[str, object] = {"family": family, "cases": cases, "seed": seed}
    parameters |= {"shape": [int(n) for n in shape], "spacing": [float(mm) for mm in spacing]}
    _claim(root, parameters)
    write = functools.partial(_write_case, root, seed, shape, spacing, family)
    for _ in each(write, range(1, cases + 1)):
        pass
    return root


def _write_case(
    root: Path, seed: int, shape: Sequence[int], spacing: Sequence[float], family: str, number: int
) -> None:
    folder = root / "task2" / "train_data" / f"train_{number}"
    image_path, label_path = folder / "enhanced.nii.gz", folder / "atriumSegImgMO.nii.gz"
    if image_path.exists() and label_path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, number])
    image, label = make_case(rng, shape, spacing, family)
    # x and y run to the left and the back, NIfTI counts mm to the right and the front.
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.round(rng.normal(0, 15, 3) - centre, 3)
    _write_nifti(image_path, image, affine)
    _write_nifti(label_path, label.astype(np.int16) * LABEL_VALUE, affine)


def _claim(root: Path, parameters: dict) -> None:
    """Marks `root` as ours by `phantom.json`, or raises if it is somebody else's."""
    mark = root / "phantom.json"
    if mark.exists():
        if (found := read_json(mark, "the parameters of phantoms")) != parameters:
            raise InputError(
                f"{mark} describes phantoms made with {found}, expected {parameters}: "
                "delete that folder or name another one"
            )
        return
    if root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise InputError(
            f"{root} holds files but no phantom.json, expected a new or empty folder for phantoms"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, json.dumps(parameters) + "\n")


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    volume = nibabel.Nifti1Image(array, affine)
    volume.set_qform(affine, code=1)  # 1: scanner coordinates
    volume.set_sform(affine, code=1)
    volume.header.set_xyzt_units("mm")
    with written_atomically(path) as temporary:  # readers skip dot-files
        nibabel.save(volume, temporary)


def _atrium(rng: np.random.Generator, heart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (3, X, Y, Z) -> distances to the labelled cavity and to the whole veins."""
    body = ellipsoid(rng, heart, ATRIUM)
    atrium = blend(body, tube(rng, heart, APPENDAGE), 4)
    veins = [tube(rng, heart, vein) for vein in VEINS.values()]
    for vein in veins:
        atrium = blend(atrium, np.maximum(vein, body - STUMP_MM), 4)
    return atrium, np.minimum.reduce(veins)


def _ventricle(rng: np.random.Generator, heart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (3, X, Y, Z) -> distances to the left ventricle's blood and to its muscle."""
    cavity = ellipsoid(rng, heart, VENTRICLE)
    myocardium = cavity - rng.uniform(8, 11)
    return blend(cavity, tube(rng, heart, MITRAL_ORIFICE), 5), myocardium


def _chest(
    rng: np.random.Generator,
    scan: np.ndarray,
    heart_distance: np.ndarray,
    grain: np.ndarray,
    edge: float,
    grey: Family,
) -> np.ndarray:
    """Points (3, X, Y, Z) and the distance to the heart -> all that is painted behind the heart."""
    scan = warp(rng, scan)

    def cylinder(x: float, y: float, half_x: float, half_y: float) -> np.ndarray:
        return ellipsoid(rng, scan, ((x, y, 0), (half_x, half_y, 1e4), 0))

    image = np.full(heart_distance.shape, grey.air, np.float32)
    body, soft = cylinder(0, -12, 160, 112), rng.uniform(*grey.soft)
    fat, muscle = soft * (grey.fat + 0.05 * grain), soft * (grey.muscle + 0.05 * grain)
    _paint(image, body, fat, edge)
    _paint(image, body + 9, muscle, edge)
    _paint(image, cylinder(0, -10, 112, 78), grey.lung, edge)
    for _ in range(16):
        side, height = rng.choice((-1, 1)), rng.uniform(-35, 35)
        hilum = np.array((side * 48, 12, height / 3))
        end = (side * rng.uniform(60, 90), rng.uniform(-50, 60), height)
        vessel = ([hilum, (hilum + end) / 2 + rng.normal(0, 4, 3), end], (3, 2.2, 1.2))
        _paint(image, tube(rng, scan, vessel), grey.lung_vessel, edge)
    spine = cylinder(-6, 60, 21, 17)
    mediastinum = blend(blend(heart_distance - 5, spine - 4, 10), cylinder(4, 34, 24, 14), 8)
    _paint(image, mediastinum, fat, edge)
    _paint(image, spine, grey.bone[0] * fat, edge)
    _paint(image, spine + 2, grey.bone[1] * fat, edge)
    gullet = cylinder(4, 29, 8, 5)
    _paint(image, gullet, grey.gullet[0], edge)
    _paint(image, gullet + 3, grey.gullet[1], edge)
    return image


def _paint(
    image: np.ndarray,
    distance: np.ndarray,
    grey: float | np.ndarray,
    edge: float,
    opacity: float = 1.0,
) -> None:
    """Puts a structure in front of `image`, in place; its border fades over `edge` mm."""
    image += (grey - image) * np.clip(0.5 - distance / edge, 0, 1) * opacity
