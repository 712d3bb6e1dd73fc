"""Finds labels that can be read but are not what they ought to be, each for what it is."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import padding_values
from lagseg_jax.imaging.labels import LabelRule

WRITTEN = (1, 255, 420, 32767, 65535)  # values that stand for the whole of a mask
HALF = 0.5  # of a volume, or of an atrium
BORDER = 0.9  # of the outermost voxels are atrium where background and atrium are exchanged


def is_image(image: Volume, label: Volume) -> bool:
    """Whether the label holds the grey values of its image."""
    return image.array.shape == label.array.shape and np.array_equal(image.array, label.array)


def label_value(label: Volume, mask: Volume) -> float:
    """The value with which a label writes its atrium, the first one that is met."""
    return float(np.round(label.array.ravel("K")[np.argmax(mask.array.ravel("K") > 0)]))


def inverted(image: Volume, mask: Volume) -> str | None:
    """The background is marked instead of the atrium."""
    share = _share(mask)
    if share <= HALF or mask.array.all() or _border_share(mask) < BORDER:
        return None
    return (
        f"{mask.path}: a label that marks {100 * share:.0f} % of the volume and its border found, "
        "expected one of the atrium; it seems to be inverted (unless 'inverted_label' is allowed)."
    )


def full(image: Volume, mask: Volume) -> str | None:
    """More is marked than an atrium can fill."""
    share = _share(mask)
    if share <= HALF or inverted(image, mask):
        return None
    return (
        f"{mask.path}: a label that marks {100 * share:.0f} % of the volume found, expected an "
        "atrium that fills less than half of it (unless 'full_label' is allowed)."
    )


def outside(image: Volume, mask: Volume) -> str | None:
    """The atrium lies where nothing was measured."""
    marked = image.array[mask.array > 0]
    if not marked.size:
        return None
    low, high = image.array.min(), image.array.max()
    empty = np.append(padding_values(image.array), low)
    share = np.isin(marked, empty).mean()
    step = max(1, image.array.size // 10**6)
    few, many = np.percentile(image.array.ravel("K")[::step], (0.5, 99.5))
    if share <= HALF or low == high or few == many:  # a blank image is a problem of its own
        return None
    return (
        f"{mask.path}: {100 * share:.0f} % of the atrium lies where {image.path} is empty, "
        "expected the label of this image (unless 'label_outside' is allowed)."
    )


LABEL_CHECKS: dict[str, Callable[[Volume, Volume], str | None]] = {
    "inverted_label": inverted,
    "full_label": full,
    "label_outside": outside,
}


def unlike_values(values: Sequence[float | None], rule: LabelRule) -> tuple[str, list[int], str]:
    """Cases of one dataset whose atrium has another value than that of most.

    Args:
        values: of the atrium, by case; None where it is not known.
        rule: that found them.

    Returns:
        A problem's code, "" for none; the positions of the cases; what was found, in words.
    """
    counts = Counter(value for value in values if value is not None)
    if rule.values or rule.threshold or len(counts) < 2:
        return "", [], ""
    most = counts.most_common(1)[0][0]
    found = ", ".join(f"{value:g} in {count} cases" for value, count in counts.most_common())
    others = [n for n, value in enumerate(values) if value not in (None, most)]
    return "mixed_values" if set(counts) <= set(WRITTEN) else "unlike_values", others, found


def _share(mask: Volume) -> float:
    return float(np.count_nonzero(mask.array)) / mask.array.size


def _border_share(mask: Volume) -> float:
    """Of the outermost voxels of a volume, the part that is marked."""
    faces = [np.take(mask.array, side, axis) for axis in range(3) for side in (0, -1)]
    return sum(int(np.count_nonzero(face)) for face in faces) / sum(face.size for face in faces)
