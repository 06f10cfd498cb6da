"""One grader for a test file."""

import pytest

from dars_jax.rewards import MathGrader


@pytest.fixture(scope="module")
def grader():
    with MathGrader() as grader:
        yield grader
