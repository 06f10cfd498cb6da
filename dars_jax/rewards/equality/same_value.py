"""Decides whether two expression trees have the same value, within a fixed amount of work.

Four classes, each with its own proof; what is in none of them is not equal.
  constants               digits beyond the distance at which two different ones can lie
  functions of letters    identities in finite fields (identities.py)
  floors of an integer    agreement on one period times the degree
  sums up to a letter     the difference of two neighbours is the summand, and the first one agrees
"""

import math
from fractions import Fraction

import mpmath

from dars_jax.rewards.equality import identities
from dars_jax.rewards.equality.evaluator import (
    Machine,
    TooBig,
    Undefined,
    Value,
    as_float,
    is_real,
)
from dars_jax.rewards.equality.trees import Node, ordered, substitute, variables

mp = mpmath.mp

_DIGITS = 60  # at which most differences show
_MAX_BITS = 20_000
_MAX_POINTS = 3_000
_INTEGER_LETTERS = frozenset("nmkjlNMK")  # a floor of one of these is a floor of an integer


def same_value(left: Node, right: Node) -> bool:
    """Whether both trees are shown to be the same number or the same function."""
    names = variables(left) | variables(right)
    if not names:
        return _same_constant(left, right)
    return (
        ordered(left) == ordered(right)
        or identities.identical(left, right)
        or _same_on_integers(left, right, names)
        or _is_sum_of(left, right)
        or _is_sum_of(right, left)
    )


def proportional(left: Node, right: Node, *, positive: bool) -> bool:
    """Whether left = c * right for one constant c (> 0 when positive): equations, inequalities."""
    return identities.proportional(left, right) and (not positive or _same_sign(left, right))


def same_solution(left: Node, right: Node) -> bool:
    """Whether left = 0 and right = 0 have the same solutions, as x y = 1 and y = 1/x have.

    Both are to be linear in some letter, A y + B = 0, one of them a polynomial and the other as
    well or solved.  Then y = -B/A says the same where A is not zero; and where it is, the
    polynomial has no solution either if A or B is a constant other than 0.  x y = x^2 is not
    y = x: A = x and B = -x^2 vanish together.
    """
    return any(_same_root(left, right, name) for name in variables(left) & variables(right))


def constant(tree: Node) -> Value:
    """The value of a tree without variables; Undefined if it has some."""
    if variables(tree):
        raise Undefined("has variables")
    with mp.workdps(_DIGITS):
        return Machine().value(tree, {})


# Constants.


def _same_constant(left: Node, right: Node) -> bool:
    """Equal when they agree beyond the digits at which different numbers of their size can."""
    with mp.workdps(_DIGITS):
        a, b = Machine().value(left, {}), Machine().value(right, {})
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a == b
        a, b = as_float(a), as_float(b)
        size = max(abs(a), abs(b))
        if abs(a - b) > size * mp.mpf(10) ** (20 - _DIGITS):
            return False
    bits = _separation(("+", left, ("neg", right)))
    if bits > _MAX_BITS:
        raise TooBig("digits needed")
    with mp.workprec(bits + 80):
        a, b = (as_float(Machine().value(tree, {})) for tree in (left, right))
        return abs(a - b) <= mp.ldexp(max(1, abs(a)), -bits - 8)


def _separation(tree: Node) -> int:
    """Bits b such that a value other than 0 is at least 2^-b.

    For numbers made of rationals by + - * / and roots it is a theorem: E is zero or at least
    1 / (u^(D-1) l), with u, l and D as here (Burnikel, Funke, Mehlhorn, Schirra, Schmitt 2001).
    Other functions are counted as square roots of numbers 32 bits longer than their argument, a
    form of Richardson's uniformity conjecture: no pair of short expressions that violates it is
    known, and none can be built from an answer of 512 characters by adding small terms, because
    the bits of those are counted.
    """
    upper, lower, degree = _sizes(tree, {})
    return math.ceil(upper * max(1, degree - 1) + lower) + 64


