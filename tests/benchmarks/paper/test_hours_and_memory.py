"""benchmarks.paper: sums by hand, properties, and XLA's own plan of memory."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from benchmarks.common import cost
from benchmarks.paper import hours, memory
from configs import default, giant
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.weights import param_structs
from lagseg_jax.runtime.devices import AXIS
from lagseg_jax.training.optimizer import make_optimizer
from lagseg_jax.training.step import augmentation_of, init_state, make_encode, make_update

GIANT = EncoderSpec("giant")
H200, A100S, TPU = hours.MACHINES
struct = jax.ShapeDtypeStruct


def test_flops_of_the_giant_by_hand():
    """Two for each weight and token, and the two products of attention; nothing else is large."""
    tokens, width, depth = 1 + 32 * 32, 1536, 40
    weights = 1136.5e6 - 37**2 * width  # the position embedding is added
    by_hand = 2 * weights * tokens + depth * 2 * (2 * tokens**2 * width)
    work = cost.forward(GIANT, giant.get_config(), 1)
    assert sum(layer.flops for layer in work.encoder) == pytest.approx(by_hand, rel=0.01)


def test_a_step_is_the_encoder_once_and_the_head_three_times():
    config = giant.get_config()
    step, once = (f(GIANT, config, 4) for f in (hours.training_step, cost.forward))
    encoder, head = (sum(layer.flops for layer in part) for part in once)
    # A little less than three times: images and tokens have no gradient.
    assert encoder + 2.8 * head < step.flops() <= encoder + 3 * head


def test_each_layer_takes_the_longer_bound():
    config = giant.get_config()
    work = hours.training_step(GIANT, config, 4)
    for machine in (H200, TPU):
        layers = hours.bounds(work, GIANT, config, machine, 4)
        arithmetic, moving = map(sum, zip(*layers))
        assert arithmetic == pytest.approx(work.flops() / machine.flops["bfloat16"])
        least = hours.least_seconds(layers)
        assert max(arithmetic, moving) <= least <= arithmetic + moving
    # Scores that leave the chip: 24 heads, 40 blocks, six bytes, there and back.
    fused = hours.bounds(work, GIANT, config, TPU._replace(fused_attention=True), 4)
    open_ = hours.bounds(work, GIANT, config, TPU, 4)
    extra = sum(b for _, b in open_) - sum(b for _, b in fused)
    assert extra == pytest.approx(40 * 4 * 24 * 1025**2 * 6 * 2 / TPU.bandwidth)


def test_hours_are_linear_in_epochs_and_count_validations():
    config = default.get_config()
    found = []
    for epochs in (10.0, 20.0):
        config.train.epochs = epochs
        found.append(hours.training_seconds(config, 320, 65, step=1.0, judged=0.5))
    # 10 steps an epoch, and after each of them three batches, the last one not full.
    assert found == [10 * (10 + 3 * 0.5), 20 * (10 + 3 * 0.5)]
    config.train.steps, config.train.evaluate_every = 25, 10
    assert hours.training_seconds(config, 320, 65, 1.0, 0.5) == 25 + 3 * 3 * 0.5


def test_slices_and_batches_of_a_prediction():
    assert hours.predicted_batches(33, 0.67, 1, 8) == (33, 5)
    slices, batches = hours.predicted_batches(88, 2 / 3, 4, 8)
    assert 0.67 * 88 <= slices < 88
    assert slices / 8 <= batches <= slices / 8 + 2
    assert hours.predicted_batches(88, 2 / 3, 4, 1000) == (88, 1)  # there is room for all


def test_memory_adds_up():
    config, head = giant.get_config(), 2_000_000
    one, two, four = (memory.training(GIANT, config, n, head, True) for n in (1, 2, 4))
    for parts in (one, four):
        *resident, encoder, update, total = parts.values()
        assert total == sum(resident) + max(encoder, update)
    assert four["tokens of all blocks, two steps"] == 2 * (40 * 4 * 32 * 32 * 1536 * 2)
    assert four["head, gradient and Adam"] == 20 * head
    assert one["encoder weights"] == four["encoder weights"]
    assert one["encoder weights"] == pytest.approx(2 * 1136.5e6, rel=0.01)
    # Linear in the slices, apart from what is there in any case.
    added = four["all together"] - two["all together"]
    assert added == 2 * (two["all together"] - one["all together"])


@pytest.mark.parametrize("machine", hours.MACHINES, ids=lambda m: m.name)
def test_most_slices_is_the_last_number_that_fits(machine):
    config = giant.get_config()
    most = hours.most_slices(GIANT, config, 2_000_000, machine)
    for count, fits in ((most, True), (most + 1, False)):
        parts = memory.training(GIANT, config, count, 2_000_000, machine.fused_attention)
        assert (parts["all together"] <= 0.75 * machine.memory) == fits
    small = machine._replace(memory=2e9)  # less than the encoder's weights
    assert hours.most_slices(GIANT, config, 2_000_000, small) == 0


def compiled_bytes(function, *arguments):
    """Temporary memory as XLA plans it for one device, inside the axis of the devices."""
    one = jax.tree.map(lambda x: struct((1, *x.shape), x.dtype), arguments[-1])
    axes = [None] * (len(arguments) - 1) + [0]
    function = jax.vmap(function, axes, axis_name=AXIS)
    analysis = jax.jit(function).lower(*arguments[:-1], one).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_memory_at_work_is_what_xla_plans():
    """The real pieces of the step, in float32, which every jax and CPU treats alike."""
    config = default.get_config()
    config.data.image_size, count = 112, 4
    config.encoder.variant, config.encoder.dtype = "small", "float32"
    config.decoder.scales, config.decoder.widths = (4, 2), (32, 24, 16)
    config.decoder.dtype = "float32"
    config.augment.update({name: 0.0 for name in config.augment})
    spec = EncoderSpec("small")
    model, optimizer = build_model(config, spec), make_optimizer(config.train)
    image = struct((count, 112, 112), jnp.float32)
    batch = {"image": image, "mask": image, "slice": struct((count,), jnp.int32)}
    params = unflatten_dict(param_structs(spec), sep="/")
    encode = make_encode(model, augmentation_of(config.augment), 0)
    step = struct((), jnp.int32)
    planned = compiled_bytes(encode, step, params, batch)
    predicted = memory.encoder_working(spec, config, count, fused_attention=True)
    assert planned / 1.5 < predicted < planned * 1.5

    head = jax.eval_shape(lambda key: model.init_head(key, 112), jax.random.key(0))
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer), head)
    encoded = jax.eval_shape(encode, step, params, batch)
    update = make_update(model, optimizer, "bce")

    def one_device(state, parts):
        return update(state, jnp.float32(1e-3), *parts)

    planned = compiled_bytes(one_device, state, (encoded, struct((count,), jnp.bool)))
    predicted = sum(memory.update_working(spec, config, count).values())
    assert planned / 1.5 < predicted < planned * 1.5
