"""Closed forms against every sequence of outcomes, and against a population that samples."""

import itertools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from dars_jax.allocator import Asks, allocate, chances, expected, top_up


def by_enumeration(p, num_pre, n_max, schedule, num_stages):
    """(rollouts, useful, rescued) of a prompt, over all 2^n_max sequences, in Fractions."""
    totals = [Fraction(0)] * 3
    for outcome in itertools.product((0, 1), repeat=n_max):
        chance = Fraction(1)
        for r in outcome:
            chance *= p if r else 1 - p
        n = num_pre
        for _ in range(num_stages - 1):
            n += _wanted(sum(outcome[:n]), n, schedule, n_max)
        k = sum(outcome[:n])
        what = (n, 0 < k < n, not any(outcome[:num_pre]) and k > 0)
        totals = [t + chance * w for t, w in zip(totals, what, strict=True)]
    return totals


def _wanted(k, n, schedule, n_max, memory={}):  # noqa: B006
    key = k, n, schedule, n_max
    if key not in memory:
        more = top_up(np.array([k]), n, schedule=schedule, n_max=n_max, round_size=2)
        memory[key] = int(more[0])
    return memory[key]


@pytest.mark.parametrize("num_stages", [2, 4])
@pytest.mark.parametrize("schedule", ["et", "hw", "hw_half", "ada_positive", "ada_balanced"])
def test_expected_rollouts_are_those_of_every_sequence_of_outcomes(schedule, num_stages):
    def rule(k, n, *, n_max):
        return top_up(k, n, schedule=schedule, n_max=n_max, round_size=2)

    p = [Fraction(1, 5), Fraction(1, 2), Fraction(9, 10)]
    got = expected.final_groups(
        Asks(rule), np.array(p, float), np.ones(3) / 3, num_pre=3, n_max=9,
        budgets=(None,) * (num_stages - 1),
    )  # fmt: skip
    want = np.array([by_enumeration(x, 3, 9, schedule, num_stages) for x in p], float)
    np.testing.assert_allclose(
        np.stack([got.rollouts, got.useful, got.rescued], 1), want, atol=1e-12
    )


def test_dars_hw_by_hand():
    """N = 2: nobody right, (1-p)^2, asks for 2 more; half or more right asks for nothing."""
    p = np.array([0.1, 0.6])
    got = expected.final_groups("hw", p, np.ones(2) / 2, num_pre=2, n_max=16)
    np.testing.assert_allclose(got.rollouts, 2 + 2 * (1 - p) ** 2)
    np.testing.assert_allclose(got.rescued, (1 - p) ** 2 * (1 - (1 - p) ** 2))


@pytest.mark.parametrize("name", ["uniform", "hw", "ada_balanced", "gvm", "knapsack", "hora"])
def test_within_a_budget_they_are_those_of_a_large_population(name):
    rng = np.random.default_rng(0)
    p, budgets, size = np.array([0.03, 0.2, 0.5, 0.9]), (3.0, 2.5), 20_000
    got = expected.final_groups(name, p, np.ones(4) / 4, num_pre=4, n_max=16, budgets=budgets)
    kind = rng.permutation(np.repeat(np.arange(4), size))
    skill = p[kind]
    n = np.full(len(skill), 4)
    k = pre = rng.binomial(4, skill)
    for budget in budgets:
        more = np.asarray(allocate(name, k, n, n_max=16, budget=int(budget * len(skill))))
        n, k = n + more, k + rng.binomial(more, skill)
    by_kind = lambda x: np.bincount(kind, x) / size  # noqa: E731
    np.testing.assert_allclose(got.chance.sum(0), 1)
    # where a threshold falls between two kinds of counts depends on the draw a little
    np.testing.assert_allclose(got.rollouts, by_kind(n), atol=0.2)
    np.testing.assert_allclose(got.useful, by_kind((k > 0) & (k < n)), atol=0.015)
    np.testing.assert_allclose(got.rescued, by_kind((pre == 0) & (k > 0)), atol=0.015)


def test_the_chance_that_all_miss_is_a_beta_integral():
    x = np.linspace(0, 1, 200_001)
    density = x**2 * (1 - x) ** 6  # 2 of 8 right, uniform prior
    want = (density * (1 - x) ** 5).sum() / density.sum()
    np.testing.assert_allclose(chances.chance_all_miss(np.array([2]), 8, 5)[0], want, rtol=1e-5)
    assert chances.chance_all_miss(np.array([2]), 8, 0)[0] == 1


def test_the_posterior_mean_moves_from_the_prior_to_the_frequency():
    assert chances.accuracy(jnp.array([0, 4]), 8).tolist() == [0, 0.5]
    np.testing.assert_allclose(chances.accuracy(np.array([0, 4, 0]), np.array([8, 8, 0]), (1, 1)),
                               [0.1, 0.5, 0.5])  # fmt: skip
    assert chances.accuracy(jnp.array([0]), 0).tolist() == [0]


def test_a_group_is_useful_unless_all_agree():
    p = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(
        chances.chance_useful(p, 3), [0, 1 - 0.25**3 - 0.75**3, 0], rtol=1e-6
    )
    assert chances.chance_useful(0.5, 0) == 0
