"""Whole DICOM studies: their series are listed, the LGE is taken, and nothing by chance."""

import logging
import zipfile

import numpy as np
import pytest

from lagseg_jax.imaging.dicom import read_series, read_stack
from lagseg_jax.imaging.dicom_choice import choose, is_named, listing, points, unsuitable
from lagseg_jax.imaging.dicom_files import MAX_UNPACKED, dicom_files
from lagseg_jax.imaging.dicom_header import Frame
from lagseg_jax.imaging.dicom_study import Stack, find_studies, split
from lagseg_jax.runtime.errors import InputError

pydicom = pytest.importorskip("pydicom")

from dicom_series import OBLIQUE, ORIGIN, PATIENT, STUDY, Each, write_series, write_study, zipped

SHAPE = (11, 5, 7)  # slices, rows, columns


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def studies(pixels, tmp_path_factory):
    """The same study as a CD, as one folder, and zipped."""
    root = tmp_path_factory.mktemp("study")
    write_study(root / "cd", pixels)
    write_study(root / "flat", pixels, flat=True)
    zipped(root / "cd", root / "archive.zip")
    return root


@pytest.mark.parametrize("name", ["cd", "flat", "archive.zip"])
def test_the_lge_is_found(studies, pixels, name, caplog):
    caplog.set_level(logging.INFO)
    volume = read_series(studies / name)
    np.testing.assert_array_equal(volume.array[:, ::-1].T, pixels)
    said = {line.split("images): ")[0]: line.split("images): ")[1] for line in caplog.messages}
    # The capture, too, and the film has three phases.
    assert sum("skipped" in line for line in said.values()) == len(STUDY) + 2
    for part in ("localizer 3 planes", "cine", "MRA", "TI_scout", "sax", "T1 map", "LGE screen"):
        lines = [line for series, line in said.items() if part in series]
        assert lines and all(line.startswith("skipped, ") and len(line) > 12 for line in lines)
    assert PATIENT not in caplog.text and "Secret" not in caplog.text


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ("6", "LGE PSIR sax"),
        ("*pulmonary*", "3D CE-MRA"),
        ("2.2", "delay in ms 40"),
        ("UID", "map"),
    ],
)
def test_series_decides_by_hand(studies, series, expected):
    (stacks,) = find_studies(studies / "flat")
    if series == "UID":
        series = next(stack.uid for stack in stacks if "map" in stack.description)
    assert expected in choose("x", stacks, series).description


def test_ambiguous_and_unknown_are_errors_with_the_list(studies):
    (stacks,) = find_studies(studies / "flat")
    with pytest.raises(InputError, match=r"several.*5 \(3D_LGE_navi_LA, 11 images\).*=NUMBER"):
        choose("x", stacks, "*LGE*")
    with pytest.raises(InputError, match=r"'nothing'.* 3 \(3D CE-MRA"):
        choose("x", stacks, "nothing")
    without = [stack for stack in stacks if stack.selector not in ("5", "6")]
    with pytest.raises(InputError, match="no series that could be LGE"):
        choose("x", without)


def test_the_same_twice_is_ambiguous(tmp_path, pixels):
    for number in (3, 4):
        about = {"StudyInstanceUID": "1.2.3", "SeriesNumber": number}
        write_series(tmp_path / str(number), pixels, SeriesDescription="LGE 3D", **about)
    with pytest.raises(InputError, match=r"3 \(LGE 3D, 11 images\), 4 \(LGE 3D"):
        read_series(tmp_path)
    assert read_series(tmp_path, series="4").array.shape == SHAPE[::-1]


def test_an_incomplete_lge_is_no_reason_to_take_another(studies, pixels, tmp_path):
    paths = write_study(tmp_path, pixels, flat=True)
    paths["lge"][4].unlink()
    with pytest.raises(InputError, match=r"7\.000 mm between 05_"):
        read_series(tmp_path)
    assert read_series(tmp_path, series="6").array.shape == SHAPE[::-1]


