"""Measures the surfaces of `predict --mesh`: triangles, size, volume, distances from the voxels.

    python -m benchmarks.surfaces --data=FOLDER

Of phantoms (three kinds of voxels, straight and oblique) and of the masks of a dataset. Prints a
Markdown table of each group's median and worst case, and writes all cases as JSON. The exit status
is 1 if a surface does not keep what is promised.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.common.options import benchmark_parser
from lagseg_jax.data.layouts.detect import find_layouts
from lagseg_jax.data.phantom import make_case
from lagseg_jax.imaging.grid import directions
from lagseg_jax.imaging.labels import read_label
from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.imaging.mesh import TRIANGLES, atrium_surface
from lagseg_jax.imaging.mesh_distance import voxel_distances, voxel_faces
from lagseg_jax.imaging.mesh_files import write_surface
from lagseg_jax.imaging.triangles import is_closed, samples
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

Case = tuple[str, str, np.ndarray, np.ndarray]  # group, name, mask (x, y, z), affine (4, 4)
SAMPLES = 200_000  # points of each surface
# Voxels (mm) and shapes of the phantoms, of one field of view.
PHANTOMS = {
    "1.25 x 1.25 x 2.5 mm": ((1.25, 1.25, 2.5), (112, 112, 44)),
    "0.8 x 0.8 x 1.2 mm": ((0.8, 0.8, 1.2), (175, 175, 92)),
    "1 x 1 x 4 mm": ((1.0, 1.0, 4.0), (140, 140, 28)),
}
COLUMNS = ("triangles", "STL, kB", "volume, %", "mean", "95 %", "most", "back, 95 %")
COLUMNS += ("mean, mm", "95 %, mm", "CPU s")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.surfaces", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help="dataset whose labels are meshed (default: none)")
    add("--phantoms", type=int, default=12, help="how many (default: 12)")
    add("--triangles", type=int, default=TRIANGLES, help=f"as of predict (default: {TRIANGLES})")
    add("--output", type=Path, default=Path("surfaces.json"), help="JSON result")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    options = parse_arguments(arguments)
    rows = []
    for group, name, mask, affine in (*phantoms(options.phantoms), *labels(options.data)):
        rows.append({"group": group, "case": name, **measured(mask, affine, options.triangles)})
        print(f"{len(rows)}: {group}, {name}", file=sys.stderr, flush=True)
    print(table(rows))
    write_json(options.output, {"triangles": options.triangles, "rows": rows})
    return int(any(row["amiss"] for row in rows))


def phantoms(count: int) -> Iterator[Case]:
    """Each kind of voxels in turn; every second one of a kind is oblique."""
    for number in range(count):
        kind = list(PHANTOMS)[number % len(PHANTOMS)]
        spacing, shape = PHANTOMS[kind]
        random = np.random.default_rng(number)
        affine = np.diag([*spacing, 1.0])
        if number // len(PHANTOMS) % 2:
            affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] @ affine[:3, :3]
        yield f"phantoms, {kind}", f"{number}", make_case(random, shape, spacing)[1], affine


def labels(root: Path | None) -> Iterator[Case]:
    """Those of a dataset.

    Raises:
        InputError: there are none.
    """
    if root is None:
        return
    found = [case for _, _, cases in find_layouts(root) for case in cases if case.label]
    if not found:
        raise InputError(f"{root} has no labels in any known layout, expected some")
    for case in found:
        label = read_label(case.label)
        yield root.name, case.name, label.array, label.affine


def measured(mask: np.ndarray, affine: np.ndarray, triangles: int) -> dict:
    """The numbers of one surface; distances in voxels where nothing else is said."""
    start = time.process_time()
    surface = atrium_surface(mask, None, 0.5, affine, triangles, "RAS")
    seconds = time.process_time() - start
    box = bounding_box(mask)
    to_voxels = np.linalg.inv(directions(affine))
    points = (surface.points - affine[:3, 3]) @ to_voxels.T - [part.start for part in box]
    on_surface = samples(points, surface.triangles, SAMPLES)
    far = voxel_distances(on_surface, mask[box])
    in_mm = voxel_distances(on_surface, mask[box], np.linalg.norm(directions(affine), axis=0))
    back = cKDTree(on_surface).query(voxel_faces(mask[box])[0])[0]
    with TemporaryDirectory() as folder:
        file = Path(folder, "a.stl")
        write_surface(file, surface)
        size = file.stat().st_size
    return {
        "voxels": int(np.count_nonzero(mask)),
        "triangles": len(surface.triangles),
        "STL, kB": size / 1000,
        "volume, %": 100 * surface.volume_error,
        "mean": float(far.mean()),
        "95 %": float(np.percentile(far, 95)),
        "most": float(far.max()),
        "back, 95 %": float(np.percentile(back, 95)),
        "mean, mm": float(in_mm.mean()),
        "95 %, mm": float(np.percentile(in_mm, 95)),
        "CPU s": seconds,
        "closed": is_closed(surface.points, surface.triangles),
        "remark": surface.remark,
        "amiss": surface.amiss(),
    }


def table(rows: list[dict]) -> str:
    """Markdown: each group's median, and its largest value without its sign."""
    heads = ["", "cases", *COLUMNS]
    lines = [heads, ["---"] * len(heads)]
    for group in dict.fromkeys(row["group"] for row in rows):
        of_group = [row for row in rows if row["group"] == group]
        for what, summary in (("median", np.median), ("worst", np.max)):
            numbers = (summary([abs(row[name]) for row in of_group]) for name in COLUMNS)
            lines.append([f"{group}, {what}", str(len(of_group)), *map(_short, numbers)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}"


if __name__ == "__main__":
    sys.exit(exit_status(main))
