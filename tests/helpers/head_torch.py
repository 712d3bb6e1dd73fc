"""tokens of all blocks + image -> logits: fusion and decoder in PyTorch, from our parameter tree.

Written from the decoder's docstring with PyTorch's own layers, as an independent reference.
Maps are (B, C, H, W) here. `params` is the head's tree with torch tensors as leaves.
"""

import torch
import torch.nn.functional as F


def to_torch(tree):
    """A tree of arrays -> the same tree of torch leaves that collect gradients."""
    if isinstance(tree, dict):
        return {name: to_torch(leaf) for name, leaf in tree.items()}
    return torch.tensor(tree, requires_grad=True)


def dense(p, x):
    return F.conv2d(x, p["kernel"].T[:, :, None, None], p["bias"])


def conv_block(p, x, stride=1):
    for number, step in enumerate((stride, 1)):
        # "SAME" of TensorFlow and JAX: with stride 2 an even size is padded behind only.
        padding = [
            side
            for size in reversed(x.shape[2:])
            for total in [max((-(-size // step) - 1) * step + 3 - size, 0)]
            for side in (total // 2, total - total // 2)
        ]
        kernel = p[f"Conv_{number}"]["kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(F.pad(x, padding), kernel, stride=step)
        norm = p[f"GroupNorm_{number}"]
        x = F.group_norm(x, x.shape[1] // 8, norm["scale"], norm["bias"], eps=1e-6)
        x = F.gelu(x, approximate="tanh")
    return x


def resize(x, size, step):
    """Triangle kernels of a pixel or more around (i + 0.5) step; the border renormalises them."""
    for axis, new in ((2, size[0]), (3, size[1])):
        old = torch.arange(x.shape[axis]) + 0.5
        distance = (old[None] - (torch.arange(new)[:, None] + 0.5) * step).abs()
        kernel = (1 - distance / max(1, step)).clamp(min=0)
        kernel = kernel / kernel.sum(1, keepdim=True)
        x = torch.movedim(torch.tensordot(kernel, x, dims=([1], [axis])), 0, axis)
    return x


def head_logits(params, patch_tokens, images, scales, image_path):
    """Tokens (L, B, h, w, D), images (B, H, W) in 0..1 -> logits (B, H, W)."""
    weights = torch.softmax(params["fusion"]["theta"], dim=-1)
    fused = torch.einsum("sl,lbhwd->sbdhw", weights, patch_tokens)
    p, image = params["decoder"], 4 * images[:, None] - 2
    height, width = images.shape[1:]
    strides = (14, *scales)
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    if image_path == "resized":
        views = [resize(image, size, s) for size, s in zip(sizes, strides)]
    else:
        # Channels of a pixel block: row, then column, then channel, as space_to_depth orders them.
        x = F.pixel_unshuffle(image, scales[-1])
        x = conv_block(p["pyramid"]["ConvBlock_0"], x)
        views = [x]
        for number in range(1, len(scales)):
            x = conv_block(p["pyramid"][f"ConvBlock_{number}"], x, stride=2)
            views.insert(0, x)
        views.insert(0, resize(x, sizes[0], 14 / scales[0]))
    state = None
    for s, size in enumerate(sizes):
        parts = [resize(dense(p[f"project_{s}"], fused[s]), size, strides[s] / 14)]
        if s == 1:
            parts.append(resize(state, size, strides[s] / 14))
        elif s > 1:
            doubled = F.interpolate(state, scale_factor=2, mode="bilinear")
            parts.append(doubled[:, :, : size[0], : size[1]])
        parts.append(views[s])
        state = dense(p[f"join_{s}"], torch.cat(parts, dim=1))
        state = conv_block(p[f"block_{s}"], state)
    return F.pixel_shuffle(dense(p["logits"], state), scales[-1])[:, 0]
