"""Low-rank adapters (LoRA) that change the frozen encoder a little, where a run asks for them.

LoRA (Hu et al. 2021, arXiv 2106.09685) on the kernel W of queries, keys and values: the last k
blocks compute with `W + a b` in its place, a (D, r), b (r, 3 D). W never changes. Their alpha is r,
which leaves no factor: the adapter has a learning rate of its own. b starts at zero, so that the
start is the frozen encoder. The letters of shapes are those of docs/architecture.md, and here r is
the rank, k the number of adapted blocks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_collections

from lagseg_jax.model.encoder import Block, Encoder, EncoderSpec, layer_norm

LORA = "lora"  # name of the adapter among the trained parameters


@dataclass(frozen=True)
class Adapter:
    """The shape of an adapter.

    Attributes:
        rank: r.
        blocks: k, of the last ones.
    """

    rank: int
    blocks: int

    def init(self, key: jax.Array, width: int) -> dict[str, jax.Array]:
        """Parameters at the start: a (k, D, r) normal with variance 1 / D, b (k, r, 3 D) zero."""
        a = jax.random.normal(key, (self.blocks, width, self.rank)) * width**-0.5
        return {"a": a, "b": jnp.zeros((self.blocks, self.rank, 3 * width))}

    def adaptation(self, depth: int) -> str:
        """In words, for results: "LoRA of rank 4 on the qkv kernels of the last 2 of 12 blocks"."""
        return (
            f"LoRA of rank {self.rank} on the qkv kernels of the last {self.blocks} of {depth} "
            "blocks"
        )


def adapter_of(encoder: ml_collections.ConfigDict, spec: EncoderSpec) -> Adapter | None:
    """The adapter that `config.encoder` asks for; None for a frozen encoder."""
    if not encoder.lora_rank:
        return None
    return Adapter(encoder.lora_rank, encoder.lora_blocks or spec.depth)


def adapted(encoder_params: dict, lora: dict) -> dict:
    """The encoder's parameters with the adapter merged in, for inference at no further cost.

    Args:
        encoder_params: of the frozen encoder.
        lora: as from `Adapter.init`.

    Returns:
        The same tree; the kernels are rounded to their dtype, as `adapted_tokens` does.
    """
    blocks = encoder_params["blocks"]
    kernel, k = blocks["qkv"]["kernel"], len(lora["a"])
    kernel = kernel.at[-k:].set(_merged_kernel(kernel[-k:], lora))
    return {**encoder_params, "blocks": _with_kernel(blocks, kernel)}


def adapted_tokens(
    encoder: Encoder, encoder_params: dict, lora: dict, images: jax.Array
) -> jax.Array:
    """Patch tokens of every block, differentiable with respect to the adapter.

    The values are those of the encoder with the parameters `adapted`. The blocks before the adapted
    ones have no backward pass; of the others, only the input is kept, and the rest computed again.

    Args:
        encoder: the encoder.
        encoder_params: of the frozen encoder.
        lora: as from `Adapter.init`.
        images: (B, H, W, 3) as in `Encoder.__call__`.

    Returns:
        (L, B, h, w, D) in the compute dtype.
    """
    spec, blocks, norm = encoder.spec, encoder_params["blocks"], encoder_params["norm"]
    first = spec.depth - len(lora["a"])  # of the adapted blocks
    block = Block(spec, encoder.dtype, encoder.form)
    patches = slice(1 + spec.registers, None)

    def step(x: jax.Array, inputs: tuple[jax.Array, dict | None]) -> tuple[jax.Array, jax.Array]:
        number, lora = inputs
        params = jax.tree.map(lambda leaf: leaf[number], blocks)
        if lora is not None:
            params = _with_kernel(params, _merged_kernel(params["qkv"]["kernel"], lora))
        x = jnp.asarray(block.apply({"params": params}, x))
        return x, layer_norm(x, **norm)[:, patches].astype(encoder.dtype)

    x, size = encoder.apply({"params": encoder_params}, images, method="embed")
    x, early = jax.lax.scan(step, x, (jnp.arange(first), None))
    step = jax.checkpoint(step, prevent_cse=False)  # a scan needs no such prevention
    _, late = jax.lax.scan(step, x, (jnp.arange(first, spec.depth), lora))
    tokens = jnp.concatenate([early, late])
    return tokens.reshape(*tokens.shape[:2], *size, -1)


def _merged_kernel(kernel: jax.Array, lora: dict) -> jax.Array:
    """W + a b, of one block or of several, in the dtype of W; summed in float32."""
    product = jnp.matmul(lora["a"], lora["b"], precision="highest")
    return (kernel.astype(jnp.float32) + product).astype(kernel.dtype)


def _with_kernel(blocks: dict, kernel: jax.Array) -> dict:
    return {**blocks, "qkv": {**blocks["qkv"], "kernel": kernel}}
