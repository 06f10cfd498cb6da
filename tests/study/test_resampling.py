"""Intervals over seeds and problems, against what theory says."""

import math

import numpy as np
import pytest

from dars_jax.study.resampling import estimate


def test_over_problems_alone_it_is_the_standard_error():
    values = np.random.default_rng(0).normal(0.3, 0.2, (1, 400))
    e = estimate(values)
    half = 1.96 * values.std() / 20
    assert e.mean == pytest.approx(values.mean())
    assert (e.mean - e.low, e.high - e.mean) == pytest.approx((half, half), rel=0.1)


def test_over_seeds_alone_it_is_students():
    e = estimate(np.array([[0.1], [0.3]]))
    # 12.706 standard errors of 0.1, with one degree of freedom
    assert (e.mean, e.high - e.mean) == pytest.approx((0.2, 1.2706), rel=1e-3)
    values = np.random.default_rng(1).normal(size=(5, 1))
    half = 2.776 * values.std(ddof=1) / math.sqrt(5)
    assert estimate(values).low == pytest.approx(values.mean() - half, rel=1e-3)


def test_over_both_the_variances_of_seeds_and_problems_add_up():
    rng = np.random.default_rng(2)
    seeds, problems = rng.normal(0, 0.3, (20, 1)), rng.normal(0, 1.0, (1, 300))
    e = estimate(seeds + problems)
    variance = seeds.var() / 20 + problems.var() / 300
    assert (e.high - e.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.1)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(3), 0
    for i in range(80):
        e = estimate(rng.normal(0, 1, (12, 1)) + rng.normal(0, 2, (1, 60)), seed=i)
        inside += e.low <= 0 <= e.high
    assert 66 <= inside <= 79  # 76 of 80, less what few seeds hide


def test_a_single_number_is_certain_of_nothing():
    e = estimate(np.array([[0.4]]))
    assert (e.mean, e.low, e.high) == (0.4, -math.inf, math.inf)
    assert "no interval" in str(e)
