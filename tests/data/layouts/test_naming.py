"""Datasets of any naming: told by patterns or a table, recognised where names leave no doubt."""

import os
import re

import pytest

from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.layouts.known import NAMINGS
from lagseg_jax.runtime.errors import InputError
from small_files import make


def found(root, *named):
    """{case: (image, label)}, paths below the root."""
    return {
        case.name: tuple(str(path.relative_to(root)) for path in (case.image, case.label))
        for case in detect(root, *named).cases
    }


def refused(root, *named, expected):
    with pytest.raises(InputError) as error:
        detect(root, *named)
    message = str(error.value)
    assert "\n" not in message and message.count(". ") == 0
    for text in expected:
        assert str(text) in message, message


ANY = [  # images, labels, which lie so for the cases P2 and P10
    ("*_image.nii.gz", "*_mask.nii.gz"),
    ("images/*", "labels/*"),
    ("images/*.nii.gz", "labels/*_gt.nii.gz"),
    ("images/*_0000.nii.gz", "labels/*.nii.gz"),
    ("*/lge.nii.gz", "*/la.nii.gz"),
    ("*.nii.gz", "*_seg.nii.gz"),
    ("LGE_*.nrrd", "mask_*.nrrd"),
    ("* - LGE.nii.gz", "* - LA manual.nii.gz"),
    ("images/img*.nii.gz", "labels/label*.nii.gz"),
    ("*/LGE/image.nii.gz", "*/LGE/mask.nii.gz"),
]
ODD = [("site/scans [1]/v*_x.nii", "site/hand/v*_y.nrrd"), ("a*b/c/d.nii.gz", "e*f/d.nii.gz")]


@pytest.mark.parametrize(("images", "labels"), ANY + ODD)
def test_patterns_pair_what_their_wildcards_match(tmp_path, images, labels):
    paths = {
        name: tuple(
            pattern.replace("*", name) + ".nii.gz" * pattern.endswith("*")
            for pattern in (images, labels)
        )
        for name in (("2", "10") if "img*" in images else ("P2", "P10"))
    }
    make(tmp_path, *(path for both in paths.values() for path in both), "notes.txt")
    make(tmp_path, ".hidden_image.nii.gz", "._P2_mask.nii.gz")
    assert found(tmp_path, images, labels) == paths
    assert list(found(tmp_path, images, labels)) == list(paths)  # numbers as numbers
    if (images, labels) in ANY:
        dataset = detect(tmp_path)  # nobody says it
        assert [(c.image, c.label) for c in dataset.cases] == [
            (tmp_path / image, tmp_path / label) for image, label in paths.values()
        ]
        said = re.search(r"\((.*) with (.*)\)$", dataset.layout)
        assert found(tmp_path, *said.groups()) == paths  # what is printed can be given


def test_one_folder_per_patient_whose_files_repeat_its_name(tmp_path):
    make(tmp_path, *(f"P{n}/P{n}_{part}.nii.gz" for n in (2, 10) for part in ("lge", "la_seg")))
    assert found(tmp_path) == {
        f"P{n}": (f"P{n}/P{n}_lge.nii.gz", f"P{n}/P{n}_la_seg.nii.gz") for n in (2, 10)
    }


@pytest.mark.parametrize("below", ["train", "a/b"])
def test_namings_are_recognised_two_levels_below(tmp_path, below):
    make(tmp_path / below, "images/P1.nii.gz", "labels/P1.nii.gz")
    make(tmp_path / below / ".." / "test", "images/P9.nii.gz")
    dataset = detect(tmp_path)
    assert dataset.root == tmp_path / below and [c.name for c in dataset.cases] == ["P1"]
    assert [case.name for case in dataset.others] == ["P9"]  # an unlabelled test folder


