"""Powers, exponentials, logarithms and angles at one point of one finite field.

What the images are is said in finite_field.py; the laws that are applied are those of powers with a
positive base, of exponentials and of logarithms where both sides are defined.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

from dars_jax.rewards.equality.evaluator import Machine, TooBig, Undefined
from dars_jax.rewards.equality.finite_field import Element, Field
from dars_jax.rewards.equality.trees import Node, substitute, variables

_FIRST_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


class Point:
    """One field and one random point: the values of names, and the signs of real values."""

    def __init__(self, field: Field, point: int) -> None:
        self.field = field
        self.point = point
        self.signs: set[int] = set()  # values whose sign has been asked for
        self.bound: dict[str, Node] = {}  # indices of sums
        self.machine = Machine()

    def value(self, tree: Node) -> Element:
        """The value of a tree, by the operations of identities.py."""
        raise NotImplementedError

    def named(self, name: str) -> Element:
        if name in self.bound:
            return self.value(self.bound[name])
        if name == "i":
            return 0, 1
        if name in ("e", r"\pi"):
            return self.field.positive(name), 0
        if name == r"\infty":
            raise Undefined("infinity")
        return self.field.random("letter", self.named_with_bound(name), self.point), 0

    def named_with_bound(self, name: str) -> str:
        """a_k inside a sum over k does not depend on what the index is called."""
        head, mark, below = name.partition("_")
        for index, value in self.bound.items():
            below = below.replace(index, str(value))
        return head + mark + below

    def rational(self, tree: Node) -> Fraction | None:
        """The exact value of a tree without letters, if it is rational."""
        if isinstance(tree, Fraction):
            return tree
        tree = substitute(tree, self.bound)
        if variables(tree):
            return None
        try:
            value = self.machine.value(tree, {})
        except Undefined:
            return None
        return value if isinstance(value, Fraction) else None

    def random(self, *key: object) -> Element:
        return self.field.random(*key), 0

    def sign(self, a: int) -> int:
        if a == 0:
            return 0
        self.signs.add(min(a, self.field.p - a))
        return 1 if self.field.is_positive(a) else -1


class Exponentials(Point):
    """Everything that has an exponent or an angle."""

    def power(self, _: str, base: Node, exponent: Node) -> Element:
        exact = self.rational(exponent)
        if exact is not None and exact.denominator == 1:
            return self.field.integer_power(self.value(base), int(exact))
        if base == "e":
            return self.exponential(exponent)
        a = self.field.real(self.value(base))
        if exact is not None:
            if max(abs(exact.numerator), exact.denominator) > 1000:
                raise TooBig("power")
            return self.rational_power(a, exact)
        real, imaginary, parity = self.exponent(exponent)
        if imaginary or a == 0:
            raise Undefined("a power that is not real")
        if self.sign(a) > 0:
            return pow(a, real % self.field.q, self.field.p), 0
        if parity is None:
            raise Undefined("a power of a negative number")
        return (-1) ** parity * pow(-a, real % self.field.q, self.field.p) % self.field.p, 0

    def rational_power(self, a: int, exponent: Fraction) -> Element:
        p, q = self.field.p, self.field.q
        if a == 0:
            if exponent < 0:
                raise Undefined("division by zero")
            return 0, 0
        n, d = exponent.numerator, exponent.denominator
        self.field.spend(16)
        if d % 2:
            return pow(a, n * pow(d, -1, p - 1), p), 0
        self.signs.add(min(a, p - a))
        if not self.field.is_positive(a):
            raise Undefined("an even root of a negative number")
        return pow(a, n * pow(d, -1, q) % q, p), 0

    def root(self, _: str, operand: Node, degree: Node) -> Element:
        exact = self.rational(degree)
        if exact is None or exact == 0:
            return self.power("^", operand, ("/", Fraction(1), degree))
        radicand = self.rational(operand)
        if radicand is not None and radicand < 0 and exact == 2:
            return self.field.multiply(
                (0, 1), self.rational_power(self.value(-radicand)[0], Fraction(1, 2))
            )
        if radicand is not None and exact.denominator == 1 and radicand > 0:
            before = set(self.signs)
            value = self.rational_power(self.value(radicand)[0], 1 / exact)
            self.signs = before  # a positive number: no sign is drawn
            return value
        if max(abs(exact.numerator), exact.denominator) > 1000:
            raise TooBig("root")
        return self.rational_power(self.field.real(self.value(operand)), 1 / exact)

    def exponential(self, exponent: Node) -> Element:
        """e^v, with e^{c ln u} = u^c and e^{iv} on the circle."""
        result: Element = (1, 0)
        for scale, term in _terms(exponent):
            factors = list(_factors(term))
            logs = [f for f in factors if isinstance(f, tuple) and f[:2] == ("fn", r"\ln")]
            others = _product([f for f in factors if f not in logs[:1]])
            if logs:
                factor = self.power("^", logs[0][2], ("*", scale, others))
            elif "i" in factors:
                rest = list(factors)
                rest.remove("i")
                factor = self.circle(("*", scale, _product(rest)))
            else:
                real, imaginary, _ = self.exponent(("*", scale, term))
                if imaginary:
                    raise Undefined("a complex exponent")
                e = self.field.positive("e")
                factor = pow(e, real % self.field.q, self.field.p), 0
            result = self.field.multiply(result, factor)
        return result

    def logarithm(self, tree: Node) -> Element:
        """ln of products, quotients and powers is taken apart, numbers into their primes."""
        self.field.spend(4)
        p = self.field.p
        if tree == "e":
            return 1, 0
        exact = self.rational(tree)
        if exact is not None:
            if exact <= 0:
                raise Undefined("the logarithm of a number that is not positive")
            return (self.log_integer(exact.numerator) - self.log_integer(exact.denominator)) % p, 0
        if not isinstance(tree, tuple):
            return self.random("log", self.value(tree))
        operator = tree[0]
        if operator in ("*", "/"):
            (a, b), (c, d) = self.logarithm(tree[1]), self.logarithm(tree[2])
            sign = 1 if operator == "*" else -1
            return (a + sign * c) % p, (b + sign * d) % p
        if operator == "^":
            return self.field.multiply(self.value(tree[2]), self.logarithm(tree[1]))
        if operator == "root":
            inverse = self.field.invert(self.value(tree[2]))
            return self.field.multiply(inverse, self.logarithm(tree[1]))
        if operator == "fn" and tree[1] == r"\exp":
            return self.value(tree[2])
        return self.random("log", self.value(tree))

    def log_integer(self, n: int) -> int:
        total = 0
        for prime in _FIRST_PRIMES:
            while n % prime == 0:
                n //= prime
                total += self.field.random("log", prime)
        return total + (self.field.random("log", n) if n > 1 else 0)

    # Exponents: (real part, imaginary part, parity or None), modulo q and the order of the circle.

    def exponent(self, tree: Node) -> tuple[int, int, int | None]:
        self.field.spend()
        n = self.field.exponents
        if isinstance(tree, Fraction):
            parity = tree.numerator % 2 if tree.denominator % 2 else None
            return tree.numerator * pow(tree.denominator, -1, n) % n, 0, parity
        if isinstance(tree, str):
            return self.named_exponent(tree)
        operator, *operands = tree
        if operator in ("+", "neg", "*"):
            values = [self.exponent(operand) for operand in operands]
            if operator == "neg":
                (a, b, parity), *_ = values
                return -a % n, -b % n, parity
            parities = [value[2] for value in values if value[2] is not None]
            parity = None
            if len(parities) == len(values):
                parity = (sum(parities) if operator == "+" else math.prod(parities)) % 2
            if operator == "+":
                return sum(v[0] for v in values) % n, sum(v[1] for v in values) % n, parity
            (a, b, _), (c, d, _) = values
            return (a * c - b * d) % n, (a * d + b * c) % n, parity
        if operator == "/":
            a, b, parity = self.exponent(operands[0])
            c, d, _ = self.exponent(operands[1])
            if d or math.gcd(c, n) != 1:
                raise Undefined("an exponent divided by what is not real")
            odd = isinstance(operands[1], Fraction) and operands[1].denominator == 1
            odd = odd and int(operands[1]) % 2 == 1
            inverse = pow(c, -1, n)
            return a * inverse % n, b * inverse % n, parity if odd else None
        if operator == "^":
            exact = self.rational(operands[1])
            a, b, parity = self.exponent(operands[0])
            if exact is not None and exact.denominator == 1 and 0 < exact < 1000 and not b:
                return pow(a, int(exact), n), 0, parity
        if operator == "deg":
            return self.exponent(operands[0])
        a, b = self.value(tree)
        return self.random_exponent("value", a, b), 0, None

    def named_exponent(self, name: str) -> tuple[int, int, int | None]:
        if name in self.bound:
            return self.exponent(self.bound[name])
        if name == "i":
            return 0, 1, None
        if name == r"\infty":
            raise Undefined("infinity")
        if name in ("e", r"\pi"):
            return self.random_exponent(name), 0, None
        name = self.named_with_bound(name)
        number = self.random_exponent(name, self.point)
        return number, 0, self.field.random("parity", name, self.point) % 2

    def random_exponent(self, *key: object) -> int:
        parts = [self.field.random("exponent", k, *key) for k in (0, 1, 2)]
        return (parts[0] + (parts[1] << 120) + (parts[2] << 240)) % self.field.exponents

    # Trigonometry.

    def circle(self, angle: Node) -> Element:
        """e^{iv}; multiples of pi/60 are split off and taken exactly."""
        result: Element = (1, 0)
        for scale, term in _terms(radians(angle)):
            turns = self.rational(substitute(term, {r"\pi": Fraction(1)}))
            if turns is not None and self.rational(term) is None:
                twice = self.rational(substitute(term, {r"\pi": Fraction(2)}))
                sixtieths = 60 * scale * turns
                if twice != 2 * turns or sixtieths.denominator != 1:
                    raise Undefined("an angle that is not on the circle of the model")
                factor = self.field.root_of_unity(int(sixtieths))
            else:
                real, imaginary, _ = self.exponent(("*", scale, term))
                if imaginary:
                    raise Undefined("a complex angle")
                factor = self.field.circle(real)
            result = self.field.multiply(result, factor)
        return result


def radians(tree: Node) -> Node:
    """Degrees inside of an angle, as multiples of pi."""
    if not isinstance(tree, tuple):
        return tree
    if tree[0] == "deg":
        return ("*", ("/", tree[1], Fraction(180)), r"\pi")
    return (tree[0], *(radians(operand) for operand in tree[1:]))


def _terms(tree: Node, scale: Fraction = Fraction(1)) -> Iterator[tuple[Fraction, Node]]:
    """Terms of a sum with their rational factors."""
    if isinstance(tree, tuple):
        operator, *operands = tree
        if operator in ("+", "neg"):
            for operand in operands:
                yield from _terms(operand, -scale if operator == "neg" else scale)
            return
        if operator == "*" and isinstance(operands[0], Fraction):
            yield from _terms(operands[1], scale * operands[0])
            return
        if operator == "*" and isinstance(operands[1], Fraction):
            yield from _terms(operands[0], scale * operands[1])
            return
        if operator == "/" and isinstance(operands[1], Fraction) and operands[1]:
            yield from _terms(operands[0], scale / operands[1])
            return
    yield scale, tree


def _factors(tree: Node) -> Iterator[Node]:
    if isinstance(tree, tuple) and tree[0] == "*":
        yield from _factors(tree[1])
        yield from _factors(tree[2])
    elif isinstance(tree, tuple) and tree[0] == "/":
        yield from _factors(tree[1])
        yield ("/", Fraction(1), tree[2])
    else:
        yield tree


def _product(factors: list[Node]) -> Node:
    result: Node = Fraction(1)
    for factor in factors:
        result = ("*", result, factor)
    return result
