"""installed libraries -> their versions, without importing them."""

import importlib.metadata

LIBRARIES = (
    *("lagseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scipy", "nibabel", "pynrrd", "ml_collections", "safetensors"),
)


def library_versions() -> dict[str, str | None]:
    """{library: version}; None for what is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
