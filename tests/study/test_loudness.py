"""How loud a prompt is, against sums over all groups that can be drawn."""

import math

import numpy as np
import pytest

from dars_jax.study import loudness
from dars_jax.study.loudness import Method


def chance(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.95])
def test_the_pull_of_grpo_is_its_expectation(p):
    want = sum(chance(k, 8, p) * 2 * 8 * (k / 8) * (1 - k / 8) for k in range(9))
    (got,) = loudness.pull(np.array([p]), Method("GRPO"))
    assert got == pytest.approx(want)


def test_the_pull_of_dars_counts_the_top_ups_and_what_they_bring():
    p, total = 0.1, {0: 32, 1: 32, 2: 16, 3: 11}  # N = 8, "hw", at most 32
    want = 0.0
    for k in range(9):
        n = total.get(k, 8)
        for j in range(n - 8 + 1):
            a = (k + j) / n
            want += chance(k, 8, p) * chance(j, n - 8, p) * 2 * n * a * (1 - a)
    (got,) = loudness.pull(np.array([p]), Method("DARS-HW", "hw"))
    assert got == pytest.approx(want)


def test_a_problem_that_is_never_or_always_solved_is_silent():
    for method in loudness.METHODS:
        assert loudness.pull(np.array([0.0, 1.0]), method).tolist() == [0, 0]


def test_hard_prompts_get_a_larger_share_from_dars_and_maxrl_than_from_grpo():
    accuracy = np.repeat([0.05, 0.2, 0.5, 0.8], 20)

    def share_of_hard(title):
        (method,) = [m for m in loudness.METHODS if m.title == title]
        (_, _, share), *_ = loudness.by_accuracy(accuracy, method)
        return share

    grpo = share_of_hard("GRPO")
    deeper = share_of_hard("GRPO, n 32")  # depth alone changes nothing
    assert deeper == pytest.approx(grpo, rel=0.01)
    for title in ("DARS-ET", "DARS-HW", "MaxRL", "half and half"):
        assert share_of_hard(title) > 1.3 * grpo