def test_a_damaged_file_may_have_been_of_any_series_beside_it(pixels, tmp_path):
    write_study(tmp_path, pixels)
    (tmp_path / "DICOM" / "cine" / "x.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 99)
    assert read_series(tmp_path).array.shape == SHAPE[::-1]
    (tmp_path / "DICOM" / "lge" / "x.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 99)
    with pytest.raises(InputError, match=r"x\.dcm: damaged"):
        read_series(tmp_path)


def test_an_image_that_is_there_twice_counts_once(pixels, tmp_path):
    for path in write_study(tmp_path, pixels)["lge"]:
        copy = tmp_path / "again" / f"{path.name}.copy"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_series(tmp_path).array[:, ::-1].T, pixels)


NAMES = {
    "LGE": "3D LGE navi|de_3d_psir_la|Delayed enhancement|MDE 3D|late_gad_ax|LGE PSIR TrueFISP|"
    "POST 3D LGE dark blood|lge_3d_T2prep|VIAB_navigator|scar 3d|3d_de",
    "": "t1_vibe_post|ax 3d gre|unnamed|template|lateral|3d ir fl3d",
    "a localizer": "localizer|Survey_SHC|ti scout|TI_Scout_LGE|scout",
    "a film of the heart": "cine sax|CINE LGE|tfi_trufi 4ch|B-TFE_2ch",
    "an angiography": "MRA|ce_mra LA late phase|Angio_PV|TWIST",
    "a map": "T1 map|MOLLI|shMOLLI pre|T2_MAP|LGE maps",
    "a perfusion": "perf_dynamic|first pass",
    "a flow measurement": "flow_aorta|venc 150",
    "a projection": "MRA MIP|LGE_MIP",
    "another weighting": "t2_stir|dark blood haste|DWI",
}


def stack_of(header):
    frame = Frame(None, 0, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", **header})
    return Stack("1", "", 1, (frame,) * 20, None, np.eye(4))


@pytest.mark.parametrize("kind", NAMES)
def test_what_a_series_is_by_its_name(kind):
    for name in NAMES[kind].split("|"):
        stack = stack_of({"SeriesDescription": name})
        found = unsuitable(stack) or "LGE" * is_named(stack)
        assert found == kind or (kind, found) == ("a projection", "an angiography"), name


def test_what_speaks_for_the_left_atrium():
    def of(name, **header):
        return points(stack_of({"SeriesDescription": name, **header}))

    assert of("LGE 3D LA", MRAcquisitionType="3D") > of("LGE", MRAcquisitionType="3D") > of("LGE")
    assert of("LGE") > of("LGE sax") and of("LGE") > of("LGE", ImageType=("ORIGINAL", "P", "PSIR"))
    assert of("LGE") > of("LGE", ImageType=("DERIVED", "PRIMARY", "MPR"))
    assert of("x", InversionTime=250.0) > of("x") and of("LGE 4ch") > of("x", InversionTime=250.0)


@pytest.mark.parametrize("shuffled", [False, True])
def test_magnitude_and_psir_in_one_series_are_parted(tmp_path, pixels, shuffled):
    both = np.concatenate([pixels, pixels[::-1]])
    normal = np.cross(*OBLIQUE)
    places = [[*(ORIGIN + 3.5 * n * normal)] for n in range(11)]
    types = Each([["ORIGINAL", "PRIMARY", "M", "ND"]] * 11 + [["DERIVED", "PRIMARY", "PSIR"]] * 11)
    numbers = np.random.default_rng(1).permutation(22) if shuffled else np.arange(22)
    fields = {"ImagePositionPatient": Each(places + places[::-1]), "ImageType": types}
    fields["InstanceNumber"] = Each([int(number) + 1 for number in numbers])
    write_series(tmp_path, both, OBLIQUE, **fields)
    (stacks,) = find_studies(tmp_path)
    assert sorted(stack.description for stack in stacks) == ["LGE, PSIR", "LGE, magnitude"]
    for series in ("", "*PSIR", "1.1", "1.2"):
        volume = read_stack(choose("x", stacks, series))
        np.testing.assert_array_equal(volume.array[:, ::-1].T, pixels)
    assert choose("x", stacks).part == "magnitude" and choose("x", stacks, "1").part == "magnitude"


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("F", "IP", "OP", "W"), "water image"),  # Philips
        (("DIXON/FAT", "DIXON/IN_PHASE", "DIXON/WATER"), "water image"),
        (("F", "M"), "magnitude"),
        (("AVERAGE", "MEDIAN"), ""),
        (("M/AVERAGE", "M/MEDIAN"), ""),
    ],
)
def test_of_kinds_in_one_series_the_magnitude_or_water_is_taken_or_none(
    tmp_path, pixels, words, taken
):
    normal, count = np.cross(*OBLIQUE), len(words)
    places = [[*(ORIGIN + 3.5 * n * normal)] for n in range(11)]
    types = [["ORIGINAL", "PRIMARY", *word.split("/")] for word in words for _ in places]
    fields = {"ImagePositionPatient": Each(places * count), "ImageType": Each(types)}
    write_series(tmp_path, np.concatenate([pixels] * count), OBLIQUE, **fields)
    (stacks,) = find_studies(tmp_path)
    assert len(stacks) == count
    for series in ("", "1"):
        if taken:
            assert choose("x", stacks, series).part == taken
        else:
            with pytest.raises(InputError, match="several series that could be meant"):
                choose("x", stacks, series)


