"""Enhanced and compressed DICOM: the same voxels at the same places as in plain single images."""

import importlib.util
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import io_orientation

from lagseg_jax.imaging.dicom import read_series, read_stack
from lagseg_jax.imaging.dicom_choice import choose
from lagseg_jax.imaging.dicom_pixels import stream_size
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.grid import corner_shift
from lagseg_jax.runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")

from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_series import AXIAL, CORONAL, OBLIQUE, SAGITTAL, compress, write_enhanced, write_series

SHAPE = (7, 37, 41)  # slices, rows, columns: JPEG 2000 wants some of them
SYNTAXES = (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)


@pytest.mark.parametrize("turn", [AXIAL, OBLIQUE, -OBLIQUE], ids=["axial", "oblique", "back"])
def test_an_enhanced_file_is_its_single_images(tmp_path, pixels, turn):
    write_series(tmp_path / "single", pixels, turn)
    order = [*np.random.default_rng(1).permutation(len(pixels))]
    path = write_enhanced(tmp_path / "enhanced" / "x.dcm", pixels, turn, order)
    expected = read_series(tmp_path / "single")
    for place in (path, path.parent):
        found = read_series(place)
        np.testing.assert_array_equal(found.array, expected.array)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)


def test_time_points_and_kinds_of_an_enhanced_file(tmp_path, pixels):
    order = [*np.random.default_rng(1).permutation(3 * len(pixels))]
    write_enhanced(tmp_path / "a" / "x.dcm", pixels, OBLIQUE, order, parts=3)
    (stacks,) = find_studies(tmp_path / "a")
    assert [stack.part for stack in stacks] == ["time point 1", "time point 2", "time point 3"]
    for part, stack in enumerate(stacks):
        np.testing.assert_array_equal(read_stack(stack).array[:, ::-1].T, pixels + part)
    assert choose("x", stacks) is stacks[0]
    kinds = ("REAL", "PHASE", "MAGNITUDE")
    write_enhanced(tmp_path / "b" / "x.dcm", pixels, OBLIQUE, kinds=kinds)
    (stacks,) = find_studies(tmp_path / "b")
    assert {stack.part for stack in stacks} == {"real part", "phase image", "magnitude"}
    assert choose("x", stacks).part == "magnitude"
    np.testing.assert_array_equal(read_series(tmp_path / "b").array[:, ::-1].T, pixels + 2)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ({"NumberOfFrames": 2**31 - 1}, "NumberOfFrames is 2147483647, but 7 frames"),
        ({"NumberOfFrames": 6}, "but 7 frames are described"),
        ({"PerFrameFunctionalGroupsSequence": []}, "a film of 7 frames"),
        ({"SharedFunctionalGroupsSequence": []}, "no ImageOrientationPatient"),
        ({"PixelData": bytes(50)}, "damaged"),
        ({"Rows": 60000, "Columns": 60000}, "bytes of voxels declared"),
    ],
)
def test_enhanced_files_that_contradict_themselves(tmp_path, pixels, edit, found):
    path = write_enhanced(tmp_path / "x.dcm", pixels, OBLIQUE, **edit)
    with pytest.raises(InputError) as error:
        read_series(path)
    assert found in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_a_slice_that_an_enhanced_file_lacks_is_missed(tmp_path, pixels):
    order = [0, 1, 2, 4, 5, 6]
    write_enhanced(tmp_path / "x.dcm", pixels, OBLIQUE, order, NumberOfFrames=6)
    with pytest.raises(InputError, match=r"7\.000 mm between"):
        read_series(tmp_path)
    write_enhanced(tmp_path / "x.dcm", pixels, OBLIQUE, [2, 3, 4, 5, 6], NumberOfFrames=5)
    with pytest.raises(InputError, match="without 1, 2, expected"):
        read_series(tmp_path)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name.split(",")[0])
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
def test_compressed_without_loss(tmp_path, pixels, syntax, enhanced):
    pytest.importorskip("gdcm", reason="the extra dicom brings the decoders")
    if enhanced:
        paths = [write_enhanced(tmp_path / "x.dcm", pixels, OBLIQUE)]
    else:
        paths = write_series(tmp_path, pixels, OBLIQUE)
    for path in paths:
        compress(path, syntax)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_series(tmp_path).array[:, ::-1].T, pixels)


