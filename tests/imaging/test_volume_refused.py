"""Volumes that are damaged, too large or of another kind are refused in one sentence."""

import gzip
import tracemalloc

import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.labels import LabelRule, read_label
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import SUFFIXES, check_same_geometry, read_volume
from volume_files import SPACING, nifti_bytes, noise, oblique_affine, refused, save, save_nrrd


def test_a_volume_that_memory_cannot_hold_is_refused_in_one_sentence(tmp_path, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError("Unable to allocate 9 GiB")

    path = save(tmp_path / "a.nii", noise())
    monkeypatch.setattr("lagseg_jax.imaging.formats.read_voxels", no_memory)
    refused(path, "not enough memory to read it (Unable to allocate 9 GiB)")


def test_a_label_with_several_values_needs_a_choice(tmp_path):
    values = (noise() % 3 * 210).astype(np.int16)
    path = save(tmp_path / "a.nrrd", values)
    refused(path, "210, 420", "config.data.label_value", read=read_label)
    np.testing.assert_array_equal(read_label(path, LabelRule(420)).array, values == 420)
    refused(path, "210, 420", "label_value=1", read=read_label, rule=LabelRule(1))


def test_image_and_label_must_share_the_grid(tmp_path):
    image = read_volume(save(tmp_path / "image.nii", noise()))
    check_same_geometry(image, read_volume(save(tmp_path / "same.nrrd", noise())))
    turned = save(tmp_path / "turned.nii", noise(), oblique_affine(signs=(1, -1, 1)))
    shifted = oblique_affine()
    shifted[1, 3] += 0.5 * SPACING[1]
    moved = save(tmp_path / "moved.nii", noise(), shifted)
    cropped = save(tmp_path / "cropped.nii", noise((5, 7, 13)))
    for path, found in [(turned, "voxels"), (moved, "voxels apart"), (cropped, "(5, 7, 13)")]:
        message = refused(path, found, read=lambda p: check_same_geometry(image, read_volume(p)))
        assert "image.nii" in message


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("empty.nii", b"", "NIfTI"),
        ("empty.nii.gz", b"", "NIfTI"),
        ("empty.nrrd", b"", "NRRD"),
        ("text.nii", b"not a volume" * 99, "NIfTI"),
        ("plain.nii.gz", nifti_bytes(), "gzip"),
        ("text.nrrd", b"not a volume\n\n", "NRRD"),
        ("pair.nii", nifti_bytes(magic=b"ni1"), "pair"),
        ("short.nii", nifti_bytes()[:-2], "768 bytes of voxels found, expected 770"),
        ("short.nii.gz", gzip.compress(nifti_bytes())[:-20], "end-of-stream"),
        ("far.nii", nifti_bytes(vox_offset=2**30), "byte 1073741824"),
        ("flat.nii", nifti_bytes(dim=[2, 5, 7, 1, 1, 1, 1, 1]), "(5, 7)"),
        ("cine.nii", nifti_bytes(dim=[4, 5, 7, 11, 3, 1, 1, 1]), "(5, 7, 11, 3)"),
        ("none.nii", nifti_bytes(dim=[3, 5, 0, 11, 1, 1, 1, 1]), "(5, 0, 11)"),
        ("minus.nii", nifti_bytes(dim=[3, 5, -7, 11, 1, 1, 1, 1]), "(5, -7, 11)"),
        ("rgb.nii", nifti_bytes(datatype=128, bitpix=24), "one real number"),
        ("complex.nii", nifti_bytes(datatype=32, bitpix=64), "complex64"),
        ("zero.nii", nifti_bytes(srow_x=0, srow_y=0, srow_z=0), "singular"),
        ("nan.nii", nifti_bytes(srow_y=np.nan), "not finite"),
        ("parallel.nii", nifti_bytes(srow_x=[1, 2, 3, 0], srow_y=[1, 2, 3, 0]), "singular"),
        ("size.nii", nifti_bytes(sform_code=0, qform_code=1, pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), "0"),
        (
            "huge.nii.gz",
            gzip.compress(nifti_bytes(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
            "most",
        ),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, expected)


def test_a_flipped_bit_in_a_gzip_is_noticed(tmp_path):
    # Stored, not deflated: only the checksum can tell.
    content = bytearray(gzip.compress(nifti_bytes(), compresslevel=0))
    content[-100] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(content)
    refused(tmp_path / "a.nii.gz", "CRC")


def test_missing_file_folder_and_other_names(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "a.mha").touch()
    refused(tmp_path / "missing.nii", "does not exist")
    refused(tmp_path / "folder.nii", "is a folder")
    refused(tmp_path / "a.mha", ".nii.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_and_infinity_are_counted(tmp_path, suffix):
    array = noise(dtype=np.float32)
    array[1, 2, 3] = array[4, 6, 10] = np.nan
    array[0, 0, 0] = -np.inf
    refused(save(tmp_path / f"a{suffix}", array), "3 voxels are NaN or infinite")


@pytest.mark.parametrize(
    "header, expected",
    [
        ({"space": "scanner-xyz"}, "scanner-xyz"),
        ({"space directions": None}, "spacings"),
        ({"space directions": np.zeros((3, 3))}, "singular"),
        ({"encoding": "raw", "byte skip": -1}, "skip"),
    ],
)
def test_nrrd_headers_that_are_refused(tmp_path, header, expected):
    refused(save_nrrd(tmp_path / "a.nrrd", noise(), **header), expected)


def test_nrrd_in_an_unknown_encoding_is_refused(tmp_path):
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 7 11\nspacings: 1 1 1\nencoding: hex\n"
    (tmp_path / "a.nrrd").write_text(header + "\n" + "00" * 385)
    refused(tmp_path / "a.nrrd", "hex", "bzip2")


def test_nrrd_that_is_not_three_dimensional(tmp_path):
    for array in (noise((5, 7)), noise((5, 7, 11, 3))):
        path = tmp_path / "a.nrrd"
        nrrd.write(str(path), array, {"spacings": np.ones(array.ndim)})
        refused(path, array.shape)


@pytest.mark.parametrize("field", ["data file", "datafile"])
def test_nrrd_never_opens_another_file(tmp_path, field):
    (tmp_path / "secret").write_bytes(bytes(1000))
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 7 11\nencoding: raw\n"
    (tmp_path / "a.nrrd").write_text(f"{header}spacings: 1 1 1\n{field}: ./secret\n\n")
    refused(tmp_path / "a.nrrd", "./secret")


@pytest.mark.parametrize("missing", ["type", "dimension", "sizes", "encoding"])
def test_nrrd_without_a_required_field(tmp_path, missing):
    fields = {"type": "uchar", "dimension": 3, "sizes": "1 1 1", "encoding": "raw"}
    lines = [f"{key}: {value}" for key, value in fields.items() if key != missing]
    (tmp_path / "a.nrrd").write_text("\n".join(["NRRD0004", *lines, "spacings: 1 1 1", "", "x"]))
    refused(tmp_path / "a.nrrd", f"'{missing}'")


def bomb(kind):
    if kind == "more declared than present.nii.gz":
        return gzip.compress(
            nifti_bytes(dim=[3, 1290, 1290, 1289, 1, 1, 1, 1], datatype=2, bitpix=8)
        )
    if kind == "more present than declared.nii.gz":
        return gzip.compress(nifti_bytes() + bytes(2**27), compresslevel=1)
    header = (
        b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: %s\nencoding: gzip\nspacings: 1 1 1\n%s\n"
    )
    if kind == "more declared than present.nrrd":
        return header % (b"1290 1290 1289", b"") + gzip.compress(bytes(10))
    if kind == "more present than declared.nrrd":
        return header % (b"5 7 11", b"") + gzip.compress(bytes(2**27), compresslevel=1)
    return header % (b"5 7 11", b"content: " + b"x" * 2**26)  # "endless header.nrrd"


@pytest.mark.parametrize(
    "name",
    [
        "more declared than present.nii.gz",
        "more declared than present.nrrd",
        "more present than declared.nii.gz",
        "more present than declared.nrrd",
        "endless header.nrrd",
    ],
)
def test_bombs_are_not_unpacked(tmp_path, name):
    """2 GiB declared for 10 bytes, or 128 MiB packed behind a header of 385 voxels."""
    (tmp_path / name).write_bytes(bomb(name))
    tracemalloc.start()
    try:
        refused(tmp_path / name, reading=Reading(2**26))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**26 + 2**22


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_cap_is_on_decoded_bytes(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", noise())
    assert read_volume(path, Reading(770)).array.nbytes == 770
    refused(path, "770", "769", reading=Reading(769))


def test_the_cap_counts_scaled_voxels_as_float32(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(scl_slope=2))
    assert read_volume(tmp_path / "a.nii", Reading(1540)).array.nbytes == 1540
    refused(tmp_path / "a.nii", "1540", reading=Reading(1539))
