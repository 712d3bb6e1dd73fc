"""What is doubtful about a mask stands in its DICOM objects, which may be all that one sees."""

import shutil
import subprocess

import pytest

from lagseg_jax.imaging.dicom import read_stack
from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.dicom_segmentation import write_segmentation
from lagseg_jax.imaging.dicom_structures import write_structures
from lagseg_jax.imaging.dicom_study import find_studies

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from dicom_series import write_series

SAID = "Left atrium, lagseg_jax. Research use only"


def written(path, write, mask, stack, remarks):
    write(path, mask, stack, Algorithm("0.1.0", ",".join(["ab" * 32] * 5), remarks))
    return pydicom.dcmread(path)


def texts(found):
    """Of the series, of the object and of its structure."""
    if found.Modality == "SEG":
        return found.SeriesDescription, found.SegmentSequence[0].SegmentDescription
    return found.SeriesDescription, found.StructureSetROISequence[0].ROIDescription


@pytest.mark.parametrize("write", [write_segmentation, write_structures])
def test_remarks_are_in_what_a_reader_sees(tmp_path, pixels, mask, write):
    write_series(tmp_path / "in", pixels)
    ((stack,),) = find_studies(tmp_path / "in")
    place = tmp_path / "a.dcm", write, mask, stack
    plain = written(*place, "")
    assert texts(plain) == (SAID, "Research use only")
    remarks = "a field of view of 352 mm; the mask reaches the border of the volume"
    doubtful = written(*place, remarks)
    assert texts(doubtful) == (f"{SAID}. See its remarks", f"Research use only. Remarks: {remarks}")
    # Another text is another object: a PACS takes no second one with the UID of the first.
    assert doubtful.SOPInstanceUID != plain.SOPInstanceUID
    assert doubtful.SOPInstanceUID == written(*place, remarks).SOPInstanceUID


@pytest.mark.parametrize("write", [write_segmentation, write_structures])
def test_remarks_are_no_longer_than_dicom_allows(tmp_path, pixels, mask, write):
    """64 characters of the type LO, 1024 of ST."""
    write_series(tmp_path / "in", pixels)
    ((stack,),) = find_studies(tmp_path / "in")
    found = written(tmp_path / "a.dcm", write, mask, stack, "a remark; " * 500)
    series, structure = texts(found)
    assert len(series) <= 64 and len(structure) == 1024
    if found.Modality == "SEG":
        assert found.ContentDescription.startswith("Research use only. Remarks: a remark")
        assert len(found.ContentDescription) == 64
    if shutil.which("dciodvfy"):
        done = subprocess.run(["dciodvfy", tmp_path / "a.dcm"], capture_output=True, text=True)
        assert "Error" not in done.stdout + done.stderr


def test_what_is_no_reason_to_refuse_a_series_is_a_remark(tmp_path, pixels, caplog):
    write_series(tmp_path / "a", pixels, Modality="CT", LossyImageCompression="01")
    ((stack,),) = find_studies(tmp_path / "a")
    assert stack.remarks == [
        "modality 'CT' found, expected MR",
        "its images were compressed with loss",
    ]
    read_stack(stack)
    assert [message.partition(": ")[2] for message in caplog.messages] == stack.remarks