def _sizes(tree: Node, radicals: dict[Node, None]) -> tuple[float, float, int]:
    """log2 of u and of l, and the degree D of all radicals in a tree."""
    upper, lower = _bits(tree, radicals)
    return upper, lower, 2 ** min(len(radicals), 40)


def _bits(tree: Node, radicals: dict[Node, None]) -> tuple[float, float]:
    if isinstance(tree, Fraction):
        return (max(0, abs(tree.numerator).bit_length()), tree.denominator.bit_length() - 1)
    if isinstance(tree, str):
        return 3, 0
    operator, *operands = tree
    parts = [_bits(operand, radicals) for operand in operands]
    if operator == "+":
        lower = sum(part[1] for part in parts)
        return max(up + lower - low for up, low in parts) + math.log2(len(parts)), lower
    if operator in ("neg", "abs"):
        return parts[0]
    if operator == "*":
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    if operator == "/":
        return parts[0][0] + parts[1][1], parts[0][1] + parts[1][0]
    exponent = _exponent(operator, operands)
    if exponent is None:
        radicals[tree] = None
        return 32 + 2 * sum(map(sum, parts)), 0
    up, low = parts[0] if exponent >= 0 else parts[0][::-1]
    up, low = abs(exponent.numerator) * up, abs(exponent.numerator) * low
    degree = exponent.denominator
    if degree == 1:
        return up, low
    for extra in range(math.ceil(math.log2(degree))):  # one entry for each factor 2 of D
        radicals[("degree", tree, Fraction(extra))] = None
    if up >= low:
        return (up + (degree - 1) * low) / degree, low
    return up, ((degree - 1) * up + low) / degree


def _exponent(operator: str, operands: list[Node]) -> Fraction | None:
    """The rational exponent of a power or a root."""
    if operator not in ("^", "root") or variables(operands[1]):
        return None
    exponent = Machine().value(operands[1], {})
    if not isinstance(exponent, Fraction) or exponent == 0:
        return None
    return exponent if operator == "^" else 1 / exponent


def _same_sign(left: Node, right: Node) -> bool:
    """The sign of left / right, a constant, from any real point where both can be computed."""
    names = sorted(variables(left) | variables(right))
    for k in range(12):
        point: dict[str, Value] = {
            name: Fraction((-1) ** (k >> (i + 2)) * (7 * i + 11 * k + 5), 13)
            for i, name in enumerate(names)
        }
        try:
            with mp.workdps(_DIGITS):
                a, b = Machine().value(left, point), Machine().value(right, point)
        except Undefined:
            continue
        if is_real(a) and is_real(b) and a != 0 and b != 0:
            return (mp.re(as_float(a)) > 0) == (mp.re(as_float(b)) > 0)
    return False


# Equations.


def _same_root(left: Node, right: Node, name: str) -> bool:
    roots = []
    polynomials = [_is_polynomial(tree) for tree in (left, right)]
    if not any(polynomials):
        return False
    for tree, polynomial in zip((left, right), polynomials, strict=True):
        zero, one = (substitute(tree, {name: Fraction(k)}) for k in range(2))
        slope = ("+", one, ("neg", zero))
        if not identities.identical(tree, ("+", zero, ("*", name, slope))):  # |x| is not linear
            return False
        solved = identities.constant(slope)
        if not solved and not (polynomial and identities.constant(zero)):
            return False
        roots.append(("/", zero, slope))
    return identities.identical(*roots)


def _is_polynomial(tree: Node) -> bool:
    """Whether nothing is divided by letters: y/x = 1 has no solution with x = 0, and y = x has."""
    if not isinstance(tree, tuple):
        return True
    operator, *operands = tree
    if operator in ("/", "^") and variables(operands[1]):
        return False
    if operator == "^":
        power = operands[1]
        whole = isinstance(power, Fraction) and power.denominator == 1 and power >= 0
        return whole and _is_polynomial(operands[0])
    return operator in ("+", "neg", "*", "/") and all(map(_is_polynomial, operands))


