"""Sampling one token per slot: the right distribution, the right tokens, the right log-probs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dars_jax.engine.sampler import sample

ODD_SIZES = [1, 2, 61, 127, 128, 129, 1000, 16_385]
run = jax.jit(sample, static_argnames="filters")


def draw(logits, uniform, *, temperature=1.0, top_p=1.0, top_k=0, filters=False):
    """One token for each row of logits [S,V] and uniform number."""
    s = len(logits)
    full = functools.partial(np.full, s)
    token, logprob = run(
        jnp.asarray(logits, jnp.float32), jnp.asarray(uniform, jnp.float32),
        full(temperature, np.float32), full(top_p, np.float32), full(top_k, np.int32),
        filters=filters,
    )  # fmt: skip
    return np.asarray(token), np.asarray(logprob)


def softmax(x):
    e = np.exp(np.float64(x) - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def chance_of(counts, expected):
    return stats.chisquare(counts * expected.sum() / counts.sum(), expected).pvalue


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("vocabulary", [61, 300])
def test_draws_follow_the_softmax(vocabulary, temperature):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(size=vocabulary) * 2
    n = 40_000
    counts = np.zeros(vocabulary)
    for _ in range(4):
        token, _ = draw(np.tile(logits, (n // 4, 1)), rng.random(n // 4), temperature=temperature)
        counts += np.bincount(token, minlength=vocabulary)
    want = n * softmax(logits / temperature)
    common = want > 5
    pooled = lambda x: np.append(x[common], x[~common].sum() + 1e-9)  # noqa: E731
    expected = pooled(want)
    assert chance_of(pooled(counts), expected) > 1e-3
    # and the test would notice a temperature that is off by a seventh
    other = pooled(n * softmax(logits / (temperature * 1.15)))
    assert chance_of(pooled(counts), other) < 1e-6


@pytest.mark.parametrize("vocabulary", ODD_SIZES)
def test_it_inverts_the_cumulative_distribution(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(size=(64, vocabulary)) * 3
    uniform = rng.random(64)
    uniform[:2] = 0, np.nextafter(np.float32(1), np.float32(0))
    token, logprob = draw(logits, uniform)
    p = softmax(np.float32(logits))
    upper = np.cumsum(p, -1)[np.arange(64), token]
    lower = upper - p[np.arange(64), token]
    assert ((lower - 1e-5 <= uniform) & (uniform <= upper + 1e-5)).all()
    assert (token < vocabulary).all()
    np.testing.assert_allclose(logprob, np.log(p[np.arange(64), token]), atol=2e-5)


@pytest.mark.parametrize("vocabulary", ODD_SIZES)
def test_temperature_zero_takes_the_likeliest(vocabulary):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, vocabulary))
    token, logprob = draw(logits, rng.random(16), temperature=0.0, filters=True)
    assert (token == logits.argmax(-1)).all()
    # at temperature 1, which is what the trainer would see
    np.testing.assert_allclose(logprob, np.log(softmax(logits).max(-1)), atol=1e-5)


def test_slots_keep_their_own_parameters():
    logits = np.log(np.tile([0.5, 0.3, 0.2], (4, 1))).astype(np.float32)
    uniform = np.full(4, 0.99, np.float32)
    temperature = np.array([1, 0, 1, 1], np.float32)
    top_p = np.array([1, 1, 0.6, 1], np.float32)
    top_k = np.array([0, 0, 0, 1], np.int32)
    token, _ = run(logits, uniform, temperature, top_p, top_k, filters=True)
    assert token.tolist() == [2, 0, 1, 0]


def test_impossible_tokens_are_never_drawn():
    rng = np.random.default_rng(0)
    logits = np.full((2000, 300), -1e9)
    live = [0, 5, 127, 128, 290]
    logits[:, live] = rng.normal(size=5) * 4
    uniform = rng.random(2000)
    uniform[:3] = 0, 1e-38, np.nextafter(np.float32(1), np.float32(0))
    token, _ = draw(logits, uniform)
    assert set(token) <= set(live)


def test_impossible_tokens_are_never_drawn_where_whole_chunks_are_empty():
    vocabulary, count = 65_536, 20
    for seed in range(6):
        rng = np.random.default_rng(seed)
        live = np.sort(rng.choice(vocabulary, count, replace=False))
        logits = np.full(vocabulary, -1e9, np.float32)
        logits[live] = rng.normal(size=count)
        # uniform numbers at the float32 neighbours of every step of the cumulative distribution
        edges = np.cumsum(softmax(logits)[live]).astype(np.float32)
        near = edges[:, None] + np.arange(-4, 5, dtype=np.float32) * np.spacing(edges)[:, None]
        near = np.where(near < 1, near, 0).ravel()
        token, _ = draw(np.tile(logits, (len(near), 1)), near)
        assert set(token) <= set(live)


def kept_by_sorting(p, top_p, top_k):
    """Tokens that survive: the k likeliest, and the smallest set of at least top_p; ties stay."""
    order = np.sort(p)[::-1]
    floor = order[min(top_k or len(p), len(p)) - 1]
    if top_p < 1:
        reached = np.searchsorted(np.cumsum(order), top_p * order.sum() * (1 - 1e-9))
        floor = max(floor, order[min(reached, len(p) - 1)])
    return p >= floor


@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 0), (0.5, 0), (1.0, 5), (1.0, 1), (0.7, 12),
                                              (0.01, 0), (1.0, 10_000), (0.999, 40)])  # fmt: skip
@pytest.mark.parametrize("vocabulary", [61, 300])
def test_filters_keep_what_a_sort_keeps(vocabulary, top_p, top_k):
    rng = np.random.default_rng(vocabulary)
    logits = (rng.normal(size=vocabulary) * 2).astype(np.float32)
    p = softmax(logits)
    keep = kept_by_sorting(p, top_p, top_k)
    uniform = (np.arange(8000) + 0.5) / 8000
    token, logprob = draw(np.tile(logits, (8000, 1)), uniform, top_p=top_p, top_k=top_k,
                          filters=True)  # fmt: skip
    share = np.bincount(token, minlength=vocabulary) / 8000
    assert not share[~keep].any()
    want = np.where(keep, p, 0) / p[keep].sum()
    np.testing.assert_allclose(share, want, atol=1 / 8000 + 1e-6)
    # the log-prob is that of the whole distribution, as in the trainer's forward
    np.testing.assert_allclose(logprob, np.log(p[token]), atol=2e-5)


def test_equals_at_the_edge_stay_in():
    logits = np.log(np.tile([0.2, 0.4, 0.2, 0.2], (100, 1)))
    token, _ = draw(logits, np.arange(100) / 100, top_k=2, filters=True)
    assert set(token) == {0, 1, 2, 3}
