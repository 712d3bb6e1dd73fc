"""What distinguishes the DINOv2 encoders from each other: sizes, registers, interpolation rule."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from lagseg_jax.config.choices import PATCH, VARIANTS
from lagseg_jax.imaging.interpolation import RULES


@dataclass(frozen=True)
class EncoderSpec:
    """What distinguishes one DINOv2 encoder from another.

    Attributes:
        variant: a key of `VARIANTS`.
        registers: 0 or 4 register tokens.
        interpolation: a rule of `interpolation.RULES`; by default Meta's own for this number
            of registers.
        grid: patches along each side of the stored position embedding (518 / 14 = 37).
    """

    variant: str
    registers: int = 0
    interpolation: str | None = None
    grid: int = 37

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r} found, one of {tuple(VARIANTS)} expected")
        if self.registers not in (0, 4):
            raise ValueError(f"{self.registers} registers found, 0 or 4 expected")
        if self.interpolation is None:
            rule = "antialias" if self.registers else "offset"
            object.__setattr__(self, "interpolation", rule)
        if self.interpolation not in RULES:
            raise ValueError(f"rule {self.interpolation!r} found, one of {RULES} expected")
        if not isinstance(self.grid, int) or self.grid < 1:
            raise ValueError(f"grid {self.grid!r} found, a positive integer expected")

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return VARIANTS[self.variant]["width"]

    @property
    def depth(self) -> int:
        """L, number of blocks."""
        return VARIANTS[self.variant]["depth"]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return VARIANTS[self.variant]["heads"]

    @property
    def patch_size(self) -> int:
        """Pixels along each side of the square that becomes a token."""
        return PATCH

    @property
    def mlp(self) -> str:
        """ "gelu" (two layers) or "swiglu" (gated)."""
        return VARIANTS[self.variant]["mlp"]

    @property
    def hidden(self) -> int:
        """Channels inside the MLP, after gating."""
        return VARIANTS[self.variant]["hidden"]


def conversion_command(variant: str, registers: int, folder: str | Path = "") -> str:
    """The line that fetches the published weights of an encoder and converts them.

    Our own tiny variant has none; its line is that of the base encoder.

    Args:
        variant: a key of `VARIANTS`.
        registers: 0 or 4.
        folder: to write to; "" for weights/VARIANT. The name of a published model, given where a
            folder was expected, is what to convert.
    """
    variant = "base" if variant == "tiny" else variant
    name = f"facebook/dinov2-{'with-registers-' if registers else ''}{variant}"
    if str(folder).startswith("facebook/dinov2-"):
        name, folder = str(folder), ""
    output = shlex.quote(str(folder or f"weights/{name.rpartition('-')[2]}"))
    return f"`python -m weight_conversion.convert --input={name} --output={output}`"
