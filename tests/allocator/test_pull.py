"""Pull: published methods as a target and a split, and the noise that each split leaves."""

from fractions import Fraction

import numpy as np
import pytest

from dars_jax import objective
from dars_jax.allocator import pull, top_up

N = 16
K = np.arange(1, N)  # accuracies strictly between 0 and 1
A = K / N


@pytest.mark.parametrize("sampling", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("target", pull.TARGETS)
def test_every_split_reaches_the_target(target, sampling):
    rollouts, weight = pull.split(target, A, N, sampling=sampling)
    want = N * np.asarray(pull.TARGETS[target](A.astype(np.float32)))
    np.testing.assert_allclose(pull.pull(A, rollouts, weight), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "advantage"), [("grpo", "mean"), ("grpo_std", "std"), ("maxrl", "maxrl")]
)
def test_all_weight_is_a_published_advantage(target, advantage):
    rollouts, weight = pull.split(target, A, N, sampling=0.0)
    np.testing.assert_allclose(rollouts, N)
    published = objective.cumulative_advantage(K, N, advantage=advantage)
    np.testing.assert_allclose(pull.pull(A, rollouts, weight), published, rtol=1e-5)
    plain = objective.cumulative_advantage(K, N)
    np.testing.assert_allclose(weight, published / plain, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["et", "hw"])
def test_all_rollouts_is_dars(schedule):
    rollouts, weight = pull.split(schedule, A, N, sampling=1.0)
    np.testing.assert_allclose(weight, 1)
    hard = A < 0.5
    total = N + np.asarray(top_up(K, N, schedule=schedule, n_max=1024))
    real = np.asarray(rollouts, np.float64)
    np.testing.assert_array_equal(np.ceil(real - 1e-4)[hard], total[hard])


def test_half_and_half_is_hw_half_and_reinforce_ada_est():
    hard = A < 0.5
    rollouts, weight = pull.split("hw", A, N, sampling=0.5)
    total = N + np.asarray(top_up(K, N, schedule="hw_half", n_max=1024))
    real = np.asarray(rollouts, np.float64)
    np.testing.assert_array_equal(np.ceil(real - 1e-4)[hard], total[hard])
    rollouts, weight = pull.split("maxrl", A, N, sampling=0.5)
    np.testing.assert_allclose(rollouts, N * A**-0.5, rtol=1e-5)
    np.testing.assert_allclose(weight, A**-0.5, rtol=1e-5)
    weighted = objective.cumulative_advantage(K, N, advantage="ada_est")
    np.testing.assert_allclose(weighted, pull.pull(A, N, weight), rtol=1e-5)


def test_a_target_of_ones_own_and_groups_that_cannot_pull():
    rollouts, weight = pull.split(lambda a: a, np.array([0.0, 0.5, 1.0]), 8, sampling=1.0)
    assert rollouts.tolist() == [8, 8, 8] and weight.tolist() == [0, 1, 0]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_moments_are_those_of_every_number_of_successes(n):
    p = Fraction(3, 10)
    mean = square = Fraction(0)
    for outcome in range(2**n):
        r = [(outcome >> i) & 1 for i in range(n)]
        chance = np.prod([p if x else 1 - p for x in r])
        average = Fraction(sum(r), n)
        g = sum((x - average) * (x - p) for x in r)
        mean, square = mean + chance * g, square + chance * g * g
    got = pull.gradient_moments(0.3, n, 2.0)
    np.testing.assert_allclose(got, [float(2 * mean), float(4 * (square - mean**2))], rtol=2e-5)
    summed = pull.gradient_moments_of_counts(np.array([0.3]), n, lambda m: np.full_like(m, 2.0))
    np.testing.assert_allclose(np.concatenate(summed), np.array(got), rtol=2e-5)


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_the_moments_are_those_of_a_simulated_policy(p):
    rng = np.random.default_rng(0)
    for sampling in (0.0, 0.5, 1.0):
        rollouts, weight = pull.split("maxrl", p, 8, sampling=sampling)
        n = round(float(rollouts))
        r = rng.random((200_000, n)) < p
        g = float(weight) * ((r - r.mean(1, keepdims=True)) * (r - p)).sum(1)
        mean, variance = map(float, pull.gradient_moments(p, n, weight))
        assert g.mean() == pytest.approx(mean, rel=0.01)
        assert g.var() == pytest.approx(variance, rel=0.03)
        # a weight of 1 / m, drawn with the group: G = n - c unless c = 0
        c = r.sum(1)
        mean, variance = pull.gradient_moments_of_counts(np.array([p]), n, lambda m: 1 / m)
        g = np.where(c > 0, n - c, 0)
        assert g.mean() == pytest.approx(mean[0], rel=0.01)
        assert g.var() == pytest.approx(variance[0], rel=0.03)


def test_at_one_pull_more_rollouts_are_quieter_and_a_weight_is_not():
    noise = []
    for sampling in (0.0, 0.5, 1.0):
        rollouts, weight = pull.split("hw", 0.05, 8, sampling=sampling)
        mean, variance = map(float, pull.gradient_moments(0.05, rollouts, weight))
        noise.append(variance / mean**2)
    assert noise[0] > 2 * noise[1] > 4 * noise[2]
    by_weight, plain = (np.array(pull.gradient_moments(0.05, 8, w)) for w in (7.0, 1.0))
    assert by_weight[1] / by_weight[0] ** 2 == pytest.approx(plain[1] / plain[0] ** 2, rel=1e-5)
