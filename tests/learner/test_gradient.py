"""What the forward pass keeps for the backward pass: activations, and no weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from small_updates import LOSS

from dars_jax.learner.gradient import Passes
from dars_jax.policy import decoder
from dars_jax.policy.attention import Packing, packed_attention
from dars_jax.tpu import flops

CONFIG = decoder.ModelConfig(61, 3, 32, 4, 2, 8, 48, qkv_bias=True)
FAMILIES = {
    "qwen2": CONFIG,
    "qwen3": dataclasses.replace(CONFIG, qkv_bias=False, qk_norm="head"),
    "olmo2": dataclasses.replace(CONFIG, qkv_bias=False, qk_norm="projection", norm_after=True),
}
ROWS, TOKENS = 5, 7


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("remat", decoder.REMAT_POLICIES)
def test_no_weight_is_saved_for_the_backward_pass(remat, family):
    config = FAMILIES[family]
    passes = Passes(model=config, attention=packed_attention, loss=LOSS, specs=None,
                    gather="epoch", chunk=TOKENS, dtype=jnp.float32, remat=remat)  # fmt: skip
    layers = decoder.abstract_params(config)["layers"]
    ints = jax.ShapeDtypeStruct((ROWS, TOKENS), jnp.int32)
    arrays = {name: ints for name in ("position", "group", "segment")}
    x = jax.ShapeDtypeStruct((ROWS, TOKENS, config.d_model), jnp.float32)
    forward = functools.partial(passes._forward, keep=True)
    _, saved = jax.eval_shape(forward, layers, x, arrays)
    shapes = [leaf.shape for leaf in jax.tree.leaves(saved)]
    weights = {leaf.shape for leaf in jax.tree.leaves(layers)}
    assert shapes and not weights & set(shapes)
    if remat == "dots":
        assert shapes.count((config.num_layers, *x.shape[:2], config.d_ff)) >= 2  # gate and up
    if remat == "full":
        assert shapes == [(config.num_layers, *x.shape)]  # a layer's input


@pytest.mark.parametrize("family", FAMILIES)
def test_no_product_with_a_weight_is_made_again_for_a_norm(family):
    config = FAMILIES[family]

    def products(remat):
        passes = Passes(model=config, attention=packed_attention, loss=LOSS, specs=None,
                        gather="epoch", chunk=TOKENS, dtype=jnp.float32, remat=remat)  # fmt: skip
        policy = decoder.REMAT_POLICIES[remat]
        block = jax.checkpoint(passes._block, policy=policy) if policy else passes._block
        layer = jax.tree.map(lambda x: jnp.zeros(x.shape[1:]), params["layers"])
        ints = jnp.ones((ROWS, TOKENS), jnp.int32)
        turns = decoder.rotation(config, ints)
        x = jnp.zeros((ROWS, TOKENS, config.d_model))

        def loss(layer, x):
            return jnp.sum(block(layer, x, turns, Packing(ints, ints)))

        return flops.count(jax.jit(jax.grad(loss, (0, 1))).trace(layer, x).jaxpr).weights

    params = decoder.abstract_params(config)
    assert products("mlp") == products("none") < products("qkv")
