"""The grader judged by cases that a program makes, a few of each kind."""

import pytest

from dars_jax.drills import rewrites
from dars_jax.rewards import MathGrader


@pytest.fixture(scope="module")
def grader():
    with MathGrader() as grader:
        yield grader


def test_every_rewrite_counts(grader):
    found = rewrites.cases(rewrites.GOLDS, rewrites.REWRITES, 600, seed=1)
    assert len(found) == 600
    assert {name for name, *_ in found} == rewrites.REWRITES.keys()
    assert rewrites.judge(grader, found, expected=True) == []


def test_no_mutant_counts_but_those_of_equal_value(grader):
    found = rewrites.cases(rewrites.GOLDS, rewrites.MUTANTS, 600, seed=1)
    assert {name for name, *_ in found} == rewrites.MUTANTS.keys()
    equal = [("digit", r"\binom{7}{3}", r"\binom{7}{4}")]
    assert [c for c in rewrites.judge(grader, found, expected=False) if c not in equal] == []


def test_the_same_seed_makes_the_same_cases():
    made = [rewrites.cases(rewrites.GOLDS, rewrites.MUTANTS, 50, seed=s) for s in (3, 3, 4)]
    assert made[0] == made[1] != made[2]
