"""Keeps a record beside the masks of what made each of them: OUTPUT/records/CASE.json.

One file per case, so that several processes can write them. A record is there before the first
output of its case, without the mask's hash: what a killed process leaves is known as unfinished.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lagseg_jax.imaging.volume import case_name
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.files import file_sha256, read_json, write_json

log = logging.getLogger(__name__)

FOLDER = "records"
# Of what is written besides volumes.
_SUFFIXES = (".png", ".stl", ".ply", ".vtk", ".mrml", ".dcm", ".html")


@dataclass(frozen=True)
class Record:
    """Of one case in an output folder.

    Attributes:
        file: where it is kept.
        content: `made_from`, what made the outputs; `files`, {path in the folder: SHA-256, null
            while they are written}; `row`, the case's statistics.
    """

    file: Path
    content: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, case: str) -> "Record":
        """The record of a case; without content, where there is none that can be read."""
        file = folder / FOLDER / f"{case}.json"
        try:
            content = read_json(file, "the record of a prediction")
            whole = all(isinstance(content[key], dict) for key in ("made_from", "files", "row"))
            whole &= not any(
                ".." in Path(name).parts or name[:1] == "/" for name in content["files"]
            )
        except (ValueError, KeyError, TypeError):
            whole = False
        return cls(file, content if whole else {})

    def begin(self, made_from: dict, outputs: Sequence[Path]) -> "Record":
        """Says that these are being written, and removes older ones that something else made.

        Returns:
            The record to finish; of the older outputs it has those made as these will be.
        """
        older = dict(self.content.get("files", {}))
        for path in outputs:
            older.pop(self._name(path), None)
        if older and self.content["made_from"] != json.loads(json.dumps(made_from)):
            for path in map(self._path, older):
                if is_recorded(path):
                    path.unlink()
            older = {}
        files = older | {self._name(path): None for path in outputs}
        return self._write({}, files, {})

    def finish(self, made_from: dict, outputs: Sequence[Path], row: dict[str, Any]) -> None:
        """Says that they are complete, and what made them."""
        written = {self._name(path): file_sha256(path) for path in outputs}
        older = {name: sha256 for name, sha256 in self.content["files"].items() if sha256}
        self._write(made_from, older | written, row)

    def remove(self) -> None:
        """Removes the outputs on record, and the record."""
        for name in self.content.get("files", {}):
            path = self._path(name)
            if is_recorded(path):
                path.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.file.parent.parent).as_posix()

    def _path(self, name: str) -> Path:
        return self.file.parent.parent / name

    def _write(self, made_from: dict, files: dict, row: dict) -> "Record":
        content = {"made_from": made_from, "files": files, "row": row}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, content)
        return Record(self.file, content)


def is_recorded(path: Path) -> bool:
    """Whether `predict` made this file, and nobody has changed it since."""
    for folder in (path.parent, path.parent.parent):
        case = path.stem if path.suffix in _SUFFIXES else case_name(path)
        files = Record.of(folder, case).content.get("files", {})
        name = path.relative_to(folder).as_posix()
        if name in files and path.is_file() and not path.is_symlink():
            return files[name] is None or files[name] == file_sha256(path)
    return False


def warn_of_replaced(records: Sequence[Record], runs: Sequence[dict]) -> None:
    """Says how many masks of other models will be replaced, in a line for each of these.

    Args:
        records: of the cases to be predicted.
        runs: `run_identity` of the model that will make them.
    """
    others = Counter(
        str(record.content["row"].get("workdirs", "another model"))
        for record in records
        if isinstance(made_by := record.content.get("made_from", {}).get("runs"), list)
        and _hashes(made_by) != _hashes(runs)
    )
    for name, count in others.items():
        masks = "mask" if count == 1 else "masks"
        log.warning("--output: replaces %d %s that %s made", count, masks, name)


def _hashes(runs: Any) -> list[Any]:
    """Those of `run_identity`; a record that was edited may hold anything."""
    return [run.get("sha256") for run in runs if isinstance(run, dict)]


def rows_on_record(folder: Path) -> dict[str, dict[str, Any]]:
    """{case: its statistics} of all cases in an output folder whose mask is there."""
    rows = {}
    for file in sorted((folder / FOLDER).glob("*.json")):
        case = file.name.removesuffix(".json")
        content = Record.of(folder, case).content
        if content.get("row") and all((folder / name).exists() for name in content["files"]):
            rows[case] = content["row"]
    return rows


def run_identity(workdir: Path) -> dict[str, Any]:
    """Which model a run's folder holds; needs no jax.

    Every checkpoint's record has its step, the hash of its parameters and that of its encoder.

    Raises:
        InputError: the folder is not a run.
    """
    config = read_config(workdir).to_dict()
    predict = config.pop("predict")
    steps = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    records = {
        path.name: file_sha256(file)
        for path in sorted(steps, key=lambda path: int(path.name))
        for file in [path / "extra" / "metadata"]
        if file.is_file()
    }
    parts = {key: config[key] for key in ("data", "encoder", "fusion", "decoder")}
    for name in ("root", "cache_dir", "cache_gb", "read_threads"):
        parts["data"].pop(name, None)
    parts["encoder"].pop("weights", None)
    content = json.dumps([parts, records], sort_keys=True, default=str)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return {"checkpoints": list(records), "sha256": sha256, "predict": predict}
