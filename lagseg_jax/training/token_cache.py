"""The cache that keeps the encoder's tokens of every slice on disk, computed only once.

An entry is a folder `<key>/` with `tokens.npy` (Z, L, h, w, D), read through a memory map: float32,
or the bit patterns (uint16) of bfloat16, which NumPy's files have no name for. The key covers
everything that decides the content: the key of the decoded slices (files and preparation) and the
encoder's weights, dtype and settings. `data.disk_cache` says how entries come and go.

Legend: Z slices of a case, L encoder blocks, h x w patches, D encoder width.
"""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lagseg_jax.config.choices import PATCH
from lagseg_jax.data.disk_cache import evict, key_of, mark_used, open_array, read_row, writing
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.model.backend import encoder_compiler_options
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.devices import pmapped
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import cache_home, user_path
from lagseg_jax.runtime.processes import barrier, share

log = logging.getLogger(__name__)

Encode = Callable[[np.ndarray], Iterator[np.ndarray]]

FORMAT = 1  # raise when the content of an entry changes for the same key


def feature_folder(configured: str) -> Path:
    """`features` in `config.data.cache_dir`, or in the user's cache folder when it is empty."""
    return (user_path(configured) if configured else cache_home()) / "features"


def cached_tokens(
    cases: Sequence[PreparedCase],
    model: Model,
    encoder: FrozenEncoder,
    batch_size: int,
    folder: Path,
    max_gb: float,
) -> list[np.ndarray]:
    """Encodes all slices of the cases, unless the cache has their tokens; opens all of them.

    Args:
        cases: from `cache.prepare_cases`.
        model: whose `tokens` are kept.
        encoder: the frozen encoder.
        batch_size: slices per device at a time.
        folder: of the cache.
        max_gb: bound of the cache.

    Returns:
        For each case a memory map (Z, L, h, w, D) in the encoder's compute dtype.

    Raises:
        InputError: the tokens do not fit into `max_gb` or on the disk, or a file is not whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / _key(case, model, encoder), case) for case in cases]
    missing = [case for entry, case in jobs if not entry.is_dir()]
    _make_room(folder, {entry.name for entry, _ in jobs}, missing, model, max_gb)
    log.info(
        "tokens: of %d cases in %s, %d to be encoded (%.2f GB)",
        *(len(cases), folder, len(missing), _bytes(missing, model) / 1e9),
    )
    barrier()  # no process writes before every one has found room
    encode = _make_encode(model, encoder.params, batch_size)
    # Then what the other processes could not leave here: all, where each has a disk of its own.
    for part in (share(jobs), jobs):
        _write_entries([job for job in part if not job[0].is_dir()], model, encode)
        barrier()
    return [_open_entry(entry, model) for entry, _ in jobs]


def _key(case: PreparedCase, model: Model, encoder: FrozenEncoder) -> str:
    spec = encoder.spec
    settings = (spec.variant, spec.registers, spec.interpolation, spec.grid)
    return key_of([FORMAT, case.key, encoder.sha256, _dtype(model).name, settings])


def _dtype(model: Model) -> np.dtype:
    return np.dtype(model.encoder.dtype)


def _shape(case: PreparedCase, model: Model) -> tuple[int, ...]:
    slices, height, width = case.images.shape
    spec = model.encoder.spec
    return slices, spec.depth, height // PATCH, width // PATCH, spec.width


def _bytes(cases: Sequence[PreparedCase], model: Model) -> int:
    return sum(math.prod(_shape(case, model)) * _dtype(model).itemsize for case in cases)


def _make_room(
    folder: Path, in_use: set[str], missing: Sequence[PreparedCase], model: Model, max_gb: float
) -> None:
    """Before anything is encoded: hours of work must not end at a bound that was known."""
    coming = _bytes(missing, model)
    evict(folder, in_use, max_gb, "tokens", "config.train.feature_cache_gb", coming)
    free = shutil.disk_usage(folder).free
    if coming > free:
        slices = sum(len(case.images) for case in missing)
        raise InputError(
            f"{folder} is on a disk with {free / 1e9:.2f} GB free, expected {coming / 1e9:.2f} GB "
            f"for the tokens of {slices} slices; set config.data.cache_dir to a larger disk, or "
            "config.train.cache_features to False"
        )


def _make_encode(model: Model, params: dict, batch_size: int) -> Encode:
    """The function images (Z, E, E) -> batches of tokens (B, L, h, w, D), Z slices in all."""
    devices = jax.local_devices()  # each process encodes cases of its own

    def tokens(params: dict, images: jax.Array) -> jax.Array:
        return jnp.moveaxis(model.tokens(params, images.astype(jnp.float32)), 0, 1)

    options = encoder_compiler_options(model.encoder.form)
    on_devices = pmapped(tokens, (None, 0), out_axes=0, options=options, devices=devices)
    count = batch_size * len(devices)

    def encode(images: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(images), count):
            # The last, smaller batch is filled up, so that nothing compiles twice.
            rows = [min(z, len(images) - 1) for z in range(start, start + count)]
            batch = np.stack([read_row(images, z) for z in rows])
            batch = batch.reshape(len(devices), batch_size, *batch.shape[1:])
            encoded = np.asarray(on_devices(params, batch))
            yield encoded.reshape(count, *encoded.shape[2:])[: len(images) - start]

    return encode


def _write_entries(jobs: Sequence[tuple[Path, PreparedCase]], model: Model, encode: Encode) -> None:
    if not jobs:
        return
    progress = Progress("encoding cases", len(jobs))
    try:
        for entry, case in jobs:
            with still(f"encoding {case.name}"), writing(entry) as temporary:
                _write_tokens(temporary / "tokens.npy", case, model, encode)
            progress.advance()
    finally:
        progress.close()


def _write_tokens(path: Path, case: PreparedCase, model: Model, encode: Encode) -> None:
    # Not through a memory map: a full disk would end the process with SIGBUS.
    header = {"shape": _shape(case, model), "fortran_order": False}
    stored = _stored(_dtype(model))
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(stored)
        np.lib.format.write_array_header_1_0(file, header | {"descr": descr})
        for tokens in encode(case.images):
            file.write(np.ascontiguousarray(tokens).view(stored).data)


def _stored(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else dtype


def _open_entry(entry: Path, model: Model) -> np.ndarray:
    mark_used(entry)
    return open_array(entry / "tokens.npy").view(_dtype(model))
