"""Grading: right, fast, and impossible to hang or to hack.

A response and a gold come in; a reward in [0, 1] and a verdict go out.  The way of an answer is
math_grader.py: extract, fast path, guard, worker; or function_grader.py for a reward of the user's
own, sum_grader.py for several.  What counts as equal is in equality/.  Importing this package loads
neither JAX nor sympy; untrusted answers are read in worker processes only.
"""

from dars_jax.rewards.extract import last_box
from dars_jax.rewards.function_grader import FunctionGrader
from dars_jax.rewards.grader import (
    OUTSIDE,
    Context,
    Gold,
    Grade,
    Grader,
    GradingError,
    Verdict,
)
from dars_jax.rewards.math_grader import MathGrader, MathVerifyGrader
from dars_jax.rewards.sum_grader import SumGrader, load_grader

__all__ = [
    "OUTSIDE",
    "Context",
    "FunctionGrader",
    "Gold",
    "Grade",
    "Grader",
    "GradingError",
    "MathGrader",
    "MathVerifyGrader",
    "SumGrader",
    "Verdict",
    "last_box",
    "load_grader",
]
