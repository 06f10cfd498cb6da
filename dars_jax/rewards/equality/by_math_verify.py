"""Asks math-verify about the answers that rules.py cannot read.  Runs in workers only.

math-verify's own time-outs are off: they use SIGALRM, which fails outside the main thread and
stops no C loop.  The worker's CPU limit stands instead.  Only its LaTeX reader is used; the other
one, for plain text, evaluates Python.
"""

import contextlib
import logging
import re
from collections.abc import Callable
from fractions import Fraction

import mpmath
import sympy
import sympy.physics.units  # sympy imports it late, when it simplifies
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.sympify import converter as sympy_converters
from sympy.polys.monomials import MonomialOps

_CONFIG = (LatexExtractionConfig(),)
_DIGITS = 50
_DOLLAR = re.compile(r"(?<!\\)\$")

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def _number_or_name(text: str) -> sympy.Expr:
    """Exact value of a number's text, or a symbol; sympy would evaluate the text as Python."""
    if text.isidentifier():
        return sympy.Symbol(text)
    value = Fraction(text)
    return sympy.Rational(value.numerator, value.denominator)


# latex2sympy turns digits into numbers with sympy.Number(text), which ends in eval().  With this
# converter no string ever gets there; what is neither raises, and the answer stays unread.
sympy_converters[str] = _number_or_name


def _no_code(*args: object) -> None:
    raise ValueError("code made from an expression is not run on answers")


# Numerical summation writes Python from the summand and compiles it.
sympy.core.evalf.lambdify = _no_code


def _built_monomial_code(self: MonomialOps, code: str, name: str) -> Callable:
    """Polynomials in n variables compile code that depends on n alone: built in warm_up()."""
    if (code, name) not in _monomial_code:
        _monomial_code[code, name] = _build_monomial_code(self, code, name)
    return _monomial_code[code, name]


_monomial_code: dict[tuple[str, str], Callable] = {}
_build_monomial_code = MonomialOps._build
MonomialOps._build = _built_monomial_code


def equivalent(gold: str, answer: str) -> bool:
    """math-verify's verdict, taken back when the values differ in their first 50 digits."""
    read = []
    for text in (gold, answer):
        # Two formulas in one text would be two answers, either of which counts.
        text = _DOLLAR.sub(" ", text)
        found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
        if not found:
            return False
        read.append(found)
    if not verify(*read, float_rounding=40, numeric_precision=_DIGITS, timeout_seconds=None):
        return False
    # Its comparison has an absolute tolerance: 1/2^99 equals 1/2^98.
    return not _differ(read[0][0], read[1][0])


def _differ(gold: object, answer: object) -> bool:
    values = []
    for item in (gold, answer):
        if not isinstance(item, sympy.Expr) or item.free_symbols:
            return False
        with contextlib.suppress(TypeError, ValueError, ArithmeticError):
            values.append(mpmath.mpmathify(sympy.N(item, _DIGITS)))
    if len(values) < 2:
        return False
    return abs(values[0] - values[1]) > 1e-30 * max(map(abs, values))


def warm_up() -> None:
    """Touches what math-verify imports late, before imports are forbidden."""
    for num_variables in range(1, 7):
        operations = MonomialOps(num_variables)
        for name in ("mul", "pow", "mulpow", "ldiv", "div", "lcm", "gcd"):
            getattr(operations, name)()
    for gold, answer in (
        (r"\lim_{x\to 0}\frac{\sin x}{x}", r"\int_0^1 2x\,dx"),
        (r"\sum_{k=1}^{\infty} 2^{-k}", r"\prod_{k=1}^{3} k"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2.0"),
        (r"A^{-1}\begin{pmatrix}1&x\\3&4\end{pmatrix}", r"\{x : x > 3\}"),
        (r"[1,2)\cup\{3\}", r"1 \le x < 2 \text{ or } x = 3"),
        (r"x^2+\frac{d}{dx}\sin x", r"\sqrt{1+\sqrt{x^4}} + \log_2 7 - 3!"),
        (r"a \equiv 3 \pmod 5", r"\binom{5}{2} + |y| + 28\%"),
    ):
        with contextlib.suppress(Exception):
            equivalent(gold, answer)
            equivalent(gold, gold)
