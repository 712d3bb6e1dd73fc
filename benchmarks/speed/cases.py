"""The models and sizes that the speed benchmark measures."""

import argparse
import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    """One model at one size.

    Attributes:
        variant: of the encoder; "tiny" comes with the recipe of configs/cpu.py, the others with
            configs/default.py's.
        size: image size in pixels.
        batch: slices per training step and per encoder call.
        dtype: "bfloat16" or "float32", of encoder and decoder.
        predict_batch: slices at a time of a whole-volume prediction.
        shape: (x, y, z) of the volume.
        rows: the only ones to be measured; (): all.
    """

    variant: str
    size: int
    batch: int
    dtype: str
    predict_batch: int = 8
    shape: tuple[int, int, int] = (199, 143, 88)
    rows: tuple[str, ...] = ()

    def title(self) -> str:
        """For people: "small, 448 x 448, batch 4, bfloat16"."""
        return f"{self.variant}, {self.size} x {self.size}, batch {self.batch}, {self.dtype}"


QUICK = {
    "cpu": [Case("small", 448, 4, "bfloat16", 4), Case("tiny", 196, 8, "float32")],
    "gpu": [Case("giant", 448, 32, "bfloat16"), Case("base", 448, 32, "bfloat16")],
}
# On a GPU it is compiling that takes the time, not what is measured.
QUICK_ROWS = {"giant": ("encoder", "volume", "train step", "input"), "base": ("volume",)}
MORE = {
    "cpu": [Case("small", 448, 4, "float32", 4), Case("small", 224, 4, "bfloat16", 4)],
    "gpu": [Case("small", 448, 32, "bfloat16"), Case("base", 448, 32, "float32")],
}


def choose(backend: str, options: argparse.Namespace) -> list[Case]:
    """The backend's own cases, or those that the flags ask for.

    Args:
        backend: "cpu", or anything else for an accelerator.
        options: of the command line: quick, variants, sizes, dtypes (lists or None), batch,
            predict_batch (numbers or None), shape.
    """
    kind = "cpu" if backend == "cpu" else "gpu"
    cases = QUICK[kind] + ([] if options.quick else MORE[kind])
    if options.variants or options.sizes or options.dtypes:
        first = cases[0]
        cases = [
            Case(variant, size, first.batch, dtype, first.predict_batch)
            for variant in options.variants or [first.variant]
            for size in options.sizes or [first.size]
            for dtype in options.dtypes or [first.dtype]
        ]
    elif options.quick and kind == "gpu":
        cases = [dataclasses.replace(case, rows=QUICK_ROWS[case.variant]) for case in cases]
    changes = {"batch": options.batch, "predict_batch": options.predict_batch}
    changes = {k: v for k, v in changes.items() if v} | {"shape": tuple(options.shape)}
    return [dataclasses.replace(case, **changes) for case in cases]