@pytest.mark.parametrize(
    "files",
    [
        ("P1_lge.nii.gz", "P1_t1.nii.gz", "P1_seg.nii.gz", "P2_lge.nii.gz", "P2_t1.nii.gz"),
        ("P1/lge.nii.gz", "P1/cine.nii.gz", "P1/la.nii.gz"),
        ("P1/lge.nii.gz", "P1/la.nii.gz", "P1/mask.nii.gz"),
        ("images/P1.nii.gz", "scans/P1.nii.gz", "labels/P1.nii.gz"),
        ("images/P1.nii.gz", "labels/Q2.nii.gz"),
        ("la_003.nii.gz", "la_004.nii.gz"),
    ],
)
def test_doubtful_names_are_not_guessed(tmp_path, files):
    make(tmp_path, *files)
    refused(tmp_path, expected=["unknown layout", "nearest to", "--config.data.images='"])


def test_unknown_layout_names_the_two_nearest_and_a_line_to_copy(tmp_path):
    make(tmp_path, "train_1/Enhanced.nii.gz", "train_1/atrium_by_hand.nii.gz")
    make(tmp_path, "train_2/Enhanced.nii.gz", "train_2/wall.nii.gz")
    line = "--config.data.images='*/Enhanced.nii.gz' --config.data.labels='*/atrium_by_hand.nii.gz'"
    refused(tmp_path, expected=["nearest to LAScarQS 2022 (no train_1/enhanced.nii.gz", line])


def test_a_published_layout_is_not_hidden_by_names_beside_it(tmp_path):
    make(tmp_path, "train_data/train_1/enhanced.nii.gz", "train_data/train_1/atriumSegImgMO.nii.gz")
    make(tmp_path, "results/images/P1.nii.gz", "results/masks/P1.nii.gz")
    assert detect(tmp_path).layout == "LAScarQS 2022"


@pytest.mark.parametrize("named", [("images/*", "labels/*"), ()])
def test_what_lacks_its_partner_is_a_case_that_says_so(tmp_path, named):
    make(tmp_path, *(f"{part}/P{n}.nii.gz" for part in ("images", "labels") for n in (1, 2)))
    make(tmp_path, "images/P3.nii.gz", "labels/P4.nii.gz")
    cases = {case.name: case for case in detect(tmp_path, *named).cases}
    assert list(cases) == ["P1", "P2", "P3", "P4"]
    assert cases["P3"].label == tmp_path / "labels/P3.nii.gz" and not cases["P3"].label.exists()
    assert cases["P4"].image == tmp_path / "images/P4.nii.gz" and not cases["P4"].image.exists()


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("*/*_image.nii.gz", "*_mask.nii.gz", ["with 2 wildcards", "exactly one"]),
        ("**/a.nii.gz", "*.nii.gz", ["with 2 wildcards"]),
        ("image.nii.gz", "*_mask.nii.gz", ["with no wildcards"]),
        ("../*.nii.gz", "*_mask.nii.gz", ["images is '../*.nii.gz', which leaves"]),
        ("/data/*.nii.gz", "*_mask.nii.gz", ["which leaves the dataset's folder"]),
        ("*_lge.nii.gz", "*_mask.nii.gz", ["images=*_lge.nii.gz matches nothing, P1_image.nii.gz"]),
        ("*_image.nii.gz", "labels/*", ["labels=labels/* matches nothing, no folder"]),
        ("*_image.nii.gz", "P1_*.nii.gz", ["images named P1, P2 and labels named mask"]),
        (
            "*_image.nii.gz",
            "*_image.nii.gz",
            ["fits config.data.images", "tell images from labels"],
        ),
        ("", "*_mask.nii.gz", ["config.data.images is empty, expected both"]),
        ("*_image.nii.gz", "", ["config.data.labels is empty, expected both"]),
        ("none.csv", "", ["config.data.images is 'none.csv'", "image,label,case,patient,part"]),
    ],
)
def test_patterns_that_cannot_be(tmp_path, images, labels, expected):
    make(tmp_path, "P1_image.nii.gz", "P1_mask.nii.gz", "P2_image.nii.gz")
    refused(tmp_path, images, labels, expected=expected)


def test_one_name_twice(tmp_path):
    make(tmp_path, "images/P1.nii.gz", "images/P1.nrrd", "labels/P1.nii.gz")
    twice = ["images/P1.nrrd", "are both named P1 by config.data.images=images/*"]
    refused(tmp_path, "images/*", "labels/*", expected=twice)


