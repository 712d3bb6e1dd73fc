"""Writes a surface as STL, PLY or VTK, each of which says in which coordinates it is.

The words are those that 3D Slicer looks for: `SPACE=LPS` or `SPACE=RAS` in the header of an STL
file, in a comment of a PLY file, in the title of a VTK file.
"""

from pathlib import Path

import numpy as np

from lagseg_jax.imaging.mesh import Surface
from lagseg_jax.runtime.files import write_atomically

_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def write_surface(path: Path, surface: Surface) -> None:
    """Writes a surface in the format of the file's suffix, complete or not at all."""
    write_atomically(path, FORMATS[path.suffix[1:]](surface))


def _title(surface: Surface) -> bytes:
    return f"left atrium by lagseg_jax, mm, SPACE={surface.space}".encode()


def _stl(surface: Surface) -> bytes:
    """Binary; it has every triangle for itself, with its normal."""
    corners = surface.points[surface.triangles]
    records = np.zeros(len(corners), _STL)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records["normal"] = normals / np.where(lengths, lengths, 1)
    records["corners"] = corners
    # A title that began with `solid` would make readers take the file for a text.
    return _title(surface).ljust(80) + len(records).to_bytes(4, "little") + records.tobytes()


def _ply(surface: Surface) -> bytes:
    """Binary, little endian."""
    header = (
        b"ply\nformat binary_little_endian 1.0\ncomment %b\n"
        b"element vertex %d\nproperty float x\nproperty float y\nproperty float z\n"
        b"element face %d\nproperty list uchar int vertex_indices\nend_header\n"
    ) % (_title(surface), len(surface.points), len(surface.triangles))
    faces = np.zeros(len(surface.triangles), [("count", "u1"), ("points", "<i4", 3)])
    faces["count"], faces["points"] = 3, surface.triangles
    return header + surface.points.astype("<f4").tobytes() + faces.tobytes()


def _vtk(surface: Surface) -> bytes:
    """PolyData in the older format, version 4.2, which all readers know; binary, big endian."""
    count = len(surface.triangles)
    faces = np.column_stack([np.full(count, 3), surface.triangles])
    return b"".join(
        (
            b"# vtk DataFile Version 4.2\n%b\nBINARY\nDATASET POLYDATA\n" % _title(surface),
            b"POINTS %d float\n" % len(surface.points),
            surface.points.astype(">f4").tobytes(),
            b"\nPOLYGONS %d %d\n" % (count, faces.size),
            faces.astype(">i4").tobytes(),
            b"\n",
        )
    )


FORMATS = {"stl": _stl, "ply": _ply, "vtk": _vtk}
