"""The decoder against the same mathematics in plain lines, and against itself in other shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.engine import kv_cache
from dars_jax.policy import decoder
from dars_jax.policy.attention import (
    LayerCache,
    Packing,
    cached_attention,
    packed_attention,
    prompt_attention,
    splash_attention,
)
from dars_jax.policy.decoder import ARCHITECTURES, REMAT_POLICIES, ModelConfig, RopeScaling

LLAMA3 = RopeScaling(8.0, 1.0, 4.0, 16)
VARIANTS = {
    "grouped queries, bias": {},
    "one head each": {"num_kv_heads": 4},
    "one shared head": {"num_kv_heads": 1, "qkv_bias": False},
    "tied, scaled rope": {"tied_head": True, "rope_scaling": LLAMA3, "rope_theta": 500.0},
    "wide heads": {"head_dim": 20, "num_layers": 1, "norm_eps": 1e-3},
}


@functools.partial(jax.jit, static_argnames=("config", "dtype", "remat"))
def whole_logits(params, config, tokens, group, segment, position, dtype=jnp.float32, remat="none"):
    hidden, _ = decoder.forward(
        params, config, tokens, position, attention=packed_attention,
        state=Packing(group, segment), dtype=dtype, remat=remat,
    )  # fmt: skip
    return jnp.einsum("btd,vd->btv", hidden, decoder.head_matrix(params).astype(dtype),
                      preferred_element_type=jnp.float32)  # fmt: skip


def one_sequence(params, config, tokens, **settings):
    tokens = jnp.asarray(tokens)[None]
    ones = jnp.ones_like(tokens)
    position = jnp.arange(tokens.shape[1])[None]
    return whole_logits(params, config, tokens, ones, ones, position, **settings)[0]


def random_params(config, seed=0):
    shapes = decoder.abstract_params(config)
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(shapes))))
    return jax.tree.map(lambda s: 0.3 * jax.random.normal(next(keys), s.shape), shapes)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_equal_the_plain_decoder(changes, tiny, reference_logits):
    config = dataclasses.replace(tiny.config, **changes)
    params = random_params(config)
    tokens = np.random.default_rng(0).integers(0, 61, 23)
    got = one_sequence(params, config, tokens)
    want = jax.jit(lambda p, t: reference_logits(p, config, t))(params, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4 * float(np.abs(want).max()))


def test_rotation_knows_relative_positions_only():
    config = ModelConfig(8, 1, 8, 1, 1, 16, 8)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def turn(x, position):
        return decoder.rotate(x, decoder.rotation(config, jnp.array([[position]])))[0, 0, 0]

    near = float(turn(q, 5) @ turn(k, 2))
    assert near == pytest.approx(float(turn(q, 105) @ turn(k, 102)), abs=1e-4)
    assert near != pytest.approx(float(turn(q, 2) @ turn(k, 5)), abs=1e-3)
    np.testing.assert_allclose(turn(q, 0), q[0, 0, 0], rtol=1e-6)
    assert float(jnp.linalg.norm(turn(q, 77))) == pytest.approx(float(jnp.linalg.norm(q)), rel=1e-5)


def test_scaled_rope_stretches_slow_turns_and_leaves_fast_ones():
    plain = ModelConfig(8, 1, 8, 1, 1, 128, 8, rope_theta=500_000.0)
    scaling = RopeScaling(8.0, 1.0, 4.0, 8192)
    stretched = decoder.rope_frequencies(dataclasses.replace(plain, rope_scaling=scaling))
    ratio = stretched / decoder.rope_frequencies(plain)
    wavelength = 2 * np.pi / decoder.rope_frequencies(plain)
    np.testing.assert_allclose(ratio[wavelength < 8192 / 4], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[wavelength > 8192], 1 / 8, rtol=1e-6)
    between = ratio[(wavelength > 8192 / 4) & (wavelength < 8192)]
    assert len(between) and ((between > 1 / 8) & (between < 1)).all()
    assert (np.diff(ratio) <= 1e-7).all()


def test_a_packed_row_equals_its_sequences_alone(tiny):
    rng = np.random.default_rng(0)
    # two groups: a prompt of 5 with completions of 4 and 6 behind it, a prompt of 3 with one of 7
    prompts = [rng.integers(0, 61, n) for n in (5, 3)]
    answers = [[rng.integers(0, 61, n) for n in (4, 6)], [rng.integers(0, 61, 7)]]
    tokens, position, group, segment, spans = [], [], [], [], []
    for g, (prompt, mine) in enumerate(zip(prompts, answers, strict=True), start=1):
        for s, part in enumerate([prompt, *mine]):
            start = len(tokens)
            offset = 0 if s == 0 else len(prompt)
            tokens += list(part)
            position += list(range(offset, offset + len(part)))
            group += [g] * len(part)
            segment += [s] * len(part)
            if s:
                spans.append((np.concatenate([prompt, part]), len(prompt), start, len(part)))
    pad = 40 - len(tokens)
    row = [np.pad(np.array(x), (0, pad))[None] for x in (tokens, group, segment, position)]
    packed = whole_logits(tiny.params, tiny.config, *row)[0]
    assert jnp.isfinite(packed).all()
    for sequence, prompt_length, start, length in spans:
        alone = one_sequence(tiny.params, tiny.config, sequence)
        np.testing.assert_allclose(
            packed[start : start + length], alone[prompt_length:], atol=2e-5, rtol=1e-4
        )


def test_the_tpu_kernel_attends_as_plain_attention_does():
    group = jnp.asarray(np.repeat([1, 2, 3, 0], [100, 50, 80, 26]))[None]
    packing = Packing(group, jnp.ones_like(group))
    keys = jax.random.split(jax.random.key(0), 4)
    q, upstream = (jax.random.normal(k, (1, 256, 4, 128)) for k in keys[:2])
    k, v = (jax.random.normal(k, (1, 256, 2, 128)) for k in keys[2:])
    upstream = jnp.where(group[..., None, None] > 0, upstream, 0)  # padding is never used

    def run(attention, **settings):
        out, pull = jax.vjp(lambda *x: attention(*x, packing, **settings)[0], q, k, v)
        return jnp.where(group[..., None, None] > 0, out, 0), *pull(upstream)

    got, want = run(splash_attention, interpret=True), run(packed_attention)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_prefill_and_decode_equal_the_whole_forward(tiny):
    config, params = tiny.config, tiny.params
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 61, (3, 17))
    prompt = 6
    layers = decoder.unstack_layers(params, dtype=jnp.float32)
    head = decoder.head_matrix(params)
    hidden, (k, v) = decoder.forward(
        params, config, jnp.asarray(tokens[:, :prompt]),
        jnp.broadcast_to(jnp.arange(prompt), (3, prompt)), attention=prompt_attention, state=None,
    )  # fmt: skip
    empty = kv_cache.empty_dense(config, jnp.dtype(jnp.float32), 3, 17, block=4)
    caches = kv_cache.store_dense(empty, list(zip(k, v, strict=True)), jnp.arange(3))
    assert kv_cache.capacity(caches) == 20 and caches[0].key.shape == (3, 2, 5, 8, 4)
    step = jax.jit(
        lambda token, position, caches: kv_cache.forward_token(
            layers, config, token, position, jnp.ones(3, bool), kv_cache.turns(config, caches),
            caches,
        )
    )  # fmt: skip
    want = np.stack([one_sequence(params, config, t) for t in tokens])
    np.testing.assert_allclose(hidden @ head.T, want[:, :prompt], rtol=1e-5, atol=1e-5)
    for t in range(prompt, 17):
        h, caches = step(jnp.asarray(tokens[:, t]), jnp.full(3, t), caches)
        np.testing.assert_allclose(h @ head.T, want[:, t], rtol=1e-5, atol=1e-5)


def test_an_idle_slot_writes_nothing_into_its_cache():
    cache = LayerCache(jnp.ones((2, 1, 2, 4, 3)), jnp.ones((2, 1, 6, 4)))
    q = jnp.full((2, 1, 1, 4), 3.0)
    _, new = cached_attention(q, q, q, (cache, jnp.array([2, 6])))
    assert (new.key[1] == 1).all() and (new.value[1] == 1).all()
    assert (new.key[0, :, 0, :, 2] == 3).all() and int((new.key[0] == 3).sum()) == 4


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qwen2.5-math-1.5b", 1_543_714_304),
        ("qwen2.5-math-7b", 7_615_616_512),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen3-0.6b", 596_049_920),
        ("olmo-2-1b", 1_484_916_736),
    ],
)
def test_published_policies_have_their_published_number_of_parameters(name, count):
    assert ARCHITECTURES[name].num_params() == count


def test_bfloat16_computes_near_float32_on_float32_weights(tiny):
    tokens = np.random.default_rng(0).integers(0, 61, 12)
    exact = one_sequence(tiny.params, tiny.config, tokens)
    rough = one_sequence(tiny.params, tiny.config, tokens, dtype=jnp.bfloat16)
    error = float(jnp.abs(rough - exact).max())
    assert 1e-4 < error < 0.1 * float(jnp.abs(exact).max())  # not 0: it really is bfloat16
    assert {x.dtype for x in jax.tree.leaves(tiny.params)} == {jnp.dtype("float32")}


def test_what_the_backward_pass_recomputes_does_not_change_the_gradient(tiny):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 9)))
    ones, position = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(9), (2, 9))

    def gradient(remat):
        def loss(params):
            logits = whole_logits(params, tiny.config, tokens, ones, ones, position, remat=remat)
            return jnp.sum(jax.nn.log_softmax(logits)[..., 3])

        return jax.jit(jax.grad(loss))(tiny.params)

    want = gradient("none")
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.1
    for remat in REMAT_POLICIES:
        for x, y in zip(*map(jax.tree.leaves, (gradient(remat), want)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
