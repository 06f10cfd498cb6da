"""Decides whether two expression trees have the same value, within a fixed amount of work.

Rational arithmetic is exact.  Irrational values are computed by mpmath to 60 and to 120 digits: a
difference that is only rounding shrinks with the precision, a real one, however tiny, does not.
(An absolute tolerance would call 1/2^99 and 1/2^98 equal.)  Expressions with variables are equal
when they agree at rational sample points, as in Schwartz-Zippel.
"""

import zlib
from fractions import Fraction

import mpmath

from dars_jax.rewards.equality import pieces
from dars_jax.rewards.equality.evaluator import Machine, Undefined, Value, as_float, close, is_real
from dars_jax.rewards.equality.expression import Node, variables

mp = mpmath.mp

_DIGITS = (60, 120)


def same_value(left: Node, right: Node) -> bool:
    """Whether both trees denote the same number or the same function."""
    left, right = pieces.named(left, right, same_value)
    names = sorted(variables(left) | variables(right))
    machine = Machine()
    if not names:
        return _same_at(machine, left, right, {}, real_only=False)
    return _same_function(machine, left, right, names)


@mp.workdps(_DIGITS[0])
def proportional(left: Node, right: Node, *, positive: bool) -> bool:
    """Whether left = c * right for one constant c (> 0 when positive): equations, inequalities."""
    left, right = pieces.named(left, right, same_value)
    names = sorted(variables(left) | variables(right))
    machine = Machine()
    seen: Value | None = None
    for point in _generic_points(names):
        try:
            first, second = machine.value(left, point), machine.value(right, point)
        except Undefined:
            continue
        if first == 0 or second == 0:
            if first != second:
                return False
            continue
        ratio = machine.divide(first, second)
        if positive and not (is_real(ratio) and mp.re(as_float(ratio)) > 0):
            return False
        if seen is not None and not close(seen, ratio):
            return False
        seen = ratio
    return seen is not None


@mp.workdps(_DIGITS[0])
def constant(tree: Node) -> Value:
    """The value of a tree without variables; Undefined if it has some."""
    if variables(tree):
        raise Undefined("has variables")
    return Machine().value(tree, {})


def _generic_points(names: list[str]) -> list[dict[str, Value]]:
    """Eight rational points; a name has the same values in every expression."""
    points = []
    for k in range(8):
        draw = {name: zlib.crc32(f"{name}/{k}".encode()) for name in names}
        # Positive, negative and mixed points: sqrt(x^2) is not x.
        sign = {name: -1 if (k >= 4 and (k == 4 or bits & 1)) else 1 for name, bits in draw.items()}
        points.append({n: sign[n] * Fraction(bits % 997 + 101, 499) for n, bits in draw.items()})
    return points


def _integer_points(names: list[str]) -> list[dict[str, Value]]:
    """Small positive integers, for (-1)^n, n! and sums up to n."""
    return [
        {name: Fraction(k + 2 + zlib.crc32(name.encode()) % 3 * (k % 2)) for name in names}
        for k in range(6)
    ]


def _same_function(machine: Machine, left: Node, right: Node, names: list[str]) -> bool:
    """Equal wherever both are real and defined; integers or complex values if never."""
    for points, real_only, needed in (
        (_generic_points(names), True, 2),
        (_integer_points(names), True, 3),
        (_generic_points(names), False, 3),
    ):
        compared = 0
        for point in points:
            try:
                if not _same_at(machine, left, right, point, real_only):
                    return False
                compared += 1
            except Undefined:
                continue
        if compared >= needed:
            return True
    return False


def _same_at(machine: Machine, left: Node, right: Node, point: dict, real_only: bool) -> bool:
    gap: list[Value] = []
    for digits in _DIGITS:
        with mp.workdps(digits):
            a, b = machine.value(left, point), machine.value(right, point)
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return a == b
            a, b = as_float(a), as_float(b)
            if real_only and not (is_real(a) and is_real(b)):
                raise Undefined("not real here")
            if a == b:
                return True
            gap.append(abs(a - b))
            size = max(abs(a), abs(b))
            if gap[0] > size * 1e-20 and size > 1e-10:
                return False
    # Rounding noise has shrunk by about 60 digits; a true difference has stayed.
    return gap[1] <= size * mp.mpf(10) ** -100 or gap[1] <= gap[0] * mp.mpf(10) ** -40