@pytest.mark.parametrize(
    ("field", "values", "named"),
    [
        ("TemporalPositionIdentifier", lambda n, phase: phase + 1, "time point"),
        ("EchoTime", lambda n, phase: 1.5 + phase, "echo"),
        ("AcquisitionNumber", lambda n, phase: phase + 1, "acquisition"),
        ("TriggerTime", lambda n, phase: 100.0 * phase + 3 * n, "phase 1 of 3"),
        ("AcquisitionTime", lambda n, phase: f"12{phase:02d}{n:02d}.5", "phase 1 of 3"),
    ],
)
def test_phases_are_named_and_one_is_chosen(tmp_path, pixels, field, values, named):
    normal = np.cross(*OBLIQUE)
    order = [(n, phase) for n in range(11) for phase in range(3)]
    planes = np.stack([pixels[n] + phase for n, phase in order])
    fields = {"ImagePositionPatient": Each([[*(ORIGIN + 3.5 * n * normal)] for n, _ in order])}
    fields[field] = Each([values(n, phase) for n, phase in order])
    write_series(tmp_path, planes, OBLIQUE, SeriesDescription="3D LGE", **fields)
    (stacks,) = find_studies(tmp_path)
    assert [stack.selector for stack in stacks] == ["1.1", "1.2", "1.3"]
    assert named in stacks[0].part and len({stack.part for stack in stacks}) == 3
    assert choose("x", stacks) is choose("x", stacks, "1") is stacks[0]
    for phase, stack in enumerate(stacks):
        np.testing.assert_array_equal(read_stack(stack).array[:, ::-1].T, pixels + phase)


def test_what_cannot_be_parted_is_refused(tmp_path, pixels):
    fields = {"ImagePositionPatient": list(ORIGIN)}
    write_series(tmp_path, pixels, **fields)
    with pytest.raises(InputError, match="the same position"):
        read_series(tmp_path)
    assert split([]) == {}


def test_the_list_shows_every_series_and_no_patient(studies):
    (stacks,) = find_studies(studies / "cd")
    lines = listing(stacks, choose("x", stacks))
    assert len(lines) == 1 + len(stacks) and sum(line.startswith("* 5 ") for line in lines) == 1
    assert "7 x 5 x 11" in lines[-4] and "0.75 x 1.25 x 3.5" in lines[-4]
    assert "Secret" not in "".join(lines)


def test_archives_are_never_unpacked_and_never_read_beyond_what_they_hold(studies, tmp_path):
    path, (first, *_) = tmp_path / "bomb.zip", dicom_files(studies / "archive.zip")
    content = first.open().read()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.dcm", content[:132] + bytes(2**24))
    (bomb,) = dicom_files(path)
    with pytest.raises(InputError, match=f"zeros.dcm: {2**24 + 132} bytes packed into"):
        bomb.open()
    with pytest.raises(InputError, match="packed into"):
        read_series(path)
    for number, name in enumerate(("../../etc/lge.dcm", "/absolute.dcm", "a/../b.dcm")):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr(name, content)
        with pytest.raises(InputError, match="inside the archive"):
            read_series(path)
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda b: b[:300], "damaged or not readable"),
        (lambda b: b"", "damaged or not readable"),
        (lambda b: b[:40] + bytes(200) + b[240:], "damaged"),
    ],
)
def test_damaged_archives_are_one_sentence(studies, tmp_path, spoil, found):
    path = tmp_path / "x.zip"
    path.write_bytes(spoil((studies / "archive.zip").read_bytes()))
    with pytest.raises(InputError) as error:
        read_series(path)
    assert (
        found in str(error.value) and "x.zip" in str(error.value) and "\n" not in str(error.value)
    )


def test_archives_have_bounds(studies, tmp_path, monkeypatch):
    assert MAX_UNPACKED > 10**9
    for name in ("MAX_UNPACKED", "MAX_MEMBERS"):
        monkeypatch.setattr(f"lagseg_jax.imaging.dicom_files.{name}", 5)
        with pytest.raises(InputError, match="declared, expected at most"):
            list(dicom_files(studies / "archive.zip"))
        monkeypatch.undo()
