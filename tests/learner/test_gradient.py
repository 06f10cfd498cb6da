"""What the forward pass keeps for the backward pass: activations, and no weights."""

import functools

import jax
import jax.numpy as jnp
import pytest
from small_updates import LOSS

from dars_jax.learner.gradient import Passes
from dars_jax.policy import decoder
from dars_jax.policy.attention import packed_attention

CONFIG = decoder.ModelConfig(61, 3, 32, 4, 2, 8, 48, qkv_bias=True)
ROWS, TOKENS = 5, 7


@pytest.mark.parametrize("remat", decoder.REMAT_POLICIES)
def test_no_weight_is_saved_for_the_backward_pass(remat):
    passes = Passes(model=CONFIG, attention=packed_attention, loss=LOSS, specs=None,
                    gather="epoch", chunk=TOKENS, dtype=jnp.float32, remat=remat)  # fmt: skip
    layers = decoder.abstract_params(CONFIG)["layers"]
    ints = jax.ShapeDtypeStruct((ROWS, TOKENS), jnp.int32)
    arrays = {name: ints for name in ("position", "group", "segment")}
    x = jax.ShapeDtypeStruct((ROWS, TOKENS, CONFIG.d_model), jnp.float32)
    forward = functools.partial(passes._forward, keep=True)
    _, saved = jax.eval_shape(forward, layers, x, arrays)
    shapes = [leaf.shape for leaf in jax.tree.leaves(saved)]
    weights = {leaf.shape for leaf in jax.tree.leaves(layers)}
    assert shapes and not weights & set(shapes)
    if remat == "full":
        # a layer's input, and the rotary frequencies
        assert shapes == [(CONFIG.num_layers, *x.shape), (CONFIG.num_layers, CONFIG.head_dim // 2)]
