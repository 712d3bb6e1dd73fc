"""Measures masks: volume, box, centroid and components of each, and a table over all cases.

Positions are scanner positions in mm, RAS as in NIfTI; voxel indices count from 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.data.checks import ATRIUM_ML
from lagseg_jax.imaging.grid import column_lengths
from lagseg_jax.imaging.masks import bounding_box, label_components, volume_ml
from lagseg_jax.inference.uncertainty import COLUMNS, estimate_line, estimate_warnings
from lagseg_jax.runtime.files import write_csv, write_json

UNITS = {
    "volume_ml": "mL",
    "voxels": "voxels of the mask",
    "box_first": "voxel index (x, y, z) of the first corner of the bounding box, in the box",
    "box_last": "voxel index (x, y, z) of the last corner, in the box",
    "box_mm": "lengths of the box along its axes x, y, z, in mm",
    "centroid_ras_mm": "scanner position of the centre of mass in mm, RAS",
    "components": "connected components, 26-neighbourhood",
    "touches_border": "whether the mask reaches the border of the volume, which may cut it off",
    "remarks": "what was told, or is unusual, about the geometry of the image, and about the mask",
    "suspicious_volume": "whether the volume is outside {:g}-{:g} mL".format(*ATRIUM_ML),
    **COLUMNS,
}
VECTORS = ("box_first", "box_last", "box_mm", "centroid_ras_mm")


def mask_statistics(
    mask: np.ndarray, affine: np.ndarray, estimates: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The numbers of `UNITS` for one mask.

    Args:
        mask: (x, y, z), non-zero inside.
        affine: (4, 4) voxel index -> scanner position in mm, RAS.
        estimates: values of `uncertainty.COLUMNS`, as far as they are known.

    Returns:
        JSON-serialisable values; box and centroid are None for an empty mask.
    """
    box = bounding_box(mask)
    inside = mask[box]
    voxels = int(np.count_nonzero(inside))
    volume = volume_ml(inside, affine)
    row = dict.fromkeys(UNITS)
    if voxels:
        first, last = [part.start for part in box], [part.stop - 1 for part in box]
        # One axis at a time: the indices of all voxels would need 24 bytes for each.
        sums = [inside.astype(bool).sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        centre = [start + np.arange(len(s)) @ s / voxels for start, s in zip(first, sums)]
        row |= {
            "box_first": [int(i) for i in first],
            "box_last": [int(i) for i in last],
            "box_mm": [float(n * s) for n, s in zip(inside.shape, column_lengths(affine))],
            "centroid_ras_mm": [float(x) for x in affine[:3, :3] @ centre + affine[:3, 3]],
        }
    reaches = (part.start == 0 or part.stop == size for part, size in zip(box, mask.shape))
    row |= {
        "volume_ml": volume,
        "voxels": voxels,
        "components": len(label_components(inside)[1]),
        "touches_border": bool(voxels) and any(reaches),
        "suspicious_volume": not ATRIUM_ML[0] <= volume <= ATRIUM_ML[1],
    }
    row |= estimates or {}
    return row | {"remarks": "; ".join(mask_warnings(row))}


def volume_warning(volume: float) -> str:
    """What is suspicious about the volume of a mask in mL; "": nothing."""
    low, high = ATRIUM_ML
    if low <= volume <= high:
        return ""
    return f"a volume outside {low:g}-{high:g} mL is suspicious" if volume else "nothing was found"


def mask_warnings(row: dict[str, Any]) -> list[str]:
    """What is suspicious about a mask, given its numbers."""
    found = [warning] if (warning := volume_warning(row["volume_ml"])) else []
    if not row["voxels"]:
        return found
    if row["touches_border"]:
        found.append("the mask reaches the border of the volume")
    return found + estimate_warnings(row)


def statistics_line(row: dict[str, Any]) -> str:
    """The numbers of a case in one line, with what is suspicious about them."""
    if not row["voxels"]:
        return f"0.0 mL WARNING: {mask_warnings(row)[0]}"
    first, last = ("(" + ", ".join(map(str, row[key])) + ")" for key in ("box_first", "box_last"))
    centre = ", ".join(f"{x:.1f}" for x in row["centroid_ras_mm"])
    return (
        f"{row['volume_ml']:.1f} mL, {row['voxels']} voxels from {first} to {last}, "
        f"centroid RAS ({centre}) mm, components: {row['components']}{estimate_line(row)}"
    ) + "".join(f" WARNING: {warning}" for warning in mask_warnings(row))


def write_statistics(folder: Path, rows: Sequence[dict[str, Any]], about: dict) -> None:
    """Writes the table twice, for spreadsheets and for programs.

    Args:
        folder: gets `statistics.csv`, where a vector has one column per axis, and
            `statistics.json`.
        rows: `case` and the numbers of `mask_statistics`; at least one.
        about: what made the masks; stands in the JSON, and its `encoder_weights` in every line of
            the CSV, so that it survives copying.
    """
    content = {**about, "units": UNITS, "cases": list(rows)}
    write_json(folder / "statistics.json", content)
    given = {name: about[name] for name in ("encoder_weights",)}
    flat = [given | _flat(row) for row in rows]
    columns = dict.fromkeys(name for row in flat for name in row if name not in given)
    write_csv(folder / "statistics.csv", [*columns, *given], flat)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with one column per axis for each vector."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in VECTORS:
            flat |= {f"{key}_{axis}": value and value[i] for i, axis in enumerate("xyz")}
        else:
            flat[key] = value
    return flat
