"""images (B, 3, H, W) -> tokens of every block, DINOv2 in PyTorch: what the JAX encoder must equal.

Written from the published architecture (arXiv 2304.07193, arXiv 2309.16588), with the tensor names
of Meta's files; the functions below rename a state dict as the other publishers do. Slow and plain.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {  # width, depth, heads
    "tiny": (64, 4, 2),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x):
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=14, stride=14)


class DINOv2(nn.Module):
    def __init__(self, variant, registers=0, grid=37, depth=None):
        super().__init__()
        width, full_depth, heads = SIZES[variant]
        mlp = SwiGLU if variant == "giant" else Mlp
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(depth or full_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.registers = registers

    @torch.no_grad()
    def forward(self, images):
        """List over blocks of (B, 1 + R + hw, D), after the final normalisation."""
        x = self.patch_embed.proj(images)
        size = x.shape[-2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(*size)
        if self.registers:
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(self.norm(x))
        return outputs

    def positions(self, h, w):
        count = self.pos_embed.shape[1] - 1
        if h * w == count and h == w:
            return self.pos_embed
        grid = math.isqrt(count)
        patches = self.pos_embed[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        patches = interpolate(patches, h, w, "antialias" if self.registers else "offset")
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def interpolate(x, h, w, rule):
    """Position embedding x (1, D, g, g) -> (1, D, h, w), as the publishers call PyTorch."""
    if rule == "offset":
        scale = ((h + 0.1) / x.shape[-2], (w + 0.1) / x.shape[-1])
        return F.interpolate(x, scale_factor=scale, mode="bicubic")
    return F.interpolate(x, size=(h, w), mode="bicubic", antialias=rule == "antialias")


@torch.no_grad()
def randomise(model, seed):
    """Every tensor random, of a size at which each of them matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        tensor.normal_(generator=generator)
        if tensor.ndim > 1 and name.endswith("weight"):
            tensor.mul_(tensor[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            tensor.mul_(0.2).add_(1.0)
        elif name.endswith("gamma"):
            tensor.mul_(0.1).add_(0.3)
        else:
            tensor.mul_(0.3)
    return model


def training_names(state, chunks=2):
    """As Meta's training saves the teacher: heads beside the backbone, blocks in chunks."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    teacher = {"dino_head.mlp.0.weight": torch.ones(3, 5), "ibot_head.mlp.0.bias": torch.ones(3)}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            name = f"blocks.{int(block) * chunks // depth}.{block}.{rest}"
        teacher[f"backbone.{name}"] = tensor
    return {"teacher": teacher}


def timm_names(state):
    """As timm publishes them: no mask token; with registers, no position for the class token."""
    state = {name: t for name, t in state.items() if name != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        positions = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:].contiguous()
    return {n.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): state[n] for n in state}


def huggingface_names(state):
    """As Hugging Face publishes them."""
    renamed = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            head, kind = name.split("attn.qkv.")
            head = head.replace("blocks.", "encoder.layer.") + "attention.attention."
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3)):
                renamed[f"{head}{part}.{kind}"] = piece.contiguous()
            continue
        if not name.startswith(("blocks.", "norm.")):
            name = f"embeddings.{name}"
        for old, new in (
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("mlp.w12", "mlp.weights_in"),
            ("mlp.w3", "mlp.weights_out"),
            ("patch_embed.proj", "patch_embeddings.projection"),
            ("pos_embed", "position_embeddings"),
        ):
            name = name.replace(old, new)
        renamed["layernorm" + name[4:] if name.startswith("norm.") else name] = tensor
    return renamed


def huggingface_config(variant, registers, grid=37):
    """The entries of config.json that say which model this is."""
    width, depth, heads = SIZES[variant]
    kind = "dinov2_with_registers" if registers else "dinov2"
    config = {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "image_size": grid * 14,
        "patch_size": 14,
        "use_swiglu_ffn": variant == "giant",
    }
    return config | ({"num_register_tokens": registers} if registers else {})
