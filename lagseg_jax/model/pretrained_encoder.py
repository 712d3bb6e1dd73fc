"""A converted encoder as a function from images to tokens, for use from Python."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lagseg_jax.config.choices import DTYPE_NAMES
from lagseg_jax.model.backend import encoder_compiler_options, encoder_form
from lagseg_jax.model.encoder import Activations, Encoder, check_shape
from lagseg_jax.model.encoder_spec import EncoderSpec
from lagseg_jax.model.weights import load_params
from lagseg_jax.runtime.errors import one_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PretrainedEncoder:
    """DINOv2 with its weights; call it with images.

    It is compiled for this machine, as in training, and may be called within `jax.jit`, `jax.grad`
    and `jax.vmap`. It is a pytree of its parameters, so it may also be an argument of a compiled
    function, which then holds no copy of them.

    Attributes:
        encoder: the module, with compute dtype and the form that is fastest here.
        params: its parameters, kernels in the compute dtype.
        path: folder they were read from.
        sha256: identity of the encoder (`weights.encoder_hash`).
    """

    encoder: Encoder = dataclasses.field(metadata={"static": True})
    params: dict
    path: str = dataclasses.field(metadata={"static": True})
    sha256: str = dataclasses.field(metadata={"static": True})

    @property
    def spec(self) -> EncoderSpec:
        """Variant, width, depth, heads, patch size, registers, grid, interpolation rule."""
        return self.encoder.spec

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"PretrainedEncoder({self.path}: DINOv2 {spec.variant}, {spec.depth} blocks, width "
            f"{spec.width}, {spec.heads} heads, {spec.registers} registers, patches of "
            f"{spec.patch_size} pixels, grid {spec.grid}, {jnp.dtype(self.encoder.dtype).name}, "
            f"form {self.encoder.form})"
        )

    def __call__(self, images: jax.Array) -> Activations:
        """Tokens of every block after the final normalisation, in the compute dtype.

        Args:
            images: (B, H, W, 3) float, ImageNet-normalised (`segmentation.to_rgb`); H and W
                multiples of 14. Divided over several devices along B, they are encoded there.

        Raises:
            ValueError: the images have another shape or are integers.
        """
        images = jnp.asarray(images)
        check_shape(images.shape)  # before JAX adds notes of its own to the sentence
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images of {images.dtype} found, floating point expected, ImageNet-normalised as "
                "by `lagseg_jax.model.segmentation.to_rgb`"
            )
        # Within a function that is itself compiled or differentiated, JAX refuses options.
        within = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((images, self.params)))
        options = {} if within else encoder_compiler_options(self.encoder.form)
        params = self.params if within else self._params_beside(images)
        return _compiled(self.encoder, tuple(options.items()))({"params": params}, images)

    def _params_beside(self, images: jax.Array) -> dict:
        """The parameters on the devices of these images; those of the last call stay there."""
        if not isinstance(images.sharding, NamedSharding):
            return self.params
        place = NamedSharding(images.sharding.mesh, PartitionSpec())
        if place not in self._placed:
            self._placed.clear()
            self._placed[place] = jax.device_put(self.params, place)
        return self._placed[place]

    @functools.cached_property
    def _placed(self) -> dict[NamedSharding, dict]:
        return {}


@functools.cache
def _compiled(encoder: Encoder, options: tuple) -> Callable:
    return jax.jit(encoder.apply, compiler_options=dict(options) or None)


def load_encoder(path: str | Path, dtype: str = "float32") -> PretrainedEncoder:
    """Loads a converted DINOv2 encoder.

    Args:
        path: folder written by `python -m weight_conversion.convert`.
        dtype: compute dtype, "float32" or "bfloat16".

    Returns:
        The encoder, a function of images (B, H, W, 3).

    Raises:
        InputError: another dtype; else see `load_params`.
    """
    one_of("dtype", dtype, DTYPE_NAMES)
    spec, params, sha256 = load_params(path, dtype)
    compute = jnp.dtype(dtype)
    return PretrainedEncoder(
        Encoder(spec, compute, encoder_form(compute)), params, str(path), sha256
    )
