"""Packs slices into small pictures that a browser can unpack again: arrays -> PNG or JPEG bytes."""

import io

import numpy as np
from PIL import Image

EXACT_VOXELS = 2**20  # up to this many, grey values are kept exactly
# 576 x 576 x 44 voxels are 4.6 MB and 1 MB then as text in a page; the masks need less than 0.3.
BYTES_PER_VOXEL, PROBABILITY_BYTES_PER_VOXEL = 0.235, 0.05
QUALITIES = (88, 80, 70, 60, 45, 30, 15, 5)  # of JPEG; noise needs the lower ones
LEVELS = (50, 20, 10, 4)  # of probability: steps of 2 %; noise needs the coarser ones
SMALL = 2**18  # bytes that nobody misses in a page
TRUTH_BIT, PREDICTION_BIT = 1, 2


def grey_sprites(levels: np.ndarray) -> tuple[str, list[bytes]]:
    """Grey slices as pictures: exact ones of small volumes, otherwise JPEG.

    Args:
        levels: (Z, H, W) uint8, 0 black and 255 white.

    Returns:
        "png" or "jpeg", and Z files. All JPEG files together have at most `BYTES_PER_VOXEL`.
    """
    if levels.size <= EXACT_VOXELS:
        return "png", [png_bytes(level) for level in levels]
    some = levels[:: max(1, len(levels) // 5)]
    files: list[bytes] = []
    for quality in QUALITIES:
        for part in (some, levels):  # most qualities are ruled out by some of the slices
            files = [_jpeg_bytes(level, quality) for level in part]
            if sum(map(len, files)) > BYTES_PER_VOXEL * part.size:
                break
        else:
            return "jpeg", files
    return "jpeg", [_jpeg_bytes(level, QUALITIES[-1]) for level in levels]


def mask_sprites(truth: np.ndarray | None, prediction: np.ndarray) -> list[bytes]:
    """Masks (Z, H, W) as Z exact PNG files.

    A pixel is the sum of `TRUTH_BIT`, inside the truth, and `PREDICTION_BIT`, inside the
    prediction.
    """
    files = []
    for number, one in enumerate(prediction):
        pixels = np.uint8(PREDICTION_BIT) * (one != 0)
        if truth is not None:
            pixels += np.uint8(TRUTH_BIT) * (truth[number] != 0)
        files.append(png_bytes(pixels))
    return files


def probability_sprites(probability: np.ndarray) -> tuple[int, list[bytes]]:
    """Probabilities (Z, H, W) as pictures.

    Returns:
        The number n of `LEVELS`, as many as fit into `PROBABILITY_BYTES_PER_VOXEL`, and Z PNG
        files in which a pixel counts steps of 1 / n.
    """
    most = max(SMALL, PROBABILITY_BYTES_PER_VOXEL * probability.size)
    for levels in LEVELS:
        files = [png_bytes(np.rint(one * levels).astype(np.uint8)) for one in probability]
        if sum(map(len, files)) <= most:
            break
    return levels, files


def png_bytes(pixels: np.ndarray) -> bytes:
    """Pixels (H, W) uint8 as a grey PNG file, without loss."""
    return _encoded(pixels, format="PNG", compress_level=6)


def _jpeg_bytes(pixels: np.ndarray, quality: int) -> bytes:
    return _encoded(pixels, format="JPEG", quality=quality, optimize=True)


def _encoded(pixels: np.ndarray, **how: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, **how)  # type: ignore[arg-type]
    return content.getvalue()
