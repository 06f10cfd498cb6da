"""Has math-verify's reader and sympy compute the constants that evaluator.py cannot.

Runs in workers only.

math-verify's own time-outs are off: they use SIGALRM, which fails outside the main thread and
stops no C loop.  The worker's CPU limit stands instead.  Only its LaTeX reader is used; the other
one, for plain text, evaluates Python.
"""

import contextlib
import logging
import re
from fractions import Fraction

import mpmath
import sympy
import sympy.physics.units  # sympy imports it late, when it simplifies
from math_verify import LatexExtractionConfig, parse
from sympy.core.sympify import converter as sympy_converters

from dars_jax.rewards.equality import generated_code

_CONFIG = (LatexExtractionConfig(),)
_CALCULUS = re.compile(r"\\(?:int|lim|sum|prod|det)(?![A-Za-z])|vmatrix")
_DIGITS = 100

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


def equivalent(gold: str, answer: str) -> bool:
    """Whether both are constants, one of them by calculus, that sympy finds to be one number.

    This is for integrals, limits, infinite series and determinants without free letters, in closed
    form.  Everything else that math-verify would accept is refused: it compares with an absolute
    tolerance, drops bases, units and words, and finds equal what it cannot read.
    """
    if not any(_CALCULUS.search(text) for text in (gold, answer)):
        return False
    values = []
    for text in (gold, answer):
        value = _constant(text)
        if value is None:
            return False
        values.append(value)
    first, second = (mpmath.mpmathify(sympy.N(value, _DIGITS)) for value in values)
    return abs(first - second) <= mpmath.mpf(10) ** (10 - _DIGITS) * max(abs(first), abs(second))


def _constant(text: str) -> sympy.Expr | None:
    """The closed form of a text; None if sympy knows none, or if letters are left."""
    found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Expr) or found[0].free_symbols:
        return None
    value = found[0].doit()
    open_forms = (sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product, sympy.Derivative)
    if value.has(*open_forms, sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        return None
    return value


def warm_up() -> None:
    """Touches what math-verify imports late, before imports are forbidden."""
    generated_code.build()
    for gold, answer in (
        (r"\lim_{x\to 0}\frac{\sin x}{x}", r"\int_0^1 2x\,dx"),
        (r"\sum_{k=1}^{\infty} 2^{-k}", r"\prod_{k=1}^{3} k"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2.0"),
        (r"\int_0^\infty e^{-x^2}dx", r"\int_1^\infty \frac{1}{x^2} dx"),
        (r"\int_0^1 \frac{\ln x}{1+x} dx", r"\sqrt{1+\sqrt{2}} + \log_2 7 - 3! + \binom{5}{2}"),
        (r"\lim_{n\to\infty}(1+1/n)^n", r"\sum_{n=1}^\infty \frac{1}{n^2}"),
    ):
        with contextlib.suppress(Exception):
            equivalent(gold, answer)
            equivalent(gold, gold)
