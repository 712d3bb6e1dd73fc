"""The whole model against PyTorch: converted encoder, fusion, decoder, loss and its gradients."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from configs import default
from dinov2_torch import DINOv2, randomise
from head_torch import head_logits, to_torch
from lagseg_jax.model.segmentation import build_model, to_rgb
from lagseg_jax.model.weights import load_params
from lagseg_jax.training.losses import slice_losses
from weight_conversion.convert import convert

SIZE = 98  # 7 x 7 patches: odd at 1/2, 1/4 and 1/8


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """ViT-S with registers in PyTorch, and the folder of its conversion."""
    folder = tmp_path_factory.mktemp("weights")
    net = randomise(DINOv2("small", registers=4), seed=5)
    torch.save(net.state_dict(), folder / "dinov2_vits14_reg4_pretrain.pth")
    convert(folder / "dinov2_vits14_reg4_pretrain.pth", folder / "converted")
    return net, folder / "converted"


def relative_error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("image_path", "scales", "widths"),
    [
        ("resized", (8, 4, 2, 1), (64, 32, 24, 16, 8)),
        ("pyramid", (8, 4, 2), (64, 32, 24, 16)),
    ],
)
def test_same_logits_and_gradients_as_pytorch(encoders, image_path, scales, widths):
    net, folder = encoders
    config = default.get_config()
    config.data.image_size = SIZE
    config.encoder.dtype = config.decoder.dtype = "float32"
    config.decoder.update(image_path=image_path, scales=scales, widths=widths)
    spec, encoder_params, _ = load_params(folder, "float32", expected=("small", 4))
    model = build_model(config, spec)

    rng = np.random.default_rng(0)
    images = rng.random((2, SIZE, SIZE), np.float32)
    mask = (rng.random((2, SIZE, SIZE)) < 0.3).astype(np.float32)
    start = model.init_head(jax.random.key(0), SIZE)
    # Away from the start, where fusion weights are equal and biases zero.
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), start)

    def loss(params):
        logits = model.logits(encoder_params, params, images)
        return slice_losses("bce", logits, mask).mean(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    rgb = torch.tensor(np.asarray(to_rgb(images))).permute(0, 3, 1, 2)
    tokens = torch.stack([y[:, 5:].unflatten(1, (7, 7)) for y in net(rgb)])
    torch_params = to_torch(jax.tree.map(np.asarray, params))
    expected = head_logits(torch_params, tokens, torch.tensor(images), scales, image_path)
    torch.nn.functional.binary_cross_entropy_with_logits(expected, torch.tensor(mask)).backward()

    assert relative_error(logits, expected.detach().numpy()) <= 1e-4
    inference = jax.jit(model.probability)(encoder_params, params, images)
    assert relative_error(inference, torch.sigmoid(expected).detach().numpy()) <= 1e-4
    found = jax.tree_util.tree_leaves_with_path(gradients)
    reference = jax.tree.leaves(jax.tree.map(lambda t: t.grad.numpy(), torch_params))
    for (path, gradient), wanted in zip(found, reference, strict=True):
        assert np.abs(wanted).max() > 0
        assert relative_error(gradient, wanted) <= 1e-3, jax.tree_util.keystr(path)
