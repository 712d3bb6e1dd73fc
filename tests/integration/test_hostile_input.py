"""The fault scripts on hostile input, with few trials; tests/faults runs them with many."""

import collections
import random

import pytest

import fuzz_volumes
import one_bad_case


def test_mutated_headers_and_streams(tmp_path):
    """Each is a valid volume or one sentence; nothing is slow, nothing takes more than the cap."""
    outcomes, suffixes = collections.Counter(), collections.Counter()
    for suffix, content, outcome, peak, seconds in fuzz_volumes.campaign(300, 0, tmp_path):
        assert outcome in ("volume", "refused"), (outcome, content[:400])
        assert peak <= fuzz_volumes.CAP + fuzz_volumes.SLACK, content[:400]
        assert seconds < fuzz_volumes.SECONDS, content[:400]
        outcomes[outcome] += 1
        suffixes[suffix] += 1
    # The mutations must neither be harmless nor hopeless.
    assert outcomes["volume"] > 15 and outcomes["refused"] > 100
    assert min(suffixes[suffix] for suffix in (".nii", ".nii.gz", ".nrrd")) > 30


def test_mutated_dicom(tmp_path):
    """As above, of folders, archives, enhanced files, compressed pixels and segmentations."""
    for name in ("highdicom", "gdcm", "openjpeg"):
        pytest.importorskip(name, reason="the extra dicom is not installed whole")
    import fuzz_dicom

    outcomes, kinds = collections.Counter(), set()
    for kind, content, outcome, peak, seconds in fuzz_dicom.campaign(150, 0, tmp_path):
        assert outcome in ("volume", "refused"), (kind, outcome, content[:400])
        assert peak <= fuzz_volumes.CAP + fuzz_volumes.SLACK, (kind, content[:400])
        assert seconds < fuzz_volumes.SECONDS, (kind, content[:400])
        outcomes[outcome] += 1
        kinds.add(kind)
    assert outcomes["volume"] > 15 and outcomes["refused"] > 50 and len(kinds) > 6


def test_the_dicom_campaign_would_see_a_patient(tmp_path, monkeypatch):
    pytest.importorskip("highdicom")
    import fuzz_dicom

    def tell(path, cap):
        raise fuzz_dicom.InputError(f"{path}: of {fuzz_dicom.SECRET}, expected another")

    for name in ("read_series", "read_volume"):
        monkeypatch.setattr(fuzz_dicom, name, tell)
    outcome, _ = fuzz_dicom.attempt(tmp_path)
    assert outcome.startswith("not one sentence")


def test_what_the_campaign_would_see(tmp_path, monkeypatch):
    """A reader that breaks its promises is caught."""

    def crash(path, reading):
        raise KeyError("dim")

    monkeypatch.setattr(fuzz_volumes, "read_volume", crash)
    ((_, _, outcome, *_),) = fuzz_volumes.campaign(1, 0, tmp_path)
    assert outcome == "KeyError: 'dim'"

    def two_lines(path, reading):
        raise fuzz_volumes.InputError(f"{path}: bad\nvery bad.")

    monkeypatch.setattr(fuzz_volumes, "read_volume", two_lines)
    ((_, _, outcome, *_),) = fuzz_volumes.campaign(1, 0, tmp_path)
    assert outcome.startswith("not one sentence")

    def greedy(path, reading):
        bytearray(reading.max_bytes + 2 * fuzz_volumes.SLACK)
        raise fuzz_volumes.InputError(f"{path}: bad.")

    monkeypatch.setattr(fuzz_volumes, "read_volume", greedy)
    ((*_, peak, _),) = fuzz_volumes.campaign(1, 0, tmp_path)
    assert peak > fuzz_volumes.CAP + fuzz_volumes.SLACK


def test_one_bad_case_among_several(finished_run, phantom, tmp_path):
    assert one_bad_case.trial(finished_run, phantom, tmp_path, 9, random.Random(1)) == []


@pytest.mark.parametrize("kind", one_bad_case.DAMAGES)
def test_every_damage_is_one(phantom, tmp_path, kind):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(next(phantom.rglob("enhanced.nii.gz")).read_bytes())
    one_bad_case.read_volume(path)
    one_bad_case.damage(path, kind)
    with pytest.raises(one_bad_case.InputError):
        one_bad_case.read_volume(path)
