"""Proves that two trees with free letters are the same function, by evaluation in finite fields.

What the values mean, and why equality there is a proof, is said in finite_field.py.  Here is the
evaluation: every kind of node once, with the laws that are applied before a value becomes random.
"""

import hashlib
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from dars_jax.rewards.equality import finite_field
from dars_jax.rewards.equality.evaluator import TooBig, Undefined
from dars_jax.rewards.equality.exponentials import Exponentials
from dars_jax.rewards.equality.finite_field import Element, Field
from dars_jax.rewards.equality.trees import Node, substitute, variables

_AGREE = 3  # points where no sign is drawn: each leaves a probability of 2^-100
_AGREE_PER_PATTERN = 12  # points for each pattern of signs: a wrong one is missed with e^-12
_MAX_SIGNS = 4  # signs drawn independently; more patterns than 2^4 are not tried
_FUEL = 500_000  # field operations of one comparison, at most about half a CPU-second
_MAX_SHIFT = 300
_MAX_TERMS = 500


def identical(left: Node, right: Node) -> bool:
    """Whether both trees are shown to be the same function of their letters."""
    for agreed, (a, b, needed, _) in enumerate(_points(left, right)):
        if a != b:
            return False
        if agreed + 1 >= needed:
            return True
    return False


def proportional(left: Node, right: Node) -> bool:
    """Whether left = c * right for one constant c other than 0."""
    agreed: dict[int, int] = {}
    first: dict[int, tuple[Element, Element]] = {}
    for a, b, needed, field in _points(left, right):
        if (a == (0, 0)) != (b == (0, 0)):
            return False
        if a == (0, 0):
            continue
        seen = first.setdefault(field.p, (a, b))
        if field.multiply(a, seen[1]) != field.multiply(b, seen[0]):
            return False
        agreed[field.p] = agreed.get(field.p, 0) + 1
        if sum(agreed.values()) >= needed + len(agreed):
            return True
    return False


def constant(tree: Node) -> bool:
    """Whether a tree is the same number, other than 0, for all values of its letters."""
    return proportional(tree, Fraction(1))


