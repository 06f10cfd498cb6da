"""Adapters beside the weights: nothing at first, then what merged weights compute."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.policy import decoder, lora
from dars_jax.policy.attention import prompt_attention

LORA = lora.Lora(rank=3, alpha=12.0, targets=lora.TARGETS)
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 9))


@functools.partial(jax.jit, static_argnames="config")
def logits(params, config):
    position = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    hidden, _ = decoder.forward(params, config, TOKENS, position, attention=prompt_attention,
                                state=None)  # fmt: skip
    return hidden @ decoder.head_matrix(params).T


def learned(model, settings=LORA):
    """Adapters far from their start."""
    rng = np.random.default_rng(0)
    shapes = lora.learning(model, settings)
    return jax.tree.map(lambda x: rng.normal(0, 0.15, x.shape).astype(np.float32), shapes)


def by_hand(params, adapters, settings):
    """W + alpha / r A B, one einsum after the other."""
    layers = dict(params["layers"])
    for name, letters in (("q", "ndr,nrhk->ndhk"), ("k", "ndr,nrhk->ndhk"), ("v", "ndr,nrhk->ndhk"),
                          ("o", "nhkr,nrd->nhkd"), ("gate", "ndr,nrf->ndf"),
                          ("up", "ndr,nrf->ndf"), ("down", "nfr,nrd->nfd")):  # fmt: skip
        if pair := adapters["layers"]["adapters"].get(name):
            change = np.einsum(letters, pair["a"].astype(np.float64), pair["b"])
            kernel = np.asarray(layers[name]["kernel"]) + settings.alpha / settings.rank * change
            layers[name] = {**layers[name], "kernel": kernel.astype(np.float32)}
    return {**params, "layers": layers}


def test_fresh_adapters_change_no_bit_of_the_policy(tiny):
    fresh = lora.init(tiny.config, LORA, 0)
    for pair in fresh["layers"]["adapters"].values():
        assert not pair["b"].any() and pair["a"].std() > 0
    whole = lora.whole(LORA, tiny.params, fresh)
    np.testing.assert_array_equal(logits(whole, tiny.config), logits(tiny.params, tiny.config))
    jax.tree.map(np.testing.assert_array_equal, lora.merged(whole), tiny.params)


@pytest.mark.parametrize("targets", [lora.TARGETS, ("v", "down")])
def test_adapters_compute_what_merged_weights_do(tiny, targets):
    settings = dataclasses.replace(LORA, targets=targets)
    adapters = learned(tiny.config, settings)
    want = by_hand(tiny.params, adapters, settings)
    whole = lora.whole(settings, tiny.params, adapters)
    apart = np.abs(logits(whole, tiny.config) - logits(tiny.params, tiny.config)).max()
    assert apart > 0.5
    np.testing.assert_allclose(logits(whole, tiny.config), logits(want, tiny.config), atol=2e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, lora.merged(whole), want)
    published = jax.jit(functools.partial(lora.unstack_layers, dtype=jnp.float32))(whole)
    for i, layer in enumerate(published["layers"]):
        jax.tree.map(close, layer, jax.tree.map(lambda x, i=i: x[i], want["layers"]))


def test_published_weights_are_rounded_once(tiny):
    adapters = learned(tiny.config)
    base = jax.tree.map(lambda x: np.asarray(x).astype(jnp.bfloat16), tiny.params)
    exact = by_hand(jax.tree.map(lambda x: x.astype(np.float32), base), adapters, LORA)
    publish = jax.jit(lora.unstack_layers, static_argnames="dtype")
    got = publish(lora.whole(LORA, base, adapters), dtype=jnp.bfloat16)
    want = [x.astype(jnp.bfloat16)[i] for i in range(tiny.config.num_layers)
            for x in jax.tree.leaves(exact["layers"])]  # fmt: skip
    pairs = list(zip(jax.tree.leaves(got["layers"]), want, strict=True))
    assert all(x.dtype == jnp.bfloat16 for x, _ in pairs)
    # a sum of float32 in another order may lie on the other side of a tie
    assert max(float(np.mean(x != y)) for x, y in pairs) < 1e-3


def test_the_draw_follows_from_the_seed_and_not_from_the_targets(tiny):
    first, again, other = (lora.init(tiny.config, LORA, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    some = lora.init(tiny.config, dataclasses.replace(LORA, targets=("down",)), 3)
    of = lambda tree: tree["layers"]["adapters"]["down"]["a"]  # noqa: E731
    np.testing.assert_array_equal(of(some), of(first))
    assert (of(first) != of(other)).any()
    width = tiny.config.d_ff**-0.5
    assert 0.9 * width < np.abs(of(first)).max() <= width


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((-1, 16.0, "q"), r"lora\.rank must be 0 .* got -1"),
        ((8, 0.0, "q"), r"lora\.alpha must be above 0, got 0.0"),
        ((8, 16.0, "q,q_proj"), r"lora\.targets = 'q,q_proj' has 'q_proj': give some of q,k,v,o,"),
        ((8, 16.0, ""), r"lora\.targets = '' has ''"),
        ((8, 16.0, "q,v,q"), r"lora\.targets = 'q,v,q' names one twice"),
        ((17, 16.0, "q,k"), r"lora\.rank = 17 is above 16, .* 'k' can have"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny, settings, words):
    with pytest.raises(ValueError, match=words):
        lora.from_settings(tiny.config, *settings)


def test_settings_become_adapters_of_their_size(tiny):
    assert lora.from_settings(tiny.config, 0, 16.0, "q") is None
    made = lora.from_settings(tiny.config, 4, 16.0, "down, q")
    assert made == lora.Lora(4, 16.0, ("q", "down")) and made.scale == 4.0
    c = tiny.config
    each = c.d_model + c.num_heads * c.head_dim + c.d_ff + c.d_model
    assert lora.count(c, made) == 4 * c.num_layers * each