def test_cases_may_be_links(tmp_path):
    store = make(tmp_path / "store", "a.nii.gz", "b.nii.gz")
    data = tmp_path / "data"
    for folder, file in (("images", "a"), ("labels", "b")):
        (data / folder).mkdir(parents=True)
        (data / folder / "P1.nii.gz").symlink_to(store / f"{file}.nii.gz")
    assert list(found(data)) == list(found(data, "images/*", "labels/*")) == ["P1"]
    (data / "images" / "P2.nii.gz").symlink_to(store / "gone.nii.gz")  # said by its check
    assert list(found(data, "images/*", "labels/*")) == ["P1", "P2"]


def table(root, *lines):
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root, "cases.csv"


def test_a_table_names_files_patients_and_parts(tmp_path):
    make(tmp_path, "x/a.nii.gz", "x/b.nii.gz", "y/a.nrrd", "m/1.nii.gz", "m/2.nii.gz")
    lines = [
        "x/a.nii.gz, m/1.nii.gz,P7,train",
        "y/a.nrrd,m/2.nii.gz,P8,test",
        "x/b.nii.gz,,P8,test",
    ]
    dataset = detect(*table(tmp_path, "image,label,patient,part", *lines))
    assert [(c.name, c.patient, c.part) for c in dataset.cases] == [
        ("x_a", "P7", "train"),
        ("y_a", "P8", "test"),
    ]
    assert dataset.cases[0].label == tmp_path / "m/1.nii.gz"
    assert [case.name for case in dataset.others] == ["x_b"]
    assert dataset.patients.endswith("cases.csv")
    dataset = detect(*table(tmp_path, "label,image", "m/1.nii.gz,x/a.nii.gz"))
    assert dataset.cases[0].name == dataset.cases[0].patient == "a" and not dataset.patients


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["image,label", "../a.nii.gz,b.nii.gz"], ["line 2 names ../a.nii.gz, which leaves"]),
        (["image,label", "/a.nii.gz,b.nii.gz"], ["line 2 names /a.nii.gz, which leaves"]),
        (["image,label", "a.txt,b.nii.gz"], ["line 2 names a.txt, expected a file in .nii.gz"]),
        (["image,label", "", "a.nii.gz,b.nii.gz,c"], ["line 3 is 'a.nii.gz,b.nii.gz,c'"]),
        (["image,lable", "a.nii.gz,b.nii.gz"], ["column 'lable'", "did you mean label?"]),
        (["image", "a.nii.gz"], ["'image' and 1 more lines found", "image,label"]),
        (["image;label", "a.nii.gz;b.nii.gz"], ["column 'image;label' found"]),
        (["image,label"], ["0 more lines"]),
        (["image,label", "a.nii.gz,b.nii.gz", "a.nii.gz,c.nii.gz"], ["lines 2 and 3"]),
        (["image,label", "a.nii.gz,a.nii.gz"], ["a.nii.gz found in lines 2 and 2"]),
        (["image,label", "p_q/r.nii.gz,b.nii.gz", "p/q_r.nii.gz,c.nii.gz"], []),
        (["image,label", "p/r.nii.gz,b.nii.gz", "r.nii.gz,c.nii.gz", "p_r.nii.gz,d.nii.gz"], []),
        (["image,label,part", "a.nii.gz,b.nii.gz,trian"], ["'trian'", "did you mean train?"]),
        (["image,label,part", "a.nii.gz,,train"], ["part train and no label"]),
    ],
)
def test_tables_that_cannot_be(tmp_path, lines, expected):
    if not expected:
        expected = ["are both named p_r"] if "p_r.nii.gz,d" in lines[-1] else []
    if expected:
        refused(*table(tmp_path, *lines), expected=expected)
    else:  # different names after all
        assert len(detect(*table(tmp_path, *lines)).cases) == 2


