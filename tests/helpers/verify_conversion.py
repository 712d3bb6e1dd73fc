"""variant -> table of errors against PyTorch, cost of bfloat16, and peak memory of its conversion.

python tests/helpers/verify_conversion.py --variant=giant

For the variants too large for the test suite: random weights of the real shapes are written as
Meta (or Hugging Face) would, converted by the command line in a process of its own, and compared
block by block. Giant takes about 10 minutes on 2 cores, 14 GB of memory and 9 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

import dinov2_torch as reference
from lagseg_jax.model.encoder import Encoder
from lagseg_jax.model.weights import load_params

SIZES = [(224, 224), (448, 448), (196, 280)]


def publish(folder: Path, style: str, variant: str, registers: int) -> Path:
    """Random weights in a file as Meta, or a folder as Hugging Face, publishes them."""
    net = reference.randomise(reference.DINOv2(variant, registers), seed=1)
    if style == "meta":
        torch.save(net.state_dict(), folder / "pretrain.pth")
        return folder / "pretrain.pth"
    from safetensors.torch import save_file

    config = reference.huggingface_config(variant, registers)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(reference.huggingface_names(net.state_dict()), folder / "model.safetensors")
    return folder


def reference_tokens(source: Path, style: str, variant: str, registers: int, images: list):
    """Normalised tokens (L, B, N, D) per image, by PyTorch."""
    images = [torch.from_numpy(image).permute(0, 3, 1, 2) for image in images]
    if style == "meta":
        with torch.device("meta"):
            net = reference.DINOv2(variant, registers)
        net.load_state_dict(torch.load(source, mmap=True, weights_only=True), assign=True)
        return [torch.stack(net(image)).numpy() for image in images]
    from transformers import AutoModel

    net = AutoModel.from_pretrained(source).eval()
    with torch.no_grad():
        states = [net(image, output_hidden_states=True).hidden_states[1:] for image in images]
        return [torch.stack([net.layernorm(s) for s in blocks]).numpy() for blocks in states]


def our_tokens(folder: Path, dtype: str, images: list):
    """The same from the converted folder, float32."""
    spec, params, _ = load_params(folder, dtype)
    encode = jax.jit(Encoder(spec, jnp.dtype(dtype)).apply)
    for image in images:
        patches, classes, registers = encode({"params": params}, image)
        patches = patches.reshape(*patches.shape[:2], -1, patches.shape[-1])
        yield np.asarray(
            jnp.concatenate([classes[:, :, None], registers, patches], axis=2), np.float32
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="giant", choices=reference.SIZES)
    parser.add_argument("--registers", type=int, default=0, choices=(0, 4))
    parser.add_argument("--format", default="meta", choices=("meta", "huggingface"))
    parser.add_argument("--only_memory", action="store_true", help="convert, compare nothing")
    parser.add_argument("--folder", default=None, help="where the temporary files go")
    options = parser.parse_args()
    names = options.format, options.variant, options.registers

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = Path(folder)
        # Weights are made in a forked child, so that their memory is gone before we go on.
        if (child := os.fork()) == 0:
            publish(folder, *names)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        source = folder / "pretrain.pth" if options.format == "meta" else folder
        command = ["-m", "weight_conversion.convert", f"--input={source}", f"--output={folder}/out"]
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        card = json.loads(process.stdout.read())
        usage = os.wait4(process.pid, 0)[2]
        size = sum(entry["bytes"] for entry in card["source"])
        print(
            f"{card['format']}, {card['variant']}, {card['registers']} registers, "
            f"{card['parameters']:,} parameters: file {size / 1e6:.0f} MB, peak resident "
            f"{usage.ru_maxrss * 1024 / 1e6:.0f} MB ({usage.ru_maxrss * 1024 / size:.2f} x), "
            f"processor time {usage.ru_utime + usage.ru_stime:.0f} s"
        )
        if options.only_memory:
            return

        draw = np.random.default_rng(3).normal
        images = [draw(size=(1, *size, 3)).astype(np.float32) for size in SIZES]
        theirs = reference_tokens(source, *names, images)
        first = 1 + options.registers
        kinds = {"class": slice(0, 1), "register": slice(1, first), "patch": slice(first, None)}
        kinds = kinds if options.registers else {k: kinds[k] for k in ("class", "patch")}

        print("\nfloat32 against PyTorch, max |difference| / max |reference|, worst block:")
        exact = []
        for size, ours, expected in zip(
            SIZES, our_tokens(folder / "out", "float32", images), theirs
        ):
            exact.append(ours)
            worst = {
                kind: max(
                    float(np.abs(a[:, part] - b[:, part]).max() / np.abs(b[:, part]).max())
                    for a, b in zip(ours, expected)
                )
                for kind, part in kinds.items()
            }
            words = ", ".join(f"{kind} tokens {error:.1e}" for kind, error in worst.items())
            print(f"  {size[0]} x {size[1]}: {words}")

        print("\nbfloat16 against float32 at 448 x 448, |difference| / |token| over all tokens:")
        print("  block   median   99 %      max")
        low = next(our_tokens(folder / "out", "bfloat16", [images[1]]))
        for block, (a, b) in enumerate(zip(low[:, 0], exact[1][:, 0]), start=1):
            error = np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)
            median, high = np.quantile(error, [0.5, 0.99])
            print(f"  {block:5d}   {median:.4f}   {high:.4f}   {error.max():.4f}")


if __name__ == "__main__":
    main()
