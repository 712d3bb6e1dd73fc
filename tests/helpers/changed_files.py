"""Cases of a copied phantom: the config that reads them, their files, and a change in one."""

import os

import nibabel as nib
import numpy as np

import tiny_run
from lagseg_jax.config.validate import check_config


def config_of(root, **data):
    config = tiny_run.config(root)
    config.data.update(data)
    check_config(config)
    return config


def case_file(root, name, part):
    file = {"image": "enhanced.nii.gz", "label": "atriumSegImgMO.nii.gz"}[part]
    return root / "task2" / "train_data" / name / file


def change(path):
    """Another voxel, under the same size of volume and date."""
    image = nib.load(path)
    voxels, affine, time = np.asarray(image.dataobj).copy(), image.affine, path.stat().st_mtime_ns
    place = np.unravel_index(np.argmax(voxels), voxels.shape)
    voxels[place] = 0
    path.unlink()
    nib.save(nib.Nifti1Image(voxels, affine), path)
    os.utime(path, ns=(time, time))
