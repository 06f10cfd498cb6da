"""Evaluates expression trees: exactly while rational, else by mpmath at the present precision.

Work is counted in units, not seconds, so TooBig depends on the answer alone and not on the load of
the machine.  No simplification is ever attempted: that is what hangs a computer algebra system.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import mpmath

from dars_jax.rewards.equality.trees import Node, Unreadable

Value: TypeAlias = Fraction | mpmath.mpf | mpmath.mpc
mp = mpmath.mp

_FUEL = 40_000  # units of work for one comparison, at most about half a CPU-second
_EXACT_BITS = 1 << 17  # rationals above this size (39,000 digits) become floating point
_MAX_LOG = 10**7  # |log2| of the largest value handled, about 10^3,000,000
_MAX_TERMS = 2_000  # of a sum or a product


class TooBig(ValueError):
    """Over the work budget, or a value too large to hold."""


class Undefined(ValueError):
    """No finite value here: 1/0, log 0, or a sum up to a variable that is no integer here."""


def is_real(value: Value) -> bool:
    """Whether the imaginary part is nothing but rounding."""
    return not isinstance(value, mpmath.mpc) or abs(value.imag) <= abs(value) * mp.mpf(10) ** -50


def as_float(value: Value) -> Value:
    """Floating point at the present precision."""
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


class Machine:
    """Evaluates trees; one machine is one budget."""

    def __init__(self) -> None:
        self.fuel = _FUEL
        self.in_trig = False

    def spend(self, units: int) -> None:
        self.fuel -= units
        if self.fuel < 0:
            raise TooBig("work budget spent")

    def value(self, tree: Node, point: dict[str, Value]) -> Value:
        self.spend(1)
        if isinstance(tree, Fraction):
            return tree
        if isinstance(tree, str):
            return self.named(tree, point)
        operator, *operands = tree
        if operator in ("series", "integral"):
            return getattr(self, operator)(*operands, point)
        if operator == "fn":
            outside, self.in_trig = self.in_trig, operands[0] in _TRIGONOMETRIC
            values = [self.value(operand, point) for operand in operands[1:]]
            self.in_trig = outside
            return self.function(operands[0], values)
        if operator not in _OPERATORS:
            raise Undefined(f"no value for {operator}")
        values = [self.value(operand, point) for operand in operands]
        return self.bounded(_OPERATORS[operator](self, *values))

    def bounded(self, value: Value) -> Value:
        """Refuses the infinite and the huge, and moves long rationals to floating point."""
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            self.spend(bits >> 6)
            return value if bits <= _EXACT_BITS else as_float(value)
        if not mp.isfinite(value):
            raise Undefined("not finite")
        if value and abs(mp.mag(value)) > _MAX_LOG:
            raise TooBig("magnitude")
        return value

    def named(self, name: str, point: dict[str, Value]) -> Value:
        if name in point:  # first: the index of a sum may be called i
            return point[name]
        if name == "e":
            return +mp.e
        if name == r"\pi":
            return +mp.pi
        if name == "i":
            return mp.mpc(0, 1)
        if name == r"\infty":
            raise Undefined("infinity")
        raise Undefined(f"no value for {name}")

    def add(self, *values: Value) -> Value:
        if all(isinstance(value, Fraction) for value in values):
            return sum(values, Fraction(0))
        return mp.fsum(as_float(value) for value in values)

    def negate(self, value: Value) -> Value:
        return -value

    def multiply(self, a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a * b
        return as_float(a) * as_float(b)

    def divide(self, a: Value, b: Value) -> Value:
        if b == 0:
            raise Undefined("division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a / b
        return as_float(a) / as_float(b)

    def power(self, base: Value, exponent: Value) -> Value:
        self.spend(5)
        if base == 0:
            if not is_real(exponent) or mp.re(as_float(exponent)) <= 0:
                if exponent == 0:
                    return Fraction(1)
                raise Undefined("zero to a negative power")
            return Fraction(0)
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            if exponent.denominator == 1:
                bits = max(abs(base.numerator), base.denominator).bit_length() * abs(exponent)
                if abs(base) == 1 or bits <= _EXACT_BITS:
                    return base ** int(exponent)
            elif exponent.denominator == 2 and base > 0:
                return self.power(self.root(base, Fraction(2)), exponent * 2)
        if abs(as_float(exponent) * mp.log(as_float(base))) > _MAX_LOG:
            raise TooBig("power")
        return mp.power(as_float(base), as_float(exponent))

    def root(self, value: Value, degree: Value) -> Value:
        self.spend(5)
        if degree == 0:
            raise Undefined("zeroth root")
        if isinstance(value, Fraction) and value >= 0 and degree == 2:
            over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if over * over == value.numerator and under * under == value.denominator:
                return Fraction(over, under)
            return mp.sqrt(as_float(value))
        if is_real(value) and isinstance(degree, Fraction) and degree.denominator == 1:
            if degree % 2 and mp.re(as_float(value)) < 0:  # the real cube root of -8 is -2
                return -self.root(-value, degree)
            if isinstance(value, Fraction) and value > 0 and 0 < degree < 1000:
                guess = Fraction(int(mp.nint(mp.root(as_float(value), int(degree)))))
                if self.power(guess, degree) == value:
                    return guess
        return self.power(value, self.divide(Fraction(1), degree))

    def factorial(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise Undefined("factorial of a negative integer")
            if value <= 3000:
                self.spend(int(value))
                return Fraction(math.factorial(int(value)))
        if abs(as_float(value)) > 10**5:
            raise TooBig("factorial")
        self.spend(50)
        return mp.gamma(as_float(value) + 1)

    def double_factorial(self, value: Value) -> Value:
        """n (n - 2) (n - 4) ..., down to 1 or 2."""
        if not isinstance(value, Fraction) or value.denominator != 1 or value < -1:
            raise Undefined("double factorial of what is no natural number")
        if value > 3000:
            raise TooBig("double factorial")
        self.spend(int(abs(value)))
        return Fraction(math.prod(range(int(value), 0, -2)))

    def binomial(self, n: Value, k: Value) -> Value:
        integers = all(isinstance(v, Fraction) and v.denominator == 1 for v in (n, k))
        if integers and 0 <= n <= 10**5 and k >= 0:
            self.spend(int(min(k, abs(n - k))))
            return Fraction(math.comb(int(n), int(k)))
        if abs(as_float(n)) > 10**5 or abs(as_float(k)) > 10**5:
            raise TooBig("binomial")
        self.spend(100)
        return mp.binomial(as_float(n), as_float(k))

    def modulo(self, a: Value, b: Value) -> Value:
        if not (isinstance(a, Fraction) and isinstance(b, Fraction)) or b == 0:
            raise Undefined("modulo of what is not rational")
        return a % b

    def absolute(self, value: Value) -> Value:
        return abs(value)

    def floor(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            return Fraction(math.floor(value))
        if not is_real(value) or mp.mag(value) > 120:
            raise TooBig("floor beyond the precision")
        value = mp.re(value)
        nearest = mp.nint(value)
        near = abs(value - nearest) < mp.mpf(10) ** (15 - mp.dps)
        return Fraction(int(nearest if near else mp.floor(value)))

    def ceiling(self, value: Value) -> Value:
        return -self.floor(-value)

    def degrees(self, value: Value) -> Value:
        """The sign is dropped, 60° is 60, except inside a function: sin 30° is 1/2."""
        return self.divide(self.multiply(value, +mp.pi), Fraction(180)) if self.in_trig else value

    def function(self, name: str, values: list[Value]) -> Value:
        self.spend(5)
        if name in _REDUCTIONS:
            return self.reduce(name, values)
        x = as_float(values[0])
        if name in (r"\ln", r"\log") and x == 0:
            raise Undefined("log 0")
        if abs(x) > 10**6 and name not in (r"\ln", r"\log"):
            raise TooBig("argument of a function")
        try:
            if name == r"\log":  # without a base, 10: as math-verify reads it
                base = as_float(values[1]) if len(values) > 1 else mp.mpf(10)
                return self.bounded(self.divide(mp.log(x), mp.log(base)))
            return self.bounded(_FUNCTIONS[name](x))
        except (ValueError, ZeroDivisionError, KeyError) as error:
            raise error if isinstance(error, TooBig) else Undefined(name) from None

    def reduce(self, name: str, values: list[Value]) -> Value:
        if not all(isinstance(v, Fraction) for v in values):
            if name not in (r"\min", r"\max") or not all(is_real(v) for v in values):
                raise Undefined(name)
            return {r"\min": min, r"\max": max}[name](mp.re(as_float(v)) for v in values)
        if name in (r"\gcd", r"\lcm"):
            if any(v.denominator != 1 for v in values):
                raise Undefined(name)
            return Fraction(_REDUCTIONS[name](*(int(v) for v in values)))
        return _REDUCTIONS[name](*values) if len(values) > 1 else values[0]

    def series(
        self, kind: str, index: str, low: Node, high: Node, body: Node, point: dict
    ) -> Value:
        if r"\infty" in (high, *(high if isinstance(high, tuple) else ())):
            raise Unreadable("an infinite series")
        first, last = self.value(low, point), self.value(high, point)
        if not all(isinstance(v, Fraction) and v.denominator == 1 for v in (first, last)):
            raise Undefined("ends that are not integers")
        if last - first > _MAX_TERMS:
            raise TooBig("terms of a series")
        total: Value = Fraction(0 if kind == r"\sum" else 1)
        for k in range(int(first), int(last) + 1):
            term = self.value(body, {**point, index: Fraction(k)})
            total = self.add(total, term) if kind == r"\sum" else self.multiply(total, term)
            total = self.bounded(total)
        return total

    def integral(self, name: str, low: Node, high: Node, body: Node, point: dict) -> Value:
        if r"\infty" in (high, low, *(low if isinstance(low, tuple) else ())):
            raise Unreadable("an improper integral")
        ends = [as_float(self.value(low, point)), as_float(self.value(high, point))]
        value, error = mp.quad(
            lambda x: as_float(self.value(body, {**point, name: x})), ends, error=True
        )
        if error > mp.mpf(10) ** (-mp.dps + 15):
            raise Undefined("integral did not converge")
        return self.bounded(value)


_OPERATORS: dict[str, Callable[..., Value]] = {
    "+": Machine.add,
    "neg": Machine.negate,
    "*": Machine.multiply,
    "/": Machine.divide,
    "^": Machine.power,
    "root": Machine.root,
    "!": Machine.factorial,
    "!!": Machine.double_factorial,
    "binom": Machine.binomial,
    "mod": Machine.modulo,
    "abs": Machine.absolute,
    "deg": Machine.degrees,
    r"\lfloor": Machine.floor,
    r"\lceil": Machine.ceiling,
}
_TRIGONOMETRIC = frozenset([r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"])
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    r"\min": min,
    r"\max": max,
    r"\gcd": math.gcd,
    r"\lcm": math.lcm,
}
_FUNCTIONS = {
    r"\sin": mp.sin,
    r"\cos": mp.cos,
    r"\tan": mp.tan,
    r"\cot": mp.cot,
    r"\sec": mp.sec,
    r"\csc": mp.csc,
    r"\arcsin": mp.asin,
    r"\arccos": mp.acos,
    r"\arctan": mp.atan,
    r"\arccot": mp.acot,
    r"\sinh": mp.sinh,
    r"\cosh": mp.cosh,
    r"\tanh": mp.tanh,
    r"\ln": mp.log,
    r"\exp": mp.exp,
}
