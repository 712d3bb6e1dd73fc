"""Writes a scene that opens an image, its mask and its surface in place in 3D Slicer (MRML)."""

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from lagseg_jax.runtime.files import write_atomically

_ESCAPED = {"%": "%25", " ": "%20", "'": "%27", ">": "%3E", "<": "%3C", '"': "%22"}
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ORANGE = "0.9 0.62 0.12"  # of the prediction, as on the review page
# Of each kind of data: its element, the prefixes of its storage's and its display's class, and how
# it is shown.
_KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "Volume": (
        "VolumeArchetype",
        "ScalarVolume",
        {"colorNodeID": "vtkMRMLColorTableNodeGrey", "autoWindowLevel": "1"},
    ),
    "Segmentation": ("Segmentation", "Segmentation", {}),
    "Model": ("Model", "Model", {"color": _ORANGE, "opacity": "0.6", "visibility2D": "true"}),
}


def write_scene(
    path: Path, name: str, image: Path | None, mask: Path, surface: Path | None, space: str
) -> None:
    """Writes the scene of a case, complete or not at all.

    Args:
        path: of the .mrml file; the other paths stand in it relative to its folder.
        name: of the case.
        image: NIfTI or NRRD, or None.
        mask: the same.
        surface: a file of `mesh_files`, or None.
        space: of the surface, "LPS" or "RAS".
    """
    scene = ElementTree.Element("MRML", {"version": "Slicer5.0.0", "userTags": ""})
    if image is not None:
        node = _add(scene, "Volume", _place(image, path), name)
        for view in ("Red", "Green", "Yellow"):  # the three slice views
            composite = f"vtkMRMLSliceCompositeNode{view}"
            shown = {"id": composite, "layoutName": view, "backgroundVolumeID": node}
            ElementTree.SubElement(scene, "SliceComposite", {**shown, "singletonTag": view})
    _add(scene, "Segmentation", _place(mask, path), f"{name} mask")
    if surface is not None:
        file = {**_place(surface, path), "coordinateSystem": space}
        _add(scene, "Model", file, f"{name} surface")
    ElementTree.indent(scene)
    text = ElementTree.tostring(scene, encoding="unicode")
    write_atomically(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _add(scene: ElementTree.Element, element: str, file: dict[str, str], name: str) -> str:
    """Adds a file's node, with its storage and display; returns its id."""
    storage, prefix, shown = _KINDS[element]
    stored, display = f"vtkMRML{storage}StorageNode1", f"vtkMRML{prefix}DisplayNode1"
    ElementTree.SubElement(scene, f"{storage}Storage", {"id": stored, **file})
    ElementTree.SubElement(scene, f"{element}Display", {"id": display, **shown})
    node = f"vtkMRML{prefix}Node1"
    references = f"storage:{stored};display:{display};"
    about = {"id": node, "name": _readable(name), "references": references}
    ElementTree.SubElement(scene, element, about)
    return node


def _place(file: Path, scene: Path) -> dict[str, str]:
    """Where a file is, as `vtkMRMLNode::URLDecodeString` reads it: it knows these signs only."""
    place = os.path.relpath(file.absolute(), scene.absolute().parent)
    return {"fileName": _readable("".join(_ESCAPED.get(sign, sign) for sign in place))}


def _readable(text: str) -> str:
    """Text without signs that no XML file may have."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
