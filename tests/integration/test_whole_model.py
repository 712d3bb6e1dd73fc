"""The whole model against PyTorch: converted encoder, fusion, decoder, loss and its gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logit

torch = pytest.importorskip("torch")

from configs import default
from dinov2_torch import DINOv2, randomise
from head_torch import head_logits, to_torch
from lagseg_jax.data.augment import Augmentation
from lagseg_jax.data.batches import split_over_devices
from lagseg_jax.model.segmentation import build_model, to_rgb
from lagseg_jax.model.weights import load_params
from lagseg_jax.training.step import TrainStep, init_state
from network import probability
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
    [("resized", (8, 4, 2, 1), (64, 32, 24, 16, 8)), ("pyramid", (8, 4, 2), (64, 32, 24, 16))],
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
    inference = probability(model, encoder_params, params, images)
    loss, gradients = trained_once(model, encoder_params, params, images, mask)

    rgb = torch.tensor(np.asarray(to_rgb(images))).permute(0, 3, 1, 2)
    tokens = torch.stack([y[:, 5:].unflatten(1, (7, 7)) for y in net(rgb)])
    torch_params = to_torch(jax.tree.map(np.asarray, params))
    logits = head_logits(torch_params, tokens, torch.tensor(images), scales, image_path)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(mask))
    expected.backward()

    logits = logits.detach()
    assert relative_error(logit(np.float64(inference)), logits.numpy()) <= 1e-4
    assert relative_error(inference, torch.sigmoid(logits).numpy()) <= 1e-4
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    found = jax.tree_util.tree_leaves_with_path(gradients)
    reference = jax.tree.leaves(jax.tree.map(lambda t: t.grad.numpy(), torch_params))
    for (path, gradient), wanted in zip(found, reference, strict=True):
        assert np.abs(wanted).max() > 0
        assert relative_error(gradient, wanted) <= 1e-3, jax.tree_util.keystr(path)


def trained_once(model, encoder_params, params, images, mask):
    """Loss and gradients of a training step: those that its optimiser is given and keeps."""
    keeps = optax.with_extra_args_support(optax.trace(decay=0.0))
    still = Augmentation(*[0.0] * len(dataclasses.fields(Augmentation)))
    step = TrainStep(model, keeps, "bce", still, 0, jax.devices()[:1])
    batch = {"image": images, "mask": mask, "slice": np.arange(2), "stop": np.zeros(2, bool)}
    state, metrics, _ = step(
        init_state(jax.tree.map(jnp.copy, params), keeps),
        jnp.zeros(()),
        encoder_params,
        split_over_devices(batch, 1),
    )
    return metrics.compute()["loss"], state.opt_state.trace