def test_a_decoder_that_is_not_installed_is_named(tmp_path, pixels, monkeypatch):
    pytest.importorskip("gdcm", reason="the extra dicom brings the decoders")
    for path in write_series(tmp_path, pixels):
        compress(path, JPEGLosslessSV1)
    decoder = type(pydicom.pixels.get_decoder(JPEGLosslessSV1))
    monkeypatch.setattr(decoder, "is_available", property(lambda self: False))
    needs = ["gdcm - requires gdcm>=3.0.10"]
    monkeypatch.setattr(decoder, "missing_dependencies", property(lambda self: needs))
    with pytest.raises(InputError, match=r"gdcm.*pip install '\.\[dicom\]'") as error:
        read_series(tmp_path)
    assert "damaged" not in str(error.value) and "JPEG Lossless" in str(error.value)


def test_a_syntax_that_no_decoder_knows_is_named(tmp_path, pixels):
    for path in write_series(tmp_path, pixels):
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
        image.PixelData = pydicom.encaps.encapsulate([b"x" * 20])
        image["PixelData"].is_undefined_length = True
        image.save_as(path)
    with pytest.raises(InputError, match="MPEG-4"):
        read_series(tmp_path)


@pytest.mark.parametrize("syntax", SYNTAXES[1:], ids=lambda syntax: syntax.name.split(",")[0])
def test_streams_that_declare_another_size_are_not_decoded(tmp_path, pixels, syntax):
    """Decoders allocate what the stream declares."""
    pytest.importorskip("gdcm", reason="the extra dicom brings the decoders")
    paths = write_series(tmp_path, pixels)
    for path in paths:
        compress(path, syntax)
    image = pydicom.dcmread(paths[2])
    stream = next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1))
    assert stream_size(stream) == (37, 41, 1)
    size = 4 if b"\xff\x51" in stream[:4] else 2
    old = (41).to_bytes(size, "big") + (37).to_bytes(size, "big")
    if size == 2:
        old = old[2:] + old[:2]
    assert old in stream[:60]
    stream = stream.replace(old, (60000).to_bytes(size, "big") * 2, 1)
    image.PixelData = pydicom.encaps.encapsulate([stream])
    image.save_as(paths[2])
    with pytest.raises(InputError, match=r"\(60000, 60000, 1\) rows, columns and colours"):
        read_series(tmp_path)


DCM2NIIX = shutil.which("dcm2niix")


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("kind", ["single", "backwards", "enhanced", "compressed"])
@pytest.mark.parametrize(
    "turn", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, -OBLIQUE], ids="axial sag cor oblique back".split()
)
def test_as_dcm2niix(tmp_path, turn, kind):
    """An independent reader puts every voxel at the same place, to a thousandth of a voxel."""
    pixels = np.random.default_rng(3).integers(0, 4096, (13, 19, 17)).astype(np.uint16)
    source = tmp_path / "in"
    if kind == "enhanced":
        write_enhanced(source / "x.dcm", pixels, turn)
    else:
        paths = write_series(source, pixels, turn, reverse=kind == "backwards")
        if kind == "compressed":
            for path in paths:
                compress(path, JPEGLosslessSV1)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [DCM2NIIX, "-z", "n", "-b", "n", "-f", "x", "-o", tmp_path / "out", source],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    theirs = nib.load(tmp_path / "out" / "x.nii")
    ours = read_series(source)
    turned = nib.orientations.ornt_transform(
        io_orientation(theirs.affine), io_orientation(ours.affine)
    )
    theirs = theirs.as_reoriented(turned)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), ours.array)
    assert corner_shift(ours.affine, theirs.affine, ours.array.shape) < 1e-3


def test_the_extra_has_all_decoders():
    if importlib.util.find_spec("gdcm") is None:
        pytest.skip("the extra dicom is not installed whole")
    for syntax in (*SYNTAXES, JPEG2000):
        assert pydicom.pixels.get_decoder(syntax).is_available, syntax.name


@pytest.mark.parametrize(
    "syntax, at, byte, words",
    [
        (JPEGLosslessSV1, 15, 0x31, "JPEG up to its scan"),  # no marker
        (JPEGLosslessSV1, 6, 0xDD, "JPEG up to its scan"),  # 221 bits
        (JPEGLSLossless, 6, 0x5D, "JPEG up to its scan"),
        (JPEG2000Lossless, 32, 0x17, "expected"),  # tiles that begin elsewhere
    ],
    ids=["marker", "bits", "bits of JPEG-LS", "tiles"],
)
def test_streams_that_would_end_the_process_of_gdcm(tmp_path, pixels, syntax, at, byte, words):
    (path,) = write_series(tmp_path / "in", pixels[:1])
    compress(path, syntax)
    image = pydicom.dcmread(path)
    stream = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    stream[at] = byte
    image.PixelData = encapsulate([bytes(stream)])
    image.save_as(path)
    with pytest.raises(InputError, match=words):
        read_series(tmp_path / "in")
