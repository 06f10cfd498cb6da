"""What stands at positions of weight 0, padding and prompts, enters neither loss nor gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_updates import LOSS, same

from dars_jax.learner import loss as loss_lib

CHANGE = functools.partial(dataclasses.replace, LOSS)
LOSSES = {
    "clip, entropy, KL": CHANGE(entropy_coef=0.3, kl_coef=0.5),
    "GSPO, sequences masked": CHANGE(surrogate="gspo", correction="sequence_mask"),
    "CISPO, truncated": CHANGE(surrogate="cispo", correction="truncate"),
    "clip, tokens masked": CHANGE(correction="token_mask", correction_cap=5.0),
}
NAMES = ("advantage", "old_logprob", "sampler_logprob", "reference_logprob")
B, T, D, V = 3, 24, 8, 61


@functools.partial(jax.jit, static_argnums=2)
def gradient(data, hidden, config):
    head = jnp.asarray(np.random.default_rng(1).normal(size=(V, D)), jnp.float32)
    logprob = loss_lib.head_logprob(hidden, head, data["target"], 1.0, 12)
    if config.by_sequence:
        data = data | loss_lib.sequence_terms(logprob, data, config)
    sums, _, d_hidden, d_head = loss_lib.head_gradient(
        hidden, head, jnp.zeros((V, D)), data, config, 12
    )  # fmt: skip
    return sums, d_hidden, d_head


@functools.cache
def with_zeros():
    """(data, hidden) with zeros wherever the weight is 0."""
    rng = np.random.default_rng(0)
    live = rng.random((B, T)) < 0.7
    old = rng.normal(size=(B, T)) * 0.1 - 4
    floats = {"weight": rng.random((B, T)), "advantage": rng.normal(size=(B, T)),
              "old_logprob": old, "sampler_logprob": old + 0.1 * rng.normal(size=(B, T)),
              "reference_logprob": old}  # fmt: skip
    data = {k: jnp.asarray(np.where(live, x, 0), jnp.float32) for k, x in floats.items()}
    segments = jnp.repeat(jnp.arange(4), 6)[None].repeat(B, 0)
    data |= {"target": jnp.asarray(np.where(live, rng.integers(0, V, (B, T)), 0)),
             "group": jnp.ones_like(segments), "segment": segments, "first": jnp.array(False),
             "entropy_weight": jnp.float32(0.01)}  # fmt: skip
    hidden = np.where(live[..., None], rng.normal(size=(B, T, D)), 0)
    return data, jnp.asarray(hidden, jnp.float32)


@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES)
def test_garbage_at_positions_without_weight_changes_no_bit(config):
    data, hidden = with_zeros()
    dead = np.asarray(data["weight"]) == 0
    want = gradient(data, hidden, config)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(want))
    assert float(jnp.abs(want[2]).max()) > 1e-3 and not np.asarray(want[1])[dead].any()
    for garbage in (1e4, -1e4, np.inf, -np.inf, np.nan):
        other = data | {k: jnp.where(dead, garbage, data[k]) for k in NAMES}
        other["target"] = jnp.where(dead, 7, data["target"])
        assert same(gradient(other, hidden, config), want), garbage
        assert same(gradient(data, jnp.where(dead[..., None], garbage, hidden), config), want)


def test_a_token_that_a_correction_leaves_out_may_have_any_ratio():
    data, hidden = with_zeros()
    config = LOSSES["clip, tokens masked"]
    worse = jnp.zeros((B, T), bool).at[0, 3].set(True) & (data["weight"] > 0)
    assert worse.any()
    out = {"advantage": jnp.where(worse, -1.0, data["advantage"])}  # no clip bounds its loss
    out["sampler_logprob"] = jnp.where(worse, data["old_logprob"] + 9, data["sampler_logprob"])
    left_out = gradient(data | out, hidden, config)
    out["old_logprob"] = jnp.where(worse, -1e3, data["old_logprob"])  # ratio exp(996)
    out["sampler_logprob"] = jnp.where(worse, 0.0, out["sampler_logprob"])
    got = gradient(data | out, hidden, config)
    assert same(got[1:], left_out[1:]) and float(got[0].loss) == float(left_out[0].loss)
    assert np.isfinite(got[2]).all() and got[0].bounded >= 1
