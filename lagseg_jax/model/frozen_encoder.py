"""The encoder that a run starts from: its weights on every device, their hash and their origin."""

import dataclasses
import logging
from typing import Any

import ml_collections

from lagseg_jax.model.encoder_spec import EncoderSpec, conversion_command
from lagseg_jax.model.lora import adapter_of
from lagseg_jax.model.segmentation import compute_dtype
from lagseg_jax.model.weights import encoder_hash, load_params, random_params, read_card, spec_of
from lagseg_jax.runtime.console import still
from lagseg_jax.runtime.devices import params_hash, replicate
from lagseg_jax.runtime.trace import stage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """The encoder's weights, as they are used and as they are reported.

    Attributes:
        spec: variant, registers and interpolation rule.
        params: replicated over the local devices, in the compute dtype.
        sha256: of the tensors and the interpolation rule, without any adapter (`encoder_hash`);
            checkpoints and results name their encoder by it.
        origin: folder of the converted weights, or "random (seed 0)".
        warning: what readers of results must know about random weights; empty otherwise.
        adapted: by what the run adapts the encoder, in words; empty if it stays frozen.
    """

    spec: EncoderSpec
    params: dict
    sha256: str
    origin: str
    warning: str
    adapted: str = ""

    def report(self) -> dict[str, Any]:
        """What every result file says about the encoder."""
        report = {
            "variant": self.spec.variant,
            "registers": self.spec.registers,
            "interpolation": self.spec.interpolation,
            "grid": self.spec.grid,
            "weights": self.origin,
            "sha256": self.sha256,
        }
        report |= {"adapted": self.adapted} if self.adapted else {}
        return report | ({"warning": self.warning} if self.warning else {})


def encoder_spec(encoder: ml_collections.ConfigDict) -> EncoderSpec:
    """What `config.encoder` asks for; of converted weights only the card is read.

    Raises:
        InputError: the weights are missing, or of another variant.
    """
    if encoder.weights:
        return spec_of(read_card(encoder.weights, (encoder.variant, encoder.registers)))
    return EncoderSpec(encoder.variant, encoder.registers)


@still("loading the encoder")
@stage("weights")
def load_frozen_encoder(config: ml_collections.ConfigDict) -> FrozenEncoder:
    """Loads converted weights, or draws random ones with one clear warning.

    Raises:
        InputError: the weights are missing, damaged, or of another variant.
    """
    encoder = config.encoder
    dtype = compute_dtype("config.encoder.dtype", encoder.dtype)
    if encoder.weights:
        expected = (encoder.variant, encoder.registers)
        spec, params, sha256 = load_params(encoder.weights, dtype, replicate, expected)
        return FrozenEncoder(spec, params, sha256, encoder.weights, "", _adapted(encoder, spec))
    spec = encoder_spec(encoder)
    params = random_params(spec, encoder.seed, dtype)
    warning = (
        f"the DINOv2 encoder has random weights (seed {encoder.seed}): results say nothing about "
        f"the published method; {_way_out(spec)}"
    )
    log.warning("%s", warning)
    origin = f"random (seed {encoder.seed})"
    sha256, adapted = encoder_hash(params_hash(params), spec), _adapted(encoder, spec)
    return FrozenEncoder(spec, replicate(params), sha256, origin, warning, adapted)


def _way_out(spec: EncoderSpec) -> str:
    """How to train with published weights instead."""
    if spec.variant == "tiny":
        return "the smallest encoder with published ones is that of --config=configs/small.py"
    command = conversion_command(spec.variant, spec.registers)
    return f"{command} fetches published ones for --config.encoder.weights=weights/{spec.variant}"


def _adapted(encoder: ml_collections.ConfigDict, spec: EncoderSpec) -> str:
    adapter = adapter_of(encoder, spec)
    return adapter.adaptation(spec.depth) if adapter else ""
