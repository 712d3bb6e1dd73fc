"""launch/pacs.py against a real PACS: fetched, predicted, stored and queried, or one sentence."""

import io
import logging

import numpy as np
import pytest

from lagseg_jax import predict
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.console import exit_status

for _name in ("pydicom", "highdicom", "dicomweb_client"):
    pytest.importorskip(_name, reason="the extra pacs is not installed")

import pydicom

import dicom_series
import orthanc
from pacs_script import pacs

FULL = 2**20 - 6000  # bytes in a PACS of 1 MB


def call(*arguments):
    return exit_status(lambda: pacs.main([str(word) for word in arguments]))


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("PACS_USER", orthanc.USER)
    monkeypatch.setenv("PACS_PASSWORD", orthanc.PASSWORD)


@pytest.fixture
def said(monkeypatch, capsys, caplog):
    """All that was said since the last call: on the console and in the log."""
    caplog.set_level(logging.INFO, "lagseg_jax")
    for module in (predict, pacs):
        monkeypatch.setattr(module, "log_to_console", lambda: None)

    def since():
        printed = capsys.readouterr()
        text = printed.out + printed.err + caplog.text
        caplog.clear()
        assert "Secret" not in text and orthanc.PASSWORD not in text
        return text

    return since


@pytest.fixture(scope="module")
def study(phantom, tmp_path_factory):
    """Files of a study with several series, by their names."""
    image = read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    planes, _ = to_slices(image.array, image.affine)
    written = dicom_series.write_study(tmp_path_factory.mktemp("study"), planes.astype(np.uint16))
    for paths in written.values():
        for path in paths:
            image = pydicom.dcmread(path)
            image.AccessionNumber, image.PatientID = "A17", "P-31"
            image.save_as(path)
    return written


@pytest.fixture
def server(study, tmp_path):
    """A real PACS with that study."""
    if not orthanc.INSTALLED:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed")
    running = orthanc.Orthanc(tmp_path / "pacs")
    for path in (path for paths in study.values() for path in paths):
        running.ask("instances", path.read_bytes())
    yield running
    running.kill()


def objects(server, modality="SEG"):
    """What it has of a kind, by DICOMweb."""
    found = server.ask(f"dicom-web/instances?Modality={modality}&includefield=all")
    return [pydicom.Dataset.from_json(one) for one in found]


def stored(server, found):
    """An object as its file is stored."""
    uids = found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID
    client = pacs.Pacs(server.url, 30)._client
    return client.retrieve_instance(*uids, media_types=pacs.AS_STORED)


def uid_of(study, name="StudyInstanceUID"):
    return pydicom.dcmread(study["lge"][0])[name].value


def test_the_segmentation_is_there_once(server, study, finished_run, tmp_path, credentials, said):
    out = tmp_path / "masks"
    options = ("--url", server.url, "--workdir", finished_run, "--output", out, "--rtstruct")
    assert call(*options, "--accession", "A17") == 0
    text = said()
    assert "series 5 (3D_LGE_navi_LA, " in text and "taken" in text
    assert "series 3 (3D CE-MRA pulmonary veins, " in text
    (seg,), (structures,) = objects(server), objects(server, "RTSTRUCT")
    case = uid_of(study, "SeriesInstanceUID")
    mask = read_volume(out / f"{case}.nii.gz").array
    found = stored(server, seg)
    planes = found.pixel_array[dicom_series.order_of_frames(found)]
    np.testing.assert_array_equal(planes[:, ::-1].T, mask)
    assert mask.any() and found.StudyInstanceUID == uid_of(study)
    (source,) = found.ReferencedSeriesSequence
    assert source.SeriesInstanceUID == case
    assert stored(server, structures).ROIContourSequence[0].ContourSequence

    before = server.ask("statistics")["CountInstances"]
    for again in (["--resume"], []):  # nothing is predicted, everything is
        assert call(*options, "--study", uid_of(study), *again) == 0
        assert said().count("is in the PACS already") == 2
    assert server.ask("statistics")["CountInstances"] == before
    written = [path for path in out.rglob("*") if path.suffix in (".json", ".csv", ".gz")]
    assert not any(b"Secret" in path.read_bytes() for path in written)


