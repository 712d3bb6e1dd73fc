"""launch/pacs.py and a PACS that misbehaves, or none: one sentence, nothing half-written."""

import json
import os
import signal
import socket
import tempfile

import numpy as np
import pytest

from lagseg_jax import predict
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError

for _name in ("pydicom", "highdicom", "dicomweb_client"):
    pytest.importorskip(_name, reason="the extra pacs is not installed")

import pydicom
from pydicom.uid import generate_uid

import dicom_series
import dicomweb_server
from pacs_script import pacs

JSON = {"Content-Type": "application/dicom+json"}
SERIES = "1.2.3.7"


@pytest.fixture
def server():
    with dicomweb_server.serve() as server:
        yield server


@pytest.fixture
def image(tmp_path):
    """A file to be stored; any object will do."""
    (path,) = dicom_series.write_series(tmp_path / "in", np.ones((1, 3, 5), np.uint16))
    return path


def found(**values):
    """An answer to a query: one data set of these."""
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return 200, JSON, json.dumps([dataset.to_json_dict()]).encode()


def refused(reason):
    """The content of an answer to a store."""
    item = pydicom.Dataset()
    item.FailureReason = reason
    answer = pydicom.Dataset()
    answer.FailedSOPSequence = [item]
    return json.dumps(answer.to_json_dict()).encode()


def sentence(action):
    with pytest.raises(InputError) as caught:
        action()
    text = str(caught.value)
    assert "expected" in text and "\n" not in text and "No^One" not in text
    return text


def search(server, timeout=30.0):
    return sentence(lambda: pacs.Pacs(server.url, timeout).find_study("PatientID", "1"))


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"
    text = sentence(lambda: pacs.Pacs(url, 30).find_study("PatientID", "1"))
    assert text.startswith(f"{url}: ") and "(Connection refused)" in text


def test_no_answer_in_time(server):
    server.seconds = 1.0
    assert "(no answer in time), expected one within --timeout" in search(server, 0.1)


@pytest.mark.parametrize("content", [b"<html>", b"{", b'[{"0020000D": 7}]', b'[["x"]]', b"7"])
def test_an_answer_of_something_else(server, content):
    server.answers["GET", "/studies"] = 200, JSON, content
    assert "the search for the study failed" in search(server)


def test_it_goes_nowhere_else(server):
    with dicomweb_server.serve() as other:
        to = {"Location": f"{other.url}/studies"}
        server.answers["GET", "/studies"] = 302, to, b""
        assert "(sent elsewhere)" in search(server)
        assert other.requests == []


def test_a_server_that_does_not_know_the_filter(server):
    """It gives all studies; none of another patient may be taken for the one that is meant."""
    server.answers["GET", "/studies"] = found(StudyInstanceUID="1.2.3", PatientID="12")
    assert "has 0 studies of PatientID '1'" in search(server)
    status, headers, content = found(StudyInstanceUID="1.2.3", PatientID="1")
    content = content.replace(b"1.2.3", b"../../x")
    server.answers["GET", "/studies"] = status, headers, content
    assert "(ValueError)" in search(server)


@pytest.mark.parametrize(
    "answer, words",
    [
        ((507, {}, b""), "status 507 Insufficient Storage), expected a PACS that has room"),
        ((409, JSON, refused(0xA700)), "reason A700 out of resources), expected a PACS that has"),
        ((202, JSON, refused(0x0110)), "failed, reason 0110 processing failed, expected a PACS"),
        ((200, JSON, refused(0xA900)), "reason A900 another kind of object"),
        ((200, JSON, b"{}"), "was not refused, but it is not there afterwards"),
        ((200, {}, b""), "was not refused, but it is not there afterwards"),
        ((401, {}, b""), "expected name and password in PACS_USER"),
    ],
    ids="507 409 202 failed-200 lost lost-empty 401".split(),
)
def test_a_store_that_fails(server, image, answer, words):
    server.answers["POST", "/studies/"] = answer
    text = sentence(lambda: pacs.Pacs(server.url, 30).store(image))
    assert words in text and (str(image) in text)


def multipart(*images):
    parts = b"".join(
        b"--x\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n"
        for path in images
    )
    return (
        200,
        {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'},
        (parts + b"--x--"),
    )


def test_another_object_under_the_same_uid(server, image):
    server.answers["GET", "/instances/"] = multipart(image)
    client = pacs.Pacs(server.url, 30)
    client.store(image)  # it is there
    assert [method for method, _ in server.requests] == ["GET"]
    other = pydicom.dcmread(image)
    other.PixelData = bytes(30)
    other.save_as(image)
    assert "has another object under the UID" in sentence(lambda: client.store(image))


@pytest.mark.parametrize("how", ["fewer", "cut", "other study", "stopped"])
def test_what_ends_before_there_is_a_mask(server, tmp_path, monkeypatch, capsys, finished_run, how):
    """Neither outputs nor fetched images stay."""
    study = "1.2.3"
    about = {"StudyInstanceUID": generate_uid() if how == "other study" else study}
    about["SeriesInstanceUID"] = SERIES
    paths = dicom_series.write_series(tmp_path / "in", np.ones((3, 5, 7), np.uint16), **about)
    status, headers, content = multipart(*(paths[:2] if how == "fewer" else paths))
    if how == "cut":
        headers |= {"Content-Length": str(len(content) + 1000)}
    server.answers["GET", f"/series/{SERIES}"] = status, headers, content
    server.answers["GET", "/series"] = found(
        SeriesInstanceUID=SERIES, Modality="MR", NumberOfSeriesRelatedInstances=3
    )
    server.answers["GET", "/studies"] = found(StudyInstanceUID=study)
    if how == "stopped":
        monkeypatch.setattr(predict, "main", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    arguments = ["--url", server.url, "--study", study, "--workdir", str(finished_run)]
    arguments += ["--output", str(tmp_path / "masks"), "--timeout", "1"]
    status = exit_status(lambda: pacs.main(arguments))
    assert status == (128 + signal.SIGTERM if how == "stopped" else 2)
    said = capsys.readouterr().err
    words = {"fewer": f"2 images of series {SERIES} came, expected 3"}
    words |= {"cut": "the fetching of a series failed", "other study": "images of another study"}
    words |= {"stopped": "stopped by SIGTERM"}
    assert words[how] in said and (how == "stopped" or f"error: {server.url}: " in said)
    assert list((tmp_path / "temporary").iterdir()) == [] and not (tmp_path / "masks").exists()


@pytest.mark.parametrize("url", ["http://me:hidden@pacs/x", "ftp://pacs", "pacs/x", "http://[x"])
def test_a_url_that_is_none(url):
    text = sentence(lambda: pacs.Pacs(url, 30))
    assert text.startswith("--url is ") and "hidden" not in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--input=x"], "--input is given, expected none"),
        (["--timeout=0"], "--timeout is 0.0, expected seconds above 0"),
        (["--rtstrct", "--workdir=x", "--output=y"], "did you mean --rtstruct?"),
        (["--workdir=nowhere", "--output=y"], "nowhere"),
    ],
)
def test_options_are_checked_before_anybody_is_asked(server, capsys, arguments, words):
    given = ["--url", server.url, "--study=1.2", *arguments]
    assert exit_status(lambda: pacs.main(given)) == 2
    assert words in capsys.readouterr().err and server.requests == []
