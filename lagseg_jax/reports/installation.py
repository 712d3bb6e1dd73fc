"""What is there to work with on this machine: versions, configs, layouts, weights, caches."""

import ast
import contextlib
import importlib.util
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.config.shipped import shipped_configs
from lagseg_jax.data.layouts.known import LAYOUTS, NAMINGS, SERIES
from lagseg_jax.runtime.commands import COMMANDS, example_of
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import cache_home, read_json
from lagseg_jax.runtime.host import library_versions

# Packages that bring an accelerator to jax.
ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


def find_configs(folder: Path) -> list[dict[str, str]]:
    """Path and first line of every config; ablations are studies, for lagseg_jax.study."""
    configs = []
    paths = folder.rglob("*.py")
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        if path.name != "__init__.py":
            about = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            name = path.relative_to(folder.parent).as_posix()
            configs.append({"config": name, "about": about.partition("\n")[0]})
    return configs


def find_weights(folders: Sequence[Path]) -> list[dict[str, object]]:
    """The cards of converted weights in these folders, or one level below."""
    found = []
    for folder in folders:
        for card in sorted([*folder.glob("card.json"), *folder.glob("*/card.json")]):
            try:
                content = read_json(card, "a card written by weight_conversion")
                names = ("variant", "registers", "dtype", "parameters", "encoder_sha256")
                entry = {name: content[name] for name in names}
            except (ValueError, KeyError) as error:
                entry = {"problem": f"{card}: not a readable card ({type(error).__name__})"}
            tensors = card.with_name("encoder.safetensors")
            if "problem" not in entry and not tensors.is_file():
                entry = {"problem": f"{tensors}: does not exist, convert the weights again"}
            found.append({"folder": str(card.parent), **entry})
    return found


def installation(weights: Sequence[Path]) -> dict:
    """Everything, JSON-serialisable.

    Args:
        weights: folders to look for converted weights in.
    """
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "versions": library_versions(),
        "accelerators": [name for name in ACCELERATORS if importlib.util.find_spec(name)],
        "configs": find_configs(shipped_configs()),
        "layouts": [
            {"layout": one.name, "files": one.files} for one in (*LAYOUTS, *NAMINGS, *SERIES)
        ],
        "weights": find_weights(weights),
        "cache": {**_cache()},
        "commands": [
            {"what": command.about, "command": example_of(name)}
            for name, command in COMMANDS.items()
        ],
    }


def installation_text(info: dict) -> str:
    """The same for people."""
    versions = ", ".join(f"{name} {version or '-'}" for name, version in info["versions"].items())
    extras = ", ".join(info["accelerators"]) or "none: jax computes on the CPU"
    weights = [
        entry.get("problem")
        or f"{entry['folder']}: {entry['variant']}, {entry['registers']} registers, "
        f"{entry['parameters'] / 1e6:.1f} M parameters, {entry['dtype']}"
        for entry in info["weights"]
    ]
    cache = info["cache"]
    sections = {
        "versions": [f"Python {info['python']} on {info['system']}", versions],
        "devices": [f"{info['cores']} CPU cores; accelerator packages: {extras}"],
        "dataset layouts": [f"{one['layout']:38}{one['files']}" for one in info["layouts"]],
        "configs": [f"{one['config']:38}{one['about']}" for one in info["configs"]],
        "converted weights": weights
        or [
            "none found (--weights=FOLDER looks elsewhere); fetch and convert some, once:",
            example_of("convert"),
        ],
        "cache": [
            f"{cache['folder']}: slices {cache['slices_gb']:.2f} GB, compiled code "
            f"{cache['xla_gb']:.2f} GB"
        ],
        "commands": [f"{one['what']}:\n    {one['command']}" for one in info["commands"]],
    }
    return "\n".join("\n  ".join([f"{title}:", *lines]) for title, lines in sections.items())


def _cache() -> dict[str, object]:
    parts = ("slices", "xla")
    try:
        folder = cache_home()
    except InputError as error:
        return {"folder": f"none ({error})", **{f"{part}_gb": 0.0 for part in parts}}
    return {"folder": str(folder), **{f"{part}_gb": _gigabytes(folder / part) for part in parts}}


def _gigabytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a run that goes on may remove it
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e9
