"""Python code that sympy generates while it works: built beforehand, or refused.

Importing this changes sympy for the whole process.  Runs in workers only.
"""

from collections.abc import Callable

import sympy
from sympy.polys.monomials import MonomialOps


def _refused(*args: object) -> None:
    raise ValueError("code made from an expression is not run on answers")


# Numerical summation writes Python from the summand and compiles it.
sympy.core.evalf.lambdify = _refused


def _built(self: MonomialOps, code: str, name: str) -> Callable:
    """Polynomials in n variables compile code that depends on n alone."""
    if (code, name) not in _monomial_code:
        _monomial_code[code, name] = _build(self, code, name)
    return _monomial_code[code, name]


_monomial_code: dict[tuple[str, str], Callable] = {}
_build = MonomialOps._build
MonomialOps._build = _built


def build() -> None:
    """Builds the code of polynomials in up to six variables."""
    for num_variables in range(1, 7):
        operations = MonomialOps(num_variables)
        for name in ("mul", "pow", "mulpow", "ldiv", "div", "lcm", "gcd"):
            getattr(operations, name)()
