"""The nnU-Net worker of the speed benchmark: its own 2d predictor (see common/worker.py).

Random weights and the plan that its planner makes for left atrium cases of 0.625 x 0.625 x 1.25 mm:
patch 160 x 192, 20.6 M parameters, tiles that overlap by half. No mirroring.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks.common import machine
from benchmarks.common.pytorch import DEVICE, use_all_cores
from benchmarks.common.timing import Rows

SPACING = [1.25, 0.625, 0.625]  # mm along z, y, x
STAGES = 6
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": STAGES,
        "features_per_stage": [32, 64, 128, 256, 512, 512],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * STAGES,
        "strides": [[1, 1]] + [[2, 2]] * (STAGES - 1),
        "n_conv_per_stage": [2] * STAGES,
        "n_conv_per_stage_decoder": [2] * (STAGES - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
PLANS = {
    "dataset_name": "Dataset001_LeftAtrium",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": SPACING,
    "original_median_shape_after_transp": [88, 143, 199],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {}},
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 64,
            "patch_size": [160, 192],
            "median_image_size_in_voxels": [143, 199],
            "spacing": SPACING[1:],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": RESAMPLING,
            "resampling_fn_seg_kwargs": RESAMPLING | {"is_seg": True, "order": 1},
            "resampling_fn_probabilities_kwargs": RESAMPLING | {"order": 1},
            "architecture": ARCHITECTURE,
            "batch_dice": True,
        }
    },
}
DATASET = {"channel_names": {"0": "LGE"}, "labels": {"background": 0, "atrium": 1}}
opened = {}


def open_case(folder: str) -> None:
    """The predictor, and the volume that ours wrote; all cores from now on."""
    use_all_cores()
    plans = PlansManager(PLANS)
    configuration = plans.get_configuration("2d")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        allow_init=True,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=DEVICE, allow_tqdm=False
    )
    network = network.to(DEVICE).eval()
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], DATASET, "nnUNetTrainer", None
    )
    volume = np.load(Path(folder) / "inputs.npz")["volume"]
    opened.update(predictor=predictor, image=volume.transpose(2, 1, 0)[None].astype(np.float32))


def make_call(row: str) -> tuple[Callable[[], object], dict]:
    """A prediction, preprocessing and the way back included; rows are those of a whole volume."""
    predictor, image = opened["predictor"], opened["image"]
    parameters = sum(p.numel() for p in predictor.network.parameters())
    facts = {"compile_seconds": None, "parameters": parameters, "versions": machine.versions()}
    return lambda: predictor.predict_single_npy_array(image, {"spacing": SPACING}), facts


COMMANDS = {"open": open_case} | Rows(make_call).commands