def test_several_studies_are_listed(server, study, tmp_path, credentials, said):
    other = pydicom.dcmread(study["lge"][0])
    other.StudyInstanceUID = other.SeriesInstanceUID = other.SOPInstanceUID = "1.2.3.4"
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.AccessionNumber, other.Modality = "A18", "SR"
    stream = io.BytesIO()
    other.save_as(stream)
    server.ask("instances", stream.getvalue())
    client = pacs.Pacs(server.url, 30)
    with pytest.raises(ValueError, match="has 2 studies of PatientID 'P-31'") as caught:
        client.find_study("PatientID", "P-31")
    assert uid_of(study) in str(caught.value) and "1.2.3.4 of 20200101" in str(caught.value)
    for value in ("P-32", "p-31", "P-3"):
        with pytest.raises(ValueError, match=f"has 0 studies of PatientID '{value}', expected one"):
            client.find_study("PatientID", value)
    for value in ("P*", "", "P-3?"):
        with pytest.raises(ValueError, match="expected one value without wildcards"):
            client.find_study("PatientID", value)
    with pytest.raises(ValueError, match=r"has no series of MR images \(SR\)"):
        client.fetch("1.2.3.4", tmp_path)


def test_a_study_without_lge(server, study, finished_run, tmp_path, credentials, said):
    for name in ("lge", "sax"):
        series = uid_of({"lge": study[name]}, "SeriesInstanceUID")
        (found,) = server.ask("tools/lookup", series.encode())
        delete(server, f"series/{found['ID']}")
    options = ("--url", server.url, "--workdir", finished_run, "--output", tmp_path / "masks")
    assert call(*options, "--patient", "P-31") == 2
    text = said()
    assert f"error: study {uid_of(study)} has no series that could be LGE: 1 (localizer" in text
    assert not (tmp_path / "masks").exists() and objects(server) == []


def delete(server, path):
    import requests

    known = orthanc.USER, orthanc.PASSWORD
    requests.delete(f"http://127.0.0.1:{server.port}/{path}", auth=known, timeout=30)


def test_credentials(server, study, tmp_path, monkeypatch, said):
    """None and wrong ones are refused; netrc has them, too."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("PACS_USER", raising=False)
    for user in ("", "nobody"):
        monkeypatch.setenv("PACS_USER", user)
        with pytest.raises(ValueError, match=r"\(status 401 .*PACS_USER and PACS_PASSWORD"):
            pacs.Pacs(server.url, 30).find_study("PatientID", "P-31")
    monkeypatch.delenv("PACS_USER")
    password = orthanc.PASSWORD
    (tmp_path / "netrc").write_text(
        f'machine 127.0.0.1 login {orthanc.USER} password "{password}"\n'
    )
    assert pacs.Pacs(server.url, 30).find_study("PatientID", "P-31") == uid_of(study)


@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_pacs_that_fails_before_the_store(
    server, study, finished_run, tmp_path, monkeypatch, credentials, said, how
):
    """One sentence, the mask is kept, nothing is stored; the same command stores it later."""
    out, really = tmp_path / "masks", predict.main

    def then_fails(arguments):
        status = really(arguments)
        server.kill()
        if how == "full":
            server.settings = {"MaximumStorageSize": 1}  # MB
            server.start()
            fill(server, study)
        return status

    options = ("--url", server.url, "--workdir", finished_run, "--output", out)
    options += ("--study", uid_of(study))
    with monkeypatch.context() as patch:
        patch.setattr(predict, "main", then_fails)
        assert call(*options) == 2
    text = said()
    (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
    if how == "full":
        # Orthanc answers 200 as if all were well: only reading it back tells.
        assert f"the store of {out}/segmentations/" in error
        assert "is not there afterwards, expected a PACS that has room" in error
    else:
        assert "failed (Connection refused), expected a DICOMweb server" in error
    (seg,) = (out / "segmentations").iterdir()
    assert pydicom.dcmread(seg).Modality == "SEG"
    if how == "full":
        server.kill()
    server.settings = {}
    server.start()
    assert objects(server) == []
    assert call(*options, "--resume") == 0
    assert "cases already there: 1" in said() and len(objects(server)) == 1


def fill(server, study):
    """Leaves less room than a segmentation needs, with an image of the same patient."""
    free = FULL - int(server.ask("statistics")["TotalDiskSize"])
    image = pydicom.dcmread(study["capture"][0])
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    image.Rows, image.Columns = 16, free // 32
    image.PixelData = bytes(32 * image.Columns)
    stream = io.BytesIO()
    image.save_as(stream)
    server.ask("instances", stream.getvalue())
