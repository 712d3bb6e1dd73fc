"""What an adapter is compared with."""

import numpy as np
from flax.traverse_util import flatten_dict


def merged_by_hand(encoder, lora):
    """W + a b in NumPy's float64, block by block; rounded once."""
    merged = flatten_dict(encoder)
    kernel = np.array(merged["blocks", "qkv", "kernel"])
    first = len(kernel) - len(lora["a"])
    for number, (a, b) in enumerate(zip(lora["a"], lora["b"], strict=True), first):
        exact = kernel[number].astype(np.float64) + np.float64(a) @ np.float64(b)
        kernel[number] = exact.astype(kernel.dtype)
    return kernel


def training_form(model, encoder, params, images):
    """Logits (B, H, W) as the update of the training computes them."""
    return model.head_logits(params, model.adapted_tokens(encoder, params, images), images)
