"""The clipped surrogate, the KL estimate, log-probs and entropy of tokens, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax import objective


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # good and already likelier: no more than 1.2
        (0.5, 2.0, -1.0, False),  # good but less likely: pulled back with full force
        (1.5, -2.0, 3.0, False),
        (0.5, -2.0, 1.6, True),
        (1.1, -1.0, 1.1, False),
    ],
)
def test_the_surrogate_is_the_pessimistic_one(ratio, advantage, loss, clipped):
    old = -1.3

    def total(logprob):
        return objective.clipped_surrogate(logprob, jnp.float32(old), jnp.float32(advantage))

    logprob = jnp.float32(old + np.log(ratio))
    value, is_clipped = total(logprob)
    assert value == pytest.approx(loss, rel=1e-5)
    assert bool(is_clipped) == clipped
    slope = jax.grad(lambda x: total(x)[0])(logprob)
    assert slope == pytest.approx(0.0 if clipped else -advantage * ratio, rel=1e-5)


def test_the_two_sides_of_the_clip_are_separate():
    value, _ = objective.clipped_surrogate(
        jnp.log(jnp.array([2.0, 0.1])), jnp.zeros(2), jnp.array([1.0, -1.0]),
        clip_low=0.3, clip_high=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(value, [-1.5, 0.7], rtol=1e-6)


def test_on_policy_the_gradient_is_minus_advantage_times_weight():
    rng = np.random.default_rng(0)
    logprob, advantage, weight = (jnp.asarray(rng.normal(size=50), jnp.float32) for _ in range(3))

    def loss(x):
        return jnp.sum(weight * objective.clipped_surrogate(x, logprob, advantage)[0])

    np.testing.assert_allclose(jax.grad(loss)(logprob), -advantage * weight, rtol=1e-6)


def test_the_kl_estimate_is_unbiased_and_never_negative():
    rng = np.random.default_rng(0)
    p, q = (np.exp(x) / np.exp(x).sum() for x in rng.normal(size=(2, 20)))
    each = objective.kl_penalty(jnp.log(p), jnp.log(q))
    assert (np.asarray(each) >= 0).all()
    assert float(np.sum(p * np.asarray(each))) == pytest.approx(np.sum(p * np.log(p / q)), rel=1e-5)
    assert objective.kl_penalty(jnp.float32(-2.0), jnp.float32(-2.0)) == 0


@pytest.mark.parametrize("vocabulary", [1, 2, 61, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprob_and_entropy_equal_float64(vocabulary, temperature):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(size=(4, 7, vocabulary)) * 8 + 100
    targets = rng.integers(0, vocabulary, (4, 7))
    logprob, entropy = objective.logprob_and_entropy(
        jnp.asarray(logits, jnp.float32), jnp.asarray(targets), temperature=temperature
    )
    x = logits.astype(np.float32).astype(np.float64) / temperature
    x = (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )
    want = np.take_along_axis(x, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(logprob, want, atol=3e-5)
    np.testing.assert_allclose(entropy, -(np.exp(x) * x).sum(-1), atol=1e-4)


def test_impossible_tokens_give_no_nan():
    # the usual mask is the most negative float; 0 * -inf must not reach the entropy
    logits = jnp.array([[0.0, 0.0, -3e38]])
    logprob, entropy = objective.logprob_and_entropy(logits, jnp.array([0]))
    np.testing.assert_allclose([logprob[0], entropy[0]], [-np.log(2), np.log(2)], rtol=1e-6)


def test_the_gradient_of_logprob_is_onehot_minus_softmax():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 9)), jnp.float32)
    targets = jnp.array([0, 3, 8, 2, 2])
    got = jax.grad(lambda x: objective.logprob_and_entropy(x, targets)[0].sum())(logits)
    want = np.eye(9)[targets] - np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("logprob", "advantage", "loss", "clipped"),
    [(100.0, 1.0, -1.2, True), (1e4, 1.0, -1.2, True), (1e4, 0.0, 0.0, False),
     (-1e4, -1.0, 0.8, True), (-1e4, 1.0, 0.0, False)],
)  # fmt: skip
def test_a_ratio_beyond_float32_harms_only_where_it_counts(logprob, advantage, loss, clipped):
    surrogate = lambda x: objective.clipped_surrogate(x, 0.0, jnp.float32(advantage))  # noqa: E731
    value, is_clipped = surrogate(jnp.float32(logprob))
    assert value == pytest.approx(loss) and bool(is_clipped) == clipped
    assert jax.grad(lambda x: surrogate(x)[0])(jnp.float32(logprob)) == 0
