"""The names that a config can choose from; needs no jax, so that a config is checked at once."""

from typing import TypedDict

PATCH = 14  # pixels along each side of the square that becomes a token


class Size(TypedDict):
    """What distinguishes the variants."""

    width: int
    depth: int
    heads: int
    mlp: str
    hidden: int


# Oquab et al. 2023, table 17; `hidden` is the width inside the MLP. "tiny" is ours: a demo and test
# size without published weights.
VARIANTS: dict[str, Size] = {
    "tiny": {"width": 64, "depth": 4, "heads": 2, "mlp": "gelu", "hidden": 256},
    "small": {"width": 384, "depth": 12, "heads": 6, "mlp": "gelu", "hidden": 1536},
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": "gelu", "hidden": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": "gelu", "hidden": 4096},
    "giant": {"width": 1536, "depth": 40, "heads": 24, "mlp": "swiglu", "hidden": 4096},
}

# The keys of losses.LOSSES and model.DTYPES, which need jax.
LOSS_NAMES = ("bce", "dice", "bce+dice")
DTYPE_NAMES = ("float32", "bfloat16")
DECODER_DTYPE_NAMES = (*DTYPE_NAMES, "auto")

PHANTOMS = {"phantom": "lge", "phantom-ct": "ct"}  # `data.root` -> the family of phantoms
# One value or several in parentheses: the default does not say which type they have.
ONE_OR_SEVERAL = (
    *("data.root", "data.images", "data.labels", "data.cases", "data.exclude"),
    "data.label_value",
)

PLANES = ("sagittal", "coronal", "axial")  # as in imaging.slices, which needs nibabel

# Every code with its severity. The first ten leave nothing that could be used.
SEVERITY = {
    "missing_image": "error",
    "missing_label": "error",
    "unreadable_image": "error",
    "unreadable_label": "error",
    "not_finite": "error",
    "label_values": "error",
    "fractional_label": "error",
    "label_is_image": "error",
    "orientation": "error",
    "shape": "error",
    "geometry": "error",
    "shear": "error",
    "plane": "error",
    "empty_label": "error",
    "no_contrast": "error",
    "inverted_label": "error",
    "full_label": "error",
    "label_outside": "error",
    "unlike_values": "error",
    "changed_label": "error",
    "seen_case": "error",
    "duplicate": "error",
    "same_file": "warning",
    "visits": "warning",
    "rounded_label": "warning",
    "mixed_values": "warning",
    "spacing": "warning",
    "slab": "warning",
    "volume": "warning",
}
# What `config.data.allow` and `--allow` may name; "instances" and "spacing" also of a DICOM series,
# which without them cannot be read.
ALLOWED = (*tuple(SEVERITY)[10:], "instances")