def test_lines_to_copy_stand_in_the_docs():
    docs = open(os.path.join(os.path.dirname(__file__), "../../../docs/own-data.md")).read()
    for layout in NAMINGS:
        images, labels = layout.line
        assert f"--config.data.images='{images}' --config.data.labels='{labels}'" in docs


def test_two_folders_of_any_name(tmp_path):
    """Recognised where files are called labels; else the line of the message finds the pairs."""
    make(tmp_path, *(f"A/s{n}.nii.gz" for n in (2, 10)), *(f"B/s{n}_LA.nii.gz" for n in (2, 10)))
    expected = {f"s{n}": (f"A/s{n}.nii.gz", f"B/s{n}_LA.nii.gz") for n in (2, 10)}
    assert found(tmp_path) == expected
    for n in (2, 10):
        (tmp_path / f"B/s{n}_LA.nii.gz").rename(tmp_path / f"B/s{n}.nii.gz")
    refused(
        tmp_path, expected=["--config.data.images='A/*.nii.gz' --config.data.labels='B/*.nii.gz'"]
    )
    assert list(found(tmp_path, "A/*", "B/*")) == ["s2", "s10"]


PER_YEAR = [
    f"{y}/s_{y}_{n}_{w}.nii.gz" for y in (2018, 2019) for n in (2, 10) for w in ("lge", "laseg")
]


def test_a_folder_per_year_is_recognised_and_named_by_patterns_without_slash(tmp_path):
    make(tmp_path, *PER_YEAR)
    named = ("*_lge.nii.gz", "*_laseg.nii.gz")
    expected = {
        f"s_{y}_{n}": (f"{y}/s_{y}_{n}_lge.nii.gz", f"{y}/s_{y}_{n}_laseg.nii.gz")
        for y in (2018, 2019)
        for n in (2, 10)
    }
    assert found(tmp_path) == found(tmp_path, *named) == expected
    assert list(found(tmp_path)) == list(expected)
    for pattern in ("*/*_lge.nii.gz", "**/*_lge.nii.gz"):
        refused(tmp_path, pattern, named[1], expected=["'*_lge.nii.gz', which finds", "cases.csv"])
    refused(tmp_path, "./*_lge.nii.gz", "./*_laseg.nii.gz", expected=["matches nothing"])


def test_names_that_several_folders_have_begin_with_the_folder(tmp_path):
    make(tmp_path, *(f"{c}/P1_{w}.nii.gz" for c in "ab" for w in ("img", "lab")), "a/P2_img.nii.gz")
    for named in ((), ("*_img.nii.gz", "*_lab.nii.gz")):
        assert found(tmp_path, *named) == {
            "a_P1": ("a/P1_img.nii.gz", "a/P1_lab.nii.gz"),
            "a_P2": ("a/P2_img.nii.gz", "a/P2_lab.nii.gz"),  # the check says that it is missing
            "b_P1": ("b/P1_img.nii.gz", "b/P1_lab.nii.gz"),
        }


def test_parts_of_a_split_are_not_put_together(tmp_path):
    make(
        tmp_path, *(f"{p}/P{len(p)}_{w}.nii.gz" for p in ("train", "test") for w in ("lge", "seg"))
    )
    refused(tmp_path, expected=["several datasets found", "('A','B')", tmp_path / "test"])


@pytest.mark.parametrize("label", ["laseg", "la_seg", "lab", "label", "mask"])
@pytest.mark.parametrize("image", ["lge", "img", "image"])
def test_pairs_of_these_words_are_recognised(tmp_path, image, label):
    make(tmp_path, *(f"P{n}_{word}.nii.gz" for n in (1, 2) for word in (image, label)))
    assert list(found(tmp_path)) == ["P1", "P2"]


def test_the_line_to_copy_names_the_own_files(tmp_path):
    make(tmp_path, *(f"{n}/{n}_{word}.nii.gz" for n in "abc" for word in ("mri", "byhand")))
    line = "--config.data.images='*_mri.nii.gz' --config.data.labels='*_byhand.nii.gz'"
    refused(tmp_path, expected=[line])
    assert list(found(tmp_path, "*_mri.nii.gz", "*_byhand.nii.gz")) == ["a", "b", "c"]
