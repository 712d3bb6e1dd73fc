"""Fetches a study from a PACS, predicts its LGE series, and stores the segmentation there.

    python launch/pacs.py --url=http://127.0.0.1:8042/dicom-web --study=UID \
        --workdir=runs/base --output=masks

All that it does not know itself are options of `lagseg_jax.predict`. Name and password come from
PACS_USER and PACS_PASSWORD, or from ~/.netrc. Nothing but the URL is spoken to. Research use only.
"""

import argparse
import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lagseg_jax import predict
from lagseg_jax.imaging.dicom_choice import take
from lagseg_jax.imaging.dicom_files import quiet
from lagseg_jax.imaging.dicom_segmentation import check_segmentation_support
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import exit_status, log, log_to_console, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command

AS_STORED = (("application/dicom", "*"),)  # in the transfer syntax that the PACS has
SECONDS = 60.0  # without a byte of an answer
MODALITIES = ("MR", "CT")
# DICOM PS3.18 I.2.2: reasons of failure of a store.
REASONS = {0xA7: "out of resources", 0xA9: "another kind of object", 0xC0: "not understood"}
REASONS |= {0x0110: "processing failed", 0x0122: "kind of object not supported"}
REASONS |= {0x0124: "not authorised", 0x0111: "there already"}


def options_of(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Ours, and those for `predict`."""
    parser = argparse.ArgumentParser(
        prog="python launch/pacs.py",
        description="A study from a PACS, predicted, and its segmentation stored there. Research "
        "use only. All other options are those of predict: --workdir and --output are needed.",
        epilog="Name and password: PACS_USER and PACS_PASSWORD, or ~/.netrc.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", required=True, help="of DICOMweb: https://pacs/dicom-web")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--study", metavar="UID", help="StudyInstanceUID")
    one.add_argument("--accession", metavar="NUMBER", help="AccessionNumber, of one study")
    one.add_argument("--patient", metavar="ID", help="PatientID, of one study")
    parser.add_argument("--timeout", type=float, default=SECONDS, help="seconds without an answer")
    ours, others = parser.parse_known_args(arguments)
    if any(word in ("-i", "--input") or word.startswith("--input=") for word in others):
        raise InputError("--input is given, expected none: the study is fetched from --url")
    if not ours.timeout > 0:
        raise InputError(f"--timeout is {ours.timeout}, expected seconds above 0")
    return ours, [*others, "--dicom_seg"]


class Pacs:
    """A DICOMweb server; every failure is an `InputError`, one sentence without a patient."""

    def __init__(self, url: str, timeout: float):
        """Connects to nothing yet.

        Raises:
            InputError: the URL cannot be one, or has a password in it; no dicomweb-client.
        """
        if importlib.util.find_spec("dicomweb_client") is None:
            raise InputError(
                "dicomweb-client is not installed, expected it after " + install_command("pacs")
            )
        import requests
        from dicomweb_client.api import DICOMwebClient

        try:
            place = urlsplit(url)
            usable = place.scheme in ("http", "https") and place.hostname and place.port != 0
        except ValueError:
            usable = False
        if not usable or place.username or place.password:
            shown = re.sub(r"//[^/]*@", "//...@", url)
            raise InputError(
                f"--url is {shown}, expected https://HOST/dicom-web without name and password, "
                "which PACS_USER and PACS_PASSWORD hold"
            )
        self.url = url.rstrip("/")
        session = requests.Session()
        session.trust_env = False  # no proxy
        session.max_redirects = 0  # to nowhere else
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        session.headers["Accept"] = "application/dicom+json"  # of stores
        user, password = os.environ.get("PACS_USER"), os.environ.get("PACS_PASSWORD")
        known = (user, password or "") if user else requests.utils.get_netrc_auth(url)
        session.auth = known
        if known and place.scheme == "http" and place.hostname not in ("127.0.0.1", "localhost"):
            log.warning("%s: name and password go there unencrypted, expected https", self.url)
        self._client = DICOMwebClient(self.url, session, timeout=timeout)
        self._client.set_http_retry_params(retry=False)

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Turns what goes wrong in between into one sentence."""
        import requests

        try:
            with quiet(), still(what):
                yield
            return
        except (InputError, MemoryError):
            raise
        except requests.HTTPError as error:
            answer = error.response
            found = f"status {answer.status_code} {answer.reason}".strip()
            expected = "a DICOMweb server that answers"
            if answer.status_code in (401, 403):
                expected = "name and password in PACS_USER and PACS_PASSWORD, or in ~/.netrc"
            elif (reasons := failures(answer)) or answer.status_code == 507:
                found, expected = found + reasons, "a PACS that has room and takes such objects"
        except requests.TooManyRedirects:
            found, expected = "sent elsewhere", "the URL of the DICOMweb server itself"
        except requests.Timeout:
            found, expected = "no answer in time", "one within --timeout seconds"
        except requests.RequestException as error:
            reason = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
            found = reason[1] if reason else type(error).__name__
            expected = "a DICOMweb server that answers to the end"
        except Exception as error:  # an answer of another kind, whose text may quote a patient
            if isinstance(error, OSError) and error.errno:
                raise  # of our own disk; those of pydicom have no number
            found, expected = type(error).__name__, "the answers of a DICOMweb server"
        raise InputError(f"{self.url}: {what} failed ({found}), expected {expected}") from None

    def find_study(self, keyword: str, value: str) -> str:
        """The UID of the one study with this value.

        Raises:
            InputError: none or several, with the list of these; no answer.
        """
        if not value.strip() or re.search(r"[*?\\]", value):
            raise InputError(f"{keyword} is {value!r}, expected one value without wildcards")
        with self._asked("the search for the study"):
            filters = {"search_filters": {keyword: value}}
            found = [read(one) for one in self._client.search_for_studies(**filters)]
            # A server that does not know the filter gives all that it has.
            found = [one for one in found if str(one.get(keyword, "")).strip() == value.strip()]
            uids = {valid(one.StudyInstanceUID): one for one in found}
        if len(uids) != 1:
            listed = ", ".join(f"{uid} of {uids[uid].get('StudyDate', '')}" for uid in sorted(uids))
            listed = f": {listed}; expected one, named by --study" if uids else ", expected one"
            raise InputError(f"{self.url} has {len(uids)} studies of {keyword} {value!r}{listed}")
        return next(iter(uids))

    def fetch(self, study: str, folder: Path) -> None:
        """Writes the images of a study: a folder of each series, named by its UID.

        Raises:
            InputError: no series of images, or fewer images than the PACS says it has.
        """
        with self._asked("the list of series"):
            listed = [read(one) for one in self._client.search_for_series(study)]
            series = {valid(one.SeriesInstanceUID): one for one in listed}
        wanted = {uid: one for uid, one in series.items() if one.get("Modality") in MODALITIES}
        if not wanted:
            kinds = ", ".join(sorted({str(one.get("Modality", "?")) for one in listed})) or "none"
            raise InputError(f"{self.url}: study {study} has no series of MR images ({kinds})")
        for number, (uid, about) in enumerate(wanted.items(), 1):
            count = self._fetch_series(study, uid, folder / uid)
            said = int(about.get("NumberOfSeriesRelatedInstances") or count)
            if not count >= max(said, 1):
                raise InputError(
                    f"{self.url}: {count} images of series {uid} came, expected {said}"
                )
            log.info("fetched %d/%d: series %s, %d images", number, len(wanted), uid, count)

    def _fetch_series(self, study: str, series: str, folder: Path) -> int:
        folder.mkdir()
        with self._asked("the fetching of a series"):
            for image in self._client.iter_series(study, series, media_types=AS_STORED):
                if (image.StudyInstanceUID, image.SeriesInstanceUID) != (study, series):
                    raise InputError(f"{self.url}: images of another study than {study} came")
                image.save_as(folder / f"{valid(image.SOPInstanceUID)}.dcm")
        return len(list(folder.iterdir()))

    def store(self, path: Path) -> None:
        """Stores an object unless it is there, and looks whether the PACS has it afterwards.

        Raises:
            InputError: the PACS did not take it, or has another one.
        """
        import pydicom

        made = pydicom.dcmread(path)
        if self._has(made):
            log.info("%s is in the PACS already (SOP instance %s)", path, made.SOPInstanceUID)
            return
        what = f"the store of {path}"
        with self._asked(what):
            answer = self._client.store_instances([made], made.StudyInstanceUID)
            if reasons := failures(answer):
                raise InputError(f"{self.url}: {what} failed{reasons}, expected a PACS with room")
        if not self._has(made):
            raise InputError(
                f"{self.url}: {what} was not refused, but it is not there afterwards, expected a "
                "PACS that has room and takes such objects"
            )
        log.info("stored %s (SOP instance %s), and read back", path, made.SOPInstanceUID)

    def _has(self, made: Any) -> bool:
        import requests

        uids = made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID
        with self._asked("the reading back"):
            try:
                there = self._client.retrieve_instance(*uids, media_types=AS_STORED)
            except requests.HTTPError as error:
                if error.response.status_code in (404, 410):
                    return False
                raise
            names = "SOPInstanceUID", "PixelData", "ROIContourSequence"
            if any(there.get(name) != made.get(name) for name in names):
                raise InputError(
                    f"{self.url} has another object under the UID {made.SOPInstanceUID}, expected "
                    "the one of this run and series"
                )
            return True


def read(answer: dict) -> Any:
    """A data set in the JSON of DICOMweb."""
    import pydicom

    return pydicom.Dataset.from_json(answer)


def valid(uid: Any) -> str:
    """A UID as the name of a file; raises ValueError for any other text."""
    if not re.fullmatch(r"\d[\d.]{0,63}", str(uid)):
        raise ValueError("no UID")
    return str(uid)


def failures(answer: Any) -> str:
    """The reasons in the answer to a store; "" where it names none, as that of a full Orthanc."""
    with contextlib.suppress(Exception):  # a refusal may have no such content
        answer = read(answer.json()) if hasattr(answer, "json") else answer
        codes = [int(one.get("FailureReason") or 0) for one in answer.get("FailedSOPSequence", ())]
        named = {f"{code:04X} {REASONS.get(code, REASONS.get(code >> 8, ''))}" for code in codes}
        return "".join(f", reason {name.strip()}" for name in sorted(named))
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Fetches, predicts and stores; returns the exit status."""
    ours, others = options_of(arguments)
    options = predict.parse_arguments([*others, "--input", ours.url])
    log_to_console()
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)
    check_segmentation_support()
    for workdir in options.workdir:
        read_config(Path(workdir))
    pacs = Pacs(ours.url, ours.timeout)
    asked = {"StudyInstanceUID": ours.study, "AccessionNumber": ours.accession}
    asked |= {"PatientID": ours.patient}
    study = next(pacs.find_study(name, value) for name, value in asked.items() if value is not None)
    with tempfile.TemporaryDirectory(prefix="lagseg_jax-") as place:
        pacs.fetch(study, Path(place))
        (stacks,) = find_studies(Path(place), options.allow) or [[]]
        chosen = take(f"study {study}", stacks, options.series)
        case = chosen.folder.name
        source = ["--input", str(chosen.folder), "--series", chosen.selector]
        if status := predict.main([*others, *source]):
            return status
    output = Path(options.output)
    folders = ["segmentations", *(["structures"] if options.rtstruct else [])]
    for folder in folders:
        pacs.store(output / folder / f"{case}.dcm")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, continues="--resume" in sys.argv))
