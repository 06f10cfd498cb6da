"""Grading: right, fast, and impossible to hang or to hack.

Start with MathGrader in math_grader.py for the flow and compare.py for the rules.  Importing this
package loads neither JAX nor sympy; untrusted answers are read in worker processes only.
"""

from dars_jax.rewards.extract import last_box
from dars_jax.rewards.function_grader import FunctionGrader, load_grader
from dars_jax.rewards.grade import Gold, Grade, Grader, Verdict
from dars_jax.rewards.math_grader import MathGrader

__all__ = [
    "FunctionGrader",
    "Gold",
    "Grade",
    "Grader",
    "MathGrader",
    "Verdict",
    "last_box",
    "load_grader",
]
