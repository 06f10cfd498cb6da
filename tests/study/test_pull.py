"""How loud a prompt is, against sums over all groups that can be drawn."""

import math

import numpy as np
import pytest

from dars_jax.study import pull
from dars_jax.study.pull import Method

TOTAL = 128


def chance(k, n, correct):
    """Of k right ones among n answers drawn from TOTAL."""
    return math.comb(correct, k) * math.comb(TOTAL - correct, n - k) / math.comb(TOTAL, n)


@pytest.mark.parametrize("correct", [3, 20, 64, 120])
def test_the_pull_of_grpo_is_its_expectation(correct):
    want = sum(chance(k, 8, correct) * 2 * 8 * (k / 8) * (1 - k / 8) for k in range(9))
    loud, sampled = pull.pull(np.full(50, correct), TOTAL, Method("GRPO"))
    assert loud.mean() == pytest.approx(want, rel=0.03)
    assert (sampled == 8).all()


def test_top_ups_are_drawn_as_the_allocator_says():
    correct = 10
    total = {0: 32, 1: 32, 2: 16, 3: 11}  # N = 8, "hw", at most 32
    want = sum(chance(k, 8, correct) * total.get(k, 8) for k in range(9))
    _, sampled = pull.pull(np.full(50, correct), TOTAL, Method("DARS-HW", "hw"))
    assert sampled.mean() == pytest.approx(want, rel=0.02)


def test_a_problem_that_is_never_or_always_solved_is_silent():
    for method in pull.METHODS:
        loud, _ = pull.pull(np.array([0, TOTAL]), TOTAL, method)
        assert loud.tolist() == [0, 0]


def test_hard_prompts_get_a_larger_share_from_dars_and_maxrl_than_from_grpo():
    correct = np.repeat([6, 26, 64, 102], 20)

    def share_of_hard(title):
        (method,) = [m for m in pull.METHODS if m.title == title]
        (_, _, share), *_ = pull.by_accuracy(correct, TOTAL, method)
        return share

    grpo = share_of_hard("GRPO")
    assert share_of_hard("GRPO, n 32") == pytest.approx(
        grpo, rel=0.1
    )  # depth alone changes nothing
    for title in ("DARS-ET", "DARS-HW", "MaxRL"):
        assert share_of_hard(title) > 1.3 * grpo
