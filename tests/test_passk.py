"""Pass@k against exact combinatorics, and the interval of its mean."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax.passk import bootstrap_interval, pass_at_k


def exact(n, c, k):
    return float(1 - Fraction(comb(n - c, k), comb(n, k)))


@pytest.mark.parametrize("n", [1, 2, 7, 32, 61])
def test_every_count_of_small_n_equals_the_combinatorial_formula(n):
    for k in range(1, n + 1):
        c = np.arange(n + 1)
        got = pass_at_k(np.full(n + 1, n), c, k)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, [exact(n, int(i), k) for i in c], rtol=1e-13, atol=0)


@given(st.data())
def test_ten_thousand_answers_lose_no_digits(data):
    n = data.draw(st.integers(1, 10_000))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    np.testing.assert_allclose(pass_at_k([n], [c], k), [exact(n, c, k)], rtol=1e-11, atol=0)


def test_one_right_of_ten_thousand_is_one_in_ten_thousand():
    # 1 - (1 - 1e-4) by plain subtraction would keep 12 digits only
    np.testing.assert_allclose(pass_at_k([10_000], [1], 1), [1e-4], rtol=1e-14)


def test_k_equal_to_n_asks_whether_any_answer_is_right():
    assert pass_at_k([5, 5, 5], [0, 1, 5], 5).tolist() == [0.0, 1.0, 1.0]


def test_k_of_one_is_the_mean():
    np.testing.assert_allclose(pass_at_k([128] * 3, [0, 32, 128], 1), [0, 0.25, 1], rtol=1e-14)


def test_problems_may_have_different_numbers_of_answers():
    n, c = np.array([4, 8, 100, 8]), np.array([1, 3, 0, 3])
    got = pass_at_k(n, c, 4)
    np.testing.assert_allclose(got, [exact(*map(int, x), 4) for x in zip(n, c, strict=True)])
    assert got[1] == got[3]


def test_it_estimates_without_bias():
    rng = np.random.default_rng(0)
    p, n, k = 0.1, 16, 8
    got = pass_at_k(np.full(40_000, n), rng.binomial(n, p, 40_000), k).mean()
    assert got == pytest.approx(1 - (1 - p) ** k, abs=0.005)
    assert abs(got - (1 - (1 - p) ** n)) > 0.2  # "any of all n" is another number


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        ([8], [9], 1, "num_correct"),
        ([8], [-1], 1, "num_correct"),
        ([8], [1], 0, "k=0"),
        ([8, 4], [1, 1], 5, "k=5.*4"),
    ],
)
def test_what_cannot_be_is_refused(n, c, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(np.array(n), np.array(c), k)


def test_no_problems_give_no_values():
    assert pass_at_k(np.zeros(0, int), np.zeros(0, int), 3).shape == (0,)


def test_the_interval_contains_the_mean_and_is_the_same_every_time():
    values = np.random.default_rng(0).random(100)
    low, high = bootstrap_interval(values, seed=3)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, seed=3)
    assert (low, high) != bootstrap_interval(values, seed=4)
    # 1.96 standard errors, the textbook's
    want = 2 * 1.96 * values.std() / 10
    assert high - low == pytest.approx(want, rel=0.1)
    narrow = bootstrap_interval(values, seed=3, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_values_that_agree_leave_no_doubt():
    assert bootstrap_interval(np.full(9, 0.25), seed=0) == (0.25, 0.25)
