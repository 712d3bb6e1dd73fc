"""The same model in PyTorch, as one would write it: images (B, H, W) in 0..1 -> logits (B, H, W).

The encoder is `transformers`' Dinov2Model with its scaled_dot_product_attention; fusion and decoder
are PyTorch's own layers in channels_last. Submodules bear the names of our parameter tree.
Letters: B batch, L blocks, S scales, D width, h x w patches; maps are (B, C, H, W).
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GroupNorm(nn.GroupNorm):
    """In the dtype of its input: on GPUs autocast would make float32 maps, twice the bytes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape and dtype."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class ConvBlock(nn.Module):
    """Two times 3x3 convolution, GroupNorm, GELU."""

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        # Padded by hand: with stride 2 and an even size, "SAME" pads behind only.
        self.stride = stride
        self.Conv_0 = nn.Conv2d(inputs, width, 3, stride, padding=stride % 2, bias=False)
        self.GroupNorm_0 = GroupNorm(width // 8, width, eps=1e-6)
        self.Conv_1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.GroupNorm_1 = GroupNorm(width // 8, width, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, width, ceil(H / stride), ceil(W / stride))."""
        if self.stride == 2:
            x = F.pad(x, [side for n in (x.shape[3], x.shape[2]) for side in (n % 2, 1)])
        x = F.gelu(self.GroupNorm_0(self.Conv_0(x)), approximate="tanh")
        return F.gelu(self.GroupNorm_1(self.Conv_1(x)), approximate="tanh")


class Pyramid(nn.Module):
    """The image's learned stem."""

    def __init__(self, scales: list[int], widths: list[int]):
        super().__init__()
        self.scale, inputs = scales[-1], scales[-1] ** 2
        for number, width in enumerate(reversed(widths)):
            block = ConvBlock(inputs, width, stride=2 if number else 1)
            self.add_module(f"ConvBlock_{number}", block)
            inputs = width

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Image (B, 1, H, W) -> maps, coarse first."""
        x, features = F.pixel_unshuffle(image, self.scale), []
        for block in self.children():
            x = block(x)
            features.insert(0, x)
        return features


class Decoder(nn.Module):
    """Fused tokens and image -> logits."""

    def __init__(self, facts: dict):
        super().__init__()
        self.scales, widths = facts["scales"], facts["widths"]
        views = [1] * len(widths)
        if facts["image_path"] == "pyramid":
            self.pyramid = Pyramid(self.scales, widths[1:])
            views = [widths[1], *widths[1:]]
        before = 0
        for s, (channels, view) in enumerate(zip(widths, views)):
            self.add_module(f"project_{s}", nn.Conv2d(facts["width"], channels, 1))
            self.add_module(f"join_{s}", nn.Conv2d(channels + before + view, channels, 1))
            self.add_module(f"block_{s}", ConvBlock(channels, channels))
            before = channels
        self.logits = nn.Conv2d(before, self.scales[-1] ** 2, 1)

    def forward(self, fused: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """(S, B, D, h, w) and (B, 1, H, W) -> (B, H, W) float32."""
        height, width = image.shape[2:]
        strides = (14, *self.scales)
        sizes = [(-(-height // s), -(-width // s)) for s in strides]
        if hasattr(self, "pyramid"):
            views = self.pyramid(image)
            views.insert(0, resize(views[0], sizes[0], 14 / self.scales[0]))
        else:
            views = [resize(image, size, s) for size, s in zip(sizes, strides)]
        views = [view.to(fused.dtype) for view in views]  # `cat` would widen all to float32
        state = None
        for s, size in enumerate(sizes):
            step = strides[s] / 14
            parts = [resize(getattr(self, f"project_{s}")(fused[s]), size, step)]
            if s == 1:
                parts.append(resize(state, size, step))
            elif s > 1:
                doubled = F.interpolate(state, scale_factor=2, mode="bilinear")
                parts.append(doubled[:, :, : size[0], : size[1]])
            state = getattr(self, f"join_{s}")(torch.cat([*parts, views[s]], dim=1))
            state = getattr(self, f"block_{s}")(state)
        with torch.autocast(state.device.type, enabled=False):
            logits = self.logits(state.float())
        return F.pixel_shuffle(logits, self.scales[-1])[:, 0]


class Head(nn.Module):
    """What is trained: fusion weights and decoder."""

    def __init__(self, facts: dict, blocks: int):
        super().__init__()
        self.fusion = nn.Module()
        self.fusion.theta = nn.Parameter(torch.zeros(len(facts["widths"]), blocks))
        self.decoder = Decoder(facts)

    def fuse(self, tokens: torch.Tensor) -> torch.Tensor:
        """(L, B, h, w, D) -> (S, B, D, h, w), one matrix product."""
        weights = torch.softmax(self.fusion.theta, dim=-1)
        fused = weights.to(tokens.dtype) @ tokens.flatten(1)
        return fused.view(-1, *tokens.shape[1:]).permute(0, 1, 4, 2, 3)

    def forward(self, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """(L, B, h, w, D) and (B, H, W) in 0..1 -> logits (B, H, W)."""
        return self.decoder(self.fuse(tokens), 4 * images[:, None] - 2)


def resize(x: torch.Tensor, size: tuple[int, int], step: float) -> torch.Tensor:
    """Bilinear; antialiased only where the map shrinks: slower, and not there in bfloat16.

    `step` old pixels for each new one: where a size was rounded up, not what the sizes say.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if any(abs(new * step - old) > 1e-6 for new, old in zip(size, x.shape[-2:])):
        return resize_rounded(x, size, step)
    if size[0] > x.shape[-2]:
        return F.interpolate(x, size=size, mode="bilinear")
    return F.interpolate(x.float(), size=size, mode="bilinear", antialias=True).to(x.dtype)


def resize_rounded(x: torch.Tensor, size: tuple[int, int], step: float) -> torch.Tensor:
    """Triangle kernels of a pixel or more around (i + 0.5) step, as matrix products."""
    for axis, new in ((2, size[0]), (3, size[1])):
        old = torch.arange(x.shape[axis], device=x.device) + 0.5
        centres = (torch.arange(new, device=x.device) + 0.5) * step
        kernel = (1 - (old - centres[:, None]).abs() / max(1, step)).clamp(min=0)
        kernel = (kernel / kernel.sum(1, keepdim=True)).to(x.dtype)
        x = torch.movedim(torch.tensordot(kernel, x, dims=([1], [axis])), 0, axis)
    return x


class FrozenEncoder(nn.Module):
    """images (B, H, W) in 0..1 -> normalised patch tokens of all blocks (L, B, h, w, D)."""

    def __init__(self, dinov2: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dinov2, self.dtype = dinov2, dtype
        self.blocks = list(dinov2.encoder.layer)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        for module in dinov2.modules():
            # What autocast would otherwise cast anew at every call.
            if isinstance(module, nn.Linear):
                module.to(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Walks the blocks, so that each one's output is at hand."""
        size = [n // 14 for n in images.shape[1:]]
        x = self.dinov2.embeddings((images[:, None] - self.mean) / self.std)
        tokens = []
        for layer in self.blocks:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x  # older versions of transformers
            tokens.append(self.dinov2.layernorm(x)[:, 1:].to(self.dtype))
        return torch.stack(tokens).unflatten(2, size)

    def compiled_by_block(self) -> "FrozenEncoder":
        """The same weights; one compilation that all blocks share, not one of them all."""
        twin = copy.copy(self)
        twin.blocks = [torch.compile(block, dynamic=False) for block in self.blocks]
        return twin


def head_state(arrays: dict) -> dict[str, torch.Tensor]:
    """Our parameters (names joined with "/") -> a state dict of `Head`."""
    state = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        if tensor.ndim == 2 and name.endswith("kernel"):
            tensor = tensor.T[:, :, None, None]
        elif tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)
        state[_path(name)] = tensor
    return state


def head_gradients(head: Head, arrays: dict) -> dict:
    """The gradients under our names, in our layouts."""
    parameters, found = dict(head.named_parameters()), {}
    for name, array in arrays.items():
        gradient = parameters[_path(name)].grad.float().cpu()
        if array.ndim == 2 and name.endswith("kernel"):
            gradient = gradient[:, :, 0, 0].T
        elif array.ndim == 4:
            gradient = gradient.permute(2, 3, 1, 0)
        found[name] = gradient.numpy()
    return found


def _path(name: str) -> str:
    """ "decoder/logits/kernel" -> "decoder.logits.weight"."""
    return name.replace("/", ".").replace("kernel", "weight").replace("scale", "weight")
