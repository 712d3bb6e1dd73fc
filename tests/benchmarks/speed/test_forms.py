"""benchmarks.speed.forms: what is timed beside each other computes the same."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.forms import PLAIN, decoder_pairs, encoder_pairs
from lagseg_jax.model.decoder import Decoder


def test_plain_forms_compute_the_same():
    pairs = decoder_pairs(Decoder((4, 2), (16, 16, 8)), 56, 1)
    pairs |= encoder_pairs(jnp.float32, 28, 1)
    assert len(pairs) == len(PLAIN) + 2
    for what, (plain, ours) in pairs.items():
        assert plain is not ours
        for a, b in zip(*map(jax.tree.leaves, (plain(), ours())), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=what)
