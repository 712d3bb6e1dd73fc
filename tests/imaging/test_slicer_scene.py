"""A scene names its files as 3D Slicer reads them, whatever their names."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lagseg_jax.imaging.slicer_scene import write_scene


def decoded(text):
    """As `vtkMRMLNode::URLDecodeString`, in its order."""
    for code, sign in zip(("%22", "%3C", "%3E", "%27", "%20", "%25"), "\"<>' %"):
        text = text.replace(code, sign)
    return text


def read(path):
    """Elements by tag; each reference of a node leads to one."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "MRML" and root.get("version")
    found = {element.tag: element for element in root}
    ids = [element.get("id") for element in root]
    assert len(ids) == len(set(ids))
    for element in root:
        for reference in filter(None, element.get("references", "").split(";")):
            assert reference.split(":")[1] in ids
    return found


def files_of(path):
    found = read(path)
    storages = ("VolumeArchetypeStorage", "SegmentationStorage", "ModelStorage")
    names = [decoded(found[tag].get("fileName")) for tag in storages if tag in found]
    return [os.path.normpath(path.parent / name) for name in names]


@pytest.mark.parametrize(
    "name", ["a", 'a & b <i>"x"\' 50 %20', "心房 ä\N{IDEOGRAPHIC SPACE}", "a;b#c"]
)
def test_files_are_found_from_the_scene_by_relative_paths(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("out")  # relative, as on the command line
    (out / "scenes").mkdir(parents=True)
    scene = out / "scenes" / f"{name}.mrml"
    image, mask = Path("in", f"{name}.nii.gz"), out / f"{name}.nii.gz"
    surface = out / "meshes" / f"{name}.stl"
    write_scene(scene, name, image, mask, surface, "RAS")
    there = tmp_path / scene
    assert files_of(there) == [str(tmp_path / path) for path in (image, mask, surface)]
    found = read(there)
    assert str(tmp_path) not in there.read_text("utf-8")
    assert found["ModelStorage"].get("coordinateSystem") == "RAS"
    assert found["Volume"].get("name") == name
    assert found["SliceComposite"].get("backgroundVolumeID") == found["Volume"].get("id")


def test_without_image_and_surface_there_is_the_mask(tmp_path):
    write_scene(tmp_path / "a.mrml", "a", None, tmp_path / "a.nii", None, "LPS")
    assert files_of(tmp_path / "a.mrml") == [str(tmp_path / "a.nii")]
    assert {"Volume", "Model"}.isdisjoint(read(tmp_path / "a.mrml"))


def test_a_name_that_no_xml_file_may_hold_leaves_one_that_opens(tmp_path):
    name = "a\x01" + os.fsdecode(b"\xff")
    write_scene(tmp_path / "a.mrml", name, None, tmp_path / name, None, "LPS")
    assert read(tmp_path / "a.mrml")["Segmentation"].get("name") == "a\ufffd\ufffd mask"
