"""Surface files are read back by parsers that know the descriptions of the formats only."""

import struct

import numpy as np
import pytest

from lagseg_jax.imaging.mesh import Surface
from lagseg_jax.imaging.mesh_files import FORMATS, write_surface

POINTS = np.array([[0, 0, 0], [2.5, 0, 0], [0, 3.25, 0], [0, 0, 4.125]], np.float32)
TRIANGLES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def read_stl(content):
    count = struct.unpack_from("<I", content, 80)[0]
    assert not content.startswith(b"solid") and len(content) == 84 + 50 * count
    rows = [struct.unpack_from("<12fH", content, 84 + 50 * i) for i in range(count)]
    for row in rows:
        normal, (a, b, c) = np.array(row[:3]), np.reshape(row[3:12], (3, 3))
        across = np.cross(b - a, c - a)
        np.testing.assert_allclose(normal, across / np.linalg.norm(across), atol=1e-6)
        assert row[12] == 0
    return content[:80].decode(), np.array([row[3:12] for row in rows]).reshape(-1, 3, 3)


def read_ply(content):
    header, _, body = content.partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    counts = [int(line.split()[2]) for line in lines if line.startswith("element ")]
    assert [line for line in lines if line.startswith("property ")] == [
        *(f"property float {axis}" for axis in "xyz"),
        "property list uchar int vertex_indices",
    ]
    points = np.reshape(struct.unpack_from(f"<{3 * counts[0]}f", body), (-1, 3))
    start = 12 * counts[0]
    faces = [struct.unpack_from("<B3i", body, start + 13 * i) for i in range(counts[1])]
    assert len(body) == start + 13 * counts[1] and all(face[0] == 3 for face in faces)
    about = next(line for line in lines if line.startswith("comment "))
    return about, points[[face[1:] for face in faces]].reshape(-1, 3, 3)


def read_vtk(content):
    version, about, kind, dataset, rest = content.split(b"\n", 4)
    assert version == b"# vtk DataFile Version 4.2" and kind == b"BINARY"
    assert dataset == b"DATASET POLYDATA" and len(about) < 256
    line, _, rest = rest.partition(b"\n")
    name, count, kind = line.split()
    assert (name, kind) == (b"POINTS", b"float")
    points = np.reshape(struct.unpack_from(f">{3 * int(count)}f", rest), (-1, 3))
    rest = rest[12 * int(count) :]
    assert rest[:1] == b"\n"
    line, _, rest = rest[1:].partition(b"\n")
    name, count, size = line.split()
    assert name == b"POLYGONS" and int(size) == 4 * int(count)
    faces = np.reshape(struct.unpack_from(f">{size.decode()}i", rest), (-1, 4))
    assert (faces[:, 0] == 3).all() and rest[4 * int(size) :] == b"\n"
    return about.decode(), points[faces[:, 1:].astype(int)].reshape(-1, 3, 3)


READERS = {"stl": read_stl, "ply": read_ply, "vtk": read_vtk}


@pytest.mark.parametrize("space", ["LPS", "RAS"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("triangles", [TRIANGLES, TRIANGLES[:0]], ids=["some", "none"])
def test_a_file_says_its_space_and_gives_its_triangles_back(tmp_path, name, space, triangles):
    path = tmp_path / f"Müller.{name}"
    write_surface(path, Surface(POINTS, triangles, space))
    about, found = READERS[name](path.read_bytes())
    assert f"mm, SPACE={space}" in about
    np.testing.assert_array_equal(found, POINTS[triangles])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