def _points(left: Node, right: Node) -> Iterator[tuple[Element, Element, int, Field]]:
    """Values at random points where both sides are defined, and how many have to agree.

    The points depend on both sides and on nothing else, so that a verdict can be repeated.
    """
    text = "\0".join(sorted((repr(left), repr(right))))
    seed = hashlib.blake2b(text.encode()).digest()
    fuel = _FUEL
    tries, needed, k = 32, _AGREE, 0
    while k < tries:
        p = finite_field.PRIMES[k // 2 % len(finite_field.PRIMES)]
        model = _Model(Field(p, seed), point=k)
        k += 1
        try:
            values = model.value(left), model.value(right)
        except Undefined:
            values = None
        signs = len(model.signs)
        if signs > _MAX_SIGNS:
            return
        if signs and needed < _AGREE_PER_PATTERN << signs:
            needed = _AGREE_PER_PATTERN << signs
            tries = 4 * needed << max(0, signs - 1)
        fuel -= finite_field.FUEL - model.field.fuel
        if fuel < 0:
            raise TooBig("work budget spent")
        if values is not None:
            yield *values, needed, model.field


class _Model(Exponentials):
    """The operations by name."""

    def value(self, tree: Node) -> Element:
        self.field.spend()
        if isinstance(tree, Fraction):
            return tree.numerator * pow(tree.denominator, -1, self.field.p) % self.field.p, 0
        if isinstance(tree, str):
            return self.named(tree)
        return getattr(self, _METHODS.get(tree[0], "opaque"))(*tree)

    # Rational operations.

    def add(self, _: str, *operands: Node) -> Element:
        values = [self.value(operand) for operand in operands]
        return sum(v[0] for v in values) % self.field.p, sum(v[1] for v in values) % self.field.p

    def negate(self, _: str, operand: Node) -> Element:
        a, b = self.value(operand)
        return -a % self.field.p, -b % self.field.p

    def multiply(self, _: str, left: Node, right: Node) -> Element:
        return self.field.multiply(self.value(left), self.value(right))

    def divide(self, _: str, left: Node, right: Node) -> Element:
        return self.field.multiply(self.value(left), self.field.invert(self.value(right)))

    def degrees(self, _: str, operand: Node) -> Element:
        return self.value(operand)  # 60° is 60 outside of trigonometry

    # Signs: squares are positive.

    def absolute(self, _: str, operand: Node) -> Element:
        exact = self.rational(operand)
        if exact is not None:
            return self.value(abs(exact))
        a = self.field.real(self.value(operand))
        return self.sign(a) * a % self.field.p, 0

    def extreme(self, name: str, operands: tuple[Node, ...]) -> Element:
        """max(a, b) = (a + b + |a - b|) / 2; of three or more nothing is known."""
        values = sorted({self.field.real(self.value(operand)) for operand in operands})
        if len(values) == 1:
            return values[0], 0
        if len(values) > 2:
            return self.random(name, values)
        low, high = values
        gap = self.sign(low - high) * (low - high) * (1 if name == r"\max" else -1)
        return (low + high + gap) * pow(2, -1, self.field.p) % self.field.p, 0

    def function(self, _: str, name: str, *operands: Node) -> Element:
        if name in (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"):
            cosine, sine = self.circle(operands[0])
            parts = {r"\sin": (sine, 1), r"\cos": (cosine, 1), r"\tan": (sine, cosine),
                     r"\cot": (cosine, sine), r"\sec": (1, cosine), r"\csc": (1, sine)}  # fmt: skip
            over, under = parts[name]
            return self.field.multiply((over, 0), self.field.invert((under, 0)))
        if name in (r"\sinh", r"\cosh", r"\tanh"):
            up = self.field.real(self.exponential(operands[0]))
            down = self.field.invert((up, 0))[0]
            sinh, cosh = (up - down, 0), (up + down, 0)
            if name == r"\tanh":
                return self.field.multiply(sinh, self.field.invert(cosh))
            half = pow(2, -1, self.field.p), 0
            return self.field.multiply(sinh if name == r"\sinh" else cosh, half)
        if name == r"\exp":
            return self.exponential(operands[0])
        if name in (r"\ln", r"\log"):
            log = self.logarithm(operands[0])
            if name == r"\ln" and len(operands) == 1:
                return log
            base = operands[1] if len(operands) > 1 else Fraction(10)
            return self.field.multiply(log, self.field.invert(self.logarithm(base)))
        if name in (r"\max", r"\min"):
            return self.extreme(name, operands)
        values = [self.value(operand) for operand in operands]
        if name in (r"\gcd", r"\lcm"):
            values.sort()
        if name in (r"\arcsin", r"\arctan"):  # odd
            a = self.field.real(values[0])
            sign = 1 if a == 0 or self.field.is_positive(a) else -1
            return sign * self.field.random(name, sign * a % self.field.p) % self.field.p, 0
        return self.random(name, values)

    # Factorials, floors, and what has no laws here.

    def shift(self, tree: Node) -> int:
        """The whole part of the value at zero, which does not depend on how a tree is written."""
        origin = dict.fromkeys(variables(tree) - self.bound.keys(), Fraction(0))
        exact = self.rational(substitute(tree, origin))
        return 0 if exact is None or abs(exact) > _MAX_SHIFT else math.floor(exact)

    def factorial(self, _: str, operand: Node) -> Element:
        exact = self.rational(operand)
        if exact is not None and exact.denominator == 1 and 0 <= exact <= _MAX_SHIFT:
            return math.factorial(int(exact)) % self.field.p, 0
        shift = self.shift(operand)
        a = (self.field.real(self.value(operand)) - shift) % self.field.p
        result = self.random("!", a)
        for j in range(1, shift + 1):
            result = self.field.multiply(result, (a + j, 0))
        for j in range(-shift):
            result = self.field.multiply(result, self.field.invert((a - j, 0)))
        return result

    def binomial(self, _: str, n: Node, k: Node) -> Element:
        exact = self.rational(k)
        if exact is not None and exact.denominator == 1 and 0 <= exact <= 60:
            falling: Node = Fraction(1, math.factorial(int(exact)))
            for j in range(int(exact)):
                falling = ("*", falling, ("+", n, Fraction(-j)))
            return self.value(falling)
        rest = ("!", ("+", n, ("neg", k)))
        return self.value(("/", ("!", n), ("*", ("!", k), rest)))

    def floor(self, _: str, operand: Node) -> Element:
        exact = self.rational(operand)
        if exact is not None:
            return math.floor(exact) % self.field.p, 0
        shift = self.shift(operand)
        a = self.field.real(self.value(operand))
        return (self.field.random("floor", (a - shift) % self.field.p) + shift) % self.field.p, 0

    def ceiling(self, _: str, operand: Node) -> Element:
        return self.negate("neg", (r"\lfloor", ("neg", operand)))

    def opaque(self, operator: str, *operands: Node) -> Element:
        """A named function, a remainder: equal arguments give equal values, and nothing else."""
        key = [o if isinstance(o, str) and i == 0 and operator == "call" else self.value(o)
               for i, o in enumerate(operands)]  # fmt: skip
        # A named function is as unknown as a letter is: another one at every point.
        return self.random(operator, key, self.point if operator == "call" else None)

    def series(self, _: str, kind: str, index: str, low: Node, high: Node, body: Node) -> Element:
        ends = self.rational(low), self.rational(high)
        outside = dict(self.bound)
        try:
            if None in ends:
                key = [self.value(low), self.infinite(high)]
                self.bound[index] = f"index {len(self.bound)}"
                return self.random(kind, key, self.value(body))
            first, last = (int(end) for end in ends if end is not None and end.denominator == 1)
            if last - first > _MAX_TERMS:
                raise TooBig("terms of a series")
            total: Element = (0, 0) if kind == r"\sum" else (1, 0)
            for k in range(first, last + 1):
                self.bound[index] = Fraction(k)
                a, b = self.value(body)
                if kind == r"\sum":
                    total = (total[0] + a) % self.field.p, (total[1] + b) % self.field.p
                else:
                    total = self.field.multiply(total, (a, b))
            return total
        except ValueError as error:
            raise error if isinstance(error, TooBig) else Undefined("ends of a series") from None
        finally:
            self.bound = outside

    def infinite(self, end: Node) -> Any:
        return "infinity" if end == r"\infty" else self.value(end)

    def integral(self, _: str, name: str, low: Node, high: Node, body: Node) -> Element:
        key = [self.infinite(low), self.infinite(high)]
        outside = dict(self.bound)
        self.bound[name] = f"index {len(self.bound)}"
        try:
            return self.random("integral", key, self.value(body))
        finally:
            self.bound = outside


_METHODS = {
    "+": "add", "neg": "negate", "*": "multiply", "/": "divide", "^": "power", "root": "root",
    "!": "factorial", "binom": "binomial", "abs": "absolute", "deg": "degrees", "fn": "function",
    r"\lfloor": "floor", r"\lceil": "ceiling", "series": "series", "integral": "integral",
}  # fmt: skip