# Floors of integers.


def _same_on_integers(left: Node, right: Node, names: set[str]) -> bool:
    """Quasi-polynomials are equal if they agree often enough in every residue class."""
    if len(names) != 1 or not names <= _INTEGER_LETTERS:
        return False
    name = next(iter(names))
    shapes = [_period_and_degree(tree, name) for tree in (left, right)]
    if None in shapes:
        return False
    (period, degree), (other, other_degree) = shapes  # type: ignore[misc]
    points = math.lcm(period, other) * (max(degree, other_degree) + 1)
    if points > _MAX_POINTS:
        return False
    machine = Machine()
    return all(
        machine.value(left, {name: Fraction(n)}) == machine.value(right, {name: Fraction(n)})
        for n in range(points)
    )


def _period_and_degree(tree: Node, name: str) -> tuple[int, int] | None:
    """The period of the coefficients and the degree, or None for other functions."""
    if not isinstance(tree, tuple):
        return 1, int(tree == name)
    operator, *operands = tree
    if operator in (r"\lfloor", r"\lceil"):
        slope = _slope(operands[0], name)
        return None if slope is None else (slope.denominator, 1)
    if operator == "mod":
        slope, modulus = _slope(operands[0], name), operands[1]
        whole = isinstance(modulus, Fraction) and modulus.denominator == 1 and modulus > 0
        return (int(modulus * slope.denominator), 0) if slope is not None and whole else None
    if operator == "^" and operands[0] == ("neg", Fraction(1)):
        slope = _slope(operands[1], name)
        return (2, 0) if slope is not None and slope.denominator == 1 else None
    shapes = [_period_and_degree(operand, name) for operand in operands]
    if None in shapes:
        return None
    period = math.lcm(*(shape[0] for shape in shapes if shape))
    degrees = [shape[1] for shape in shapes if shape]
    if operator in ("+", "neg"):
        return period, max(degrees)
    if operator == "*":
        return period, sum(degrees)
    if operator == "/" and isinstance(operands[1], Fraction):
        return shapes[0]
    if operator == "^" and isinstance(operands[1], Fraction) and operands[1].denominator == 1:
        return (period, degrees[0] * int(operands[1])) if 0 <= operands[1] <= 20 else None
    return None


def _slope(tree: Node, name: str) -> Fraction | None:
    """a of a n + b with rational a and b and nothing else in it."""
    nodes = [node for node in _nodes(tree) if isinstance(node, tuple)]
    if any(node[0] not in ("+", "neg", "*", "/") for node in nodes):
        return None
    values = [Machine().value(tree, {name: Fraction(k)}) for k in range(3)]
    if not all(isinstance(value, Fraction) for value in values):
        return None
    zero, one, two = values
    return one - zero if two - one == one - zero else None


def _nodes(tree: Node) -> list[Node]:
    if not isinstance(tree, tuple):
        return [tree]
    return [tree, *(node for operand in tree[1:] for node in _nodes(operand))]


# Sums up to a letter.


def _is_sum_of(total: Node, closed: Node) -> bool:
    """Whether closed(n) - closed(n - 1) is the last summand, and the sums up to the first agree."""
    if not (isinstance(total, tuple) and total[:2] == ("series", r"\sum")):
        return False
    _, _, index, low, high, body = total
    if not (isinstance(high, str) and isinstance(low, Fraction)) or high in variables(body):
        return False
    before = substitute(closed, {high: ("+", high, Fraction(-1))})
    step = ("+", closed, ("neg", before))
    first = substitute(closed, {high: low})
    return same_value(step, substitute(body, {index: high})) and same_value(
        first, substitute(body, {index: low})
    )
