"""What is fast on this machine: the encoder's form, the decoder's dtype, options of the compiler.

All forms are the same function (`encoder.Block`) up to the rounding of the compute dtype; the
numbers behind them are in docs/performance.md.
"""

import jax
import jax.numpy as jnp

from lagseg_jax.runtime.host import processor_flags

FORMS = (
    "plain",  # XLA's products, float32 results
    "cudnn",  # NVIDIA GPUs: cuDNN's attention, rounded products
    "onednn",  # CPUs with AMX: XLA's attention, all other products rounded and oneDNN's
)
# XLA's own library takes products before oneDNN does, unless it may start from reductions alone,
# such as the attention's softmax.
ONEDNN: dict[str, bool | str] = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def encoder_form(dtype: jnp.dtype) -> str:
    """The one of `FORMS` that is fastest on this process's devices in this compute dtype."""
    if dtype == jnp.bfloat16:
        if has_cudnn_attention():
            return "cudnn"
        if has_amx() and jax.__version_info__ >= (0, 12):
            return "onednn"
    return "plain"


def encoder_compiler_options(form: str) -> dict[str, bool | str]:
    """For `jax.jit(..., compiler_options=...)` of functions with an encoder of this form.

    Not for decoders, nor for gradients: oneDNN's convolutions have wrong ones (`convolution`).
    Functions compiled with it cannot be kept on disk, and are compiled at every start.
    """
    return ONEDNN if form == "onednn" else {}


def has_cudnn_attention() -> bool:
    """Whether cuDNN's fused attention runs here in bfloat16: on NVIDIA's Ampere or newer."""
    device = jax.local_devices()[0]
    if device.platform != "gpu":
        return False
    # "9.0" of NVIDIA's; AMD's are names such as "gfx90a".
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 8


def has_amx() -> bool:
    """Whether this process computes on a CPU that multiplies matrices of bfloat16.

    Without these instructions oneDNN is not faster than XLA's own library.
    """
    return jax.default_backend() == "cpu" and "amx_bf16" in processor_flags()


def convolves_in_onednn(dtype: jnp.dtype) -> bool:
    """Whether XLA can hand these convolutions to oneDNN: bfloat16 on CPUs, from jax 0.12 on."""
    on_cpu = jax.default_backend() == "cpu" and jax.__version_info__ >= (0, 12)
    return on_cpu and dtype == jnp.bfloat16


def decoder_compiler_options(dtype: jnp.dtype) -> dict[str, bool]:
    """For `jax.jit(..., compiler_options=...)` of decoders in this dtype.

    Not for encoders: with it XLA's products of bfloat16 that give float32 take up to twice as long.
    Functions compiled with it cannot be kept on disk, and are compiled at every start.
    """
    return {"xla_cpu_experimental_onednn_custom_call": True} if convolves_in_onednn(dtype) else {}


def run_once_compiler_options() -> dict[str, int]:
    """For `jax.jit(..., compiler_options=...)` of functions that run once.

    On a CPU the draw of the first parameters is then compiled in a third of the time, to the bits
    that jax 0.10 gives without; those of 0.12 differ in the last place of one value in 7000.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def fast_dtype() -> str:
    """The dtype in which this machine convolves fastest, "float32" or "bfloat16"."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    # Without these instructions bfloat16 is converted to float32 and back at every step.
    multiplied = {"avx512_bf16", "amx_bf16"} & processor_flags()
    return "bfloat16" if multiplied and convolves_in_onednn(jnp.bfloat16) else "float32"
