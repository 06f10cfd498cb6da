"""What training has changed: every problem is compared with itself."""

import dataclasses

import numpy as np
import pytest

from dars_jax.evaluation.scores import Answers, gain, report


def answers(correct, n=4):
    """n answers to each problem, `correct` of them right."""
    right = np.concatenate([np.arange(n) < c for c in correct])
    problem = np.repeat(np.arange(len(correct)), n)
    return Answers(len(correct), problem, right.astype(float), right, None, None)


def test_a_gain_computed_by_hand():
    # Pass@2 of k right ones of 4: 0, 1/2, 5/6, 1, 1
    got = gain(answers([0, 1, 2, 4]), answers([1, 1, 3, 4]), 2, seed=0)
    assert got.before == pytest.approx((0 + 1 / 2 + 5 / 6 + 1) / 4)
    assert got.after == pytest.approx((1 / 2 + 1 / 2 + 1 + 1) / 4)
    assert got.interval[0] <= got.after - got.before <= got.interval[1]


def test_the_same_gain_everywhere_is_certain_however_much_problems_differ():
    # comparing two intervals instead would leave all of the spread between problems
    got = gain(answers([0, 1, 2, 3] * 5), answers([1, 2, 3, 4] * 5), 1, seed=0)
    assert got.interval == pytest.approx((0.25, 0.25))


def test_pass_at_1_counts_right_answers_and_their_mean_is_called_reward():
    right = answers([0, 2, 4])
    figures = report(right, seed=0)
    assert figures.avg == pytest.approx(figures.pass_at[1]) == pytest.approx(0.5)
    assert figures.summary() == "Pass@1 0.500  Pass@2 0.611  Pass@4 0.667"
    paid = dataclasses.replace(right, reward=np.where(right.correct, 0.9, 0.3))
    assert (
        report(paid, seed=0).summary() == "reward 0.600  Pass@1 0.500  Pass@2 0.611  Pass@4 0.667"
    )


def test_no_change_is_no_gain():
    got = gain(answers([0, 3, 2]), answers([0, 3, 2]), 4, seed=0)
    assert got.interval == (0, 0) and got.before == got.after


def test_other_problems_are_refused():
    with pytest.raises(ValueError, match="3 problems before, 2 after"):
        gain(answers([0, 1, 2]), answers([0, 1]), 1, seed=0)


def test_a_problem_without_answers_has_no_figures():
    with pytest.raises(ValueError, match="1 of 2 problems have no answer"):
        report(Answers(2, np.zeros(3, int), np.ones(3), np.ones(3, bool), None, None), 0)
