"""The shapes that are written out are those that Flax initialises."""

import jax
import pytest

from configs import cpu, default
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.trained_shapes import trained_structs

ODD = {"decoder.scales": (4, 2), "decoder.widths": (40, 24, 8), "decoder.dtype": "float32"}


def model(config, **fields):
    config.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return build_model(config, EncoderSpec(config.encoder.variant, config.encoder.registers))


@pytest.mark.parametrize(
    ("shipped", "fields"),
    [
        (cpu, {}),
        (default, {"fusion.blocks": "2,5"}),
        (default, ODD | {"decoder.image_path": "pyramid", "encoder.lora_rank": 3}),
        (default, ODD | {"decoder.image_injection": False, "fusion.learned": False}),
    ],
)
def test_as_flax_initialises_them(shipped, fields):
    trains = model(shipped.get_config(), **fields)
    for adapter, init in ((True, trains.init_params), (False, trains.init_head)):
        expected = jax.eval_shape(lambda key, init=init: init(key, 112), jax.random.key(0))
        assert trained_structs(trains, adapter) == expected
