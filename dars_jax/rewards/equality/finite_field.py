r"""A model of the real and complex functions in finite fields, where equality is exact.

Gonnet (1984, "Determining equivalence of expressions in random polynomial time") evaluates an
expression at random points of a finite field.  An identity of rational functions that holds at such
a point is false with probability degree / p, about 2^-110 here; this is the proof by degree bound.
The same is done for more functions by giving each of them an image that has its laws and no others:

  real numbers        F_p; complex ones F_p(i), as p = 3 mod 4
  positive numbers    the squares of F_p, a group of prime order q = (p - 1) / 2: roots and powers
                      with exponents in F_q are single-valued there, and \sqrt{u^2} = |u| is u or -u
  u^v, e^v            exponents are read modulo q; a negative base needs the parity of v as well
  sin, cos, e^{iv}    elements of norm 1 in F_p(i), a group of order p + 1 = 120 M; multiples of
                      pi/60 are its elements of order 120
  n!, floor, f(u)     a random value for every value of the argument, so that nothing is equal by
                      chance; (n + 1)! = (n + 1) n! and floor(u + 1) = floor(u) + 1 come first

Whatever is equal in the model at all points is equal by these laws.  Signs are drawn
independently, so |x - 10| equals 10 - x at half of the points only, and nothing depends on where
one samples.  Floors, inverse functions and factorials satisfy no further law: what would need one
is not proved.
"""

import functools
import hashlib

from dars_jax.rewards.equality.evaluator import TooBig, Undefined

PRIMES = (
    0x2F316ACF0D6AAF785D95259B92670A67, 0x30A3D4886CD6046C6EC9C77949246627,
    0x2822F867C8EA26D0395DA05DDD005497, 0x2B2CFC1C574C4C9C18577B0726D0C607,
    0x29CE101CF3F45F5038AB6A49502BEDD7, 0x39F55F8DC02E0FD124AA8470D5A0A8B7,
    0x349FB027C1DFA2134A122DB3BC3234D7, 0x2F03C3177C987C3EE42DF7C7E742B327,
    0x3D760A06D5BEF131EEB0E8978C917287, 0x3A10A83072952B2CF0BF4A8329741DF7,
    0x259F0E7915D283A48BA93CA772125807, 0x241989F985F2D084A3A609BA396657A7,
    0x2E50A39BE7EAD009C2BDA433B56CF9A7, 0x3B2659C0E7234A4B57EFD52EAD811607,
    0x36710571BCE17AA260F56B28F0C85397, 0x28A590AD9E733ED8E4158A258525D9D7,
)  # fmt: skip
"""p = 3 mod 4 with (p - 1) / 2 prime, (p + 1) / 120 free of factors below 5,000, and every prime
below 50 a square modulo p: small numbers are positive."""

Element = tuple[int, int]  # a + b i
FUEL = 60_000  # field operations at one point
_MAX_POWER = 10**6  # keeps degrees, and with them the probability of error, small


class Field:
    """Arithmetic of F_p(i); `seed` fixes the random elements."""

    def __init__(self, p: int, seed: bytes) -> None:
        self.p, self.q, self.order = p, (p - 1) // 2, (p + 1) // 120
        self.exponents = self.q * self.order  # exponents are read modulo both
        self.seed = seed
        self.fuel = FUEL

    def spend(self, units: int = 1) -> None:
        self.fuel -= units
        if self.fuel < 0:
            raise TooBig("work budget spent")

    def random(self, *key: object) -> int:
        """A number below p - 1 that only the key decides."""
        text = repr(key).encode()
        return int.from_bytes(hashlib.blake2b(text, key=self.seed).digest(), "big") % (self.p - 1)

    def positive(self, *key: object) -> int:
        """A random square."""
        return pow(self.random(*key) + 1, 2, self.p)

    def multiply(self, x: Element, y: Element) -> Element:
        self.spend()
        (a, b), (c, d) = x, y
        return (a * c - b * d) % self.p, (a * d + b * c) % self.p

    def invert(self, x: Element) -> Element:
        self.spend(4)
        a, b = x
        norm = (a * a + b * b) % self.p
        if norm == 0:
            raise Undefined("division by zero")
        inverse = pow(norm, -1, self.p)
        return a * inverse % self.p, -b * inverse % self.p

    def raise_to(self, x: Element, n: int) -> Element:
        """x^n for an integer n."""
        if n < 0:
            return self.raise_to(self.invert(x), -n)
        self.spend(8)
        if x[1] == 0:
            return pow(x[0], n, self.p), 0
        result = (1, 0)
        while n:
            if n & 1:
                result = self.multiply(result, x)
            x, n = self.multiply(x, x), n >> 1
        return result

    def integer_power(self, x: Element, n: int) -> Element:
        """x^n with a bound on the degree."""
        if abs(n) > _MAX_POWER:
            raise TooBig("power")
        return self.raise_to(x, n)

    def real(self, x: Element) -> int:
        if x[1]:
            raise Undefined("not real here")
        return x[0]

    def is_positive(self, a: int) -> bool:
        self.spend(8)
        return pow(a, self.q, self.p) == 1

    def circle(self, exponent: int) -> Element:
        """e^{iv} for the exponent v."""
        return self.raise_to(_circle_base(self.p), exponent % self.order)

    def root_of_unity(self, numerator: int) -> Element:
        """e^{i pi k / 60}."""
        return self.raise_to(_unity(self.p), numerator % 120)


@functools.cache
def _circle_base(p: int) -> Element:
    """An element of norm 1 and of order (p + 1) / 120."""
    return Field(p, b"").raise_to(_norm_one(p, 3), 120)


@functools.cache
def _unity(p: int) -> Element:
    r"""The 120th root of unity for which i, \sqrt2, \sqrt3 and \sqrt5 are those of the model."""
    field = Field(p, b"")
    k = 2
    while True:
        k += 1
        root = field.raise_to(_norm_one(p, k), (p + 1) // 120)
        if field.raise_to(root, 30) != (0, 1):
            continue
        twice_cosine = [2 * field.raise_to(root, n)[0] for n in (15, 10, 12)]
        surds = twice_cosine[0], twice_cosine[1], 2 * twice_cosine[2] - 1
        squares = [surd * surd % p for surd in surds]
        if squares == [2, 3, 5] and all(field.is_positive(surd) for surd in surds):
            return root


def _norm_one(p: int, k: int) -> Element:
    """(k + i) / (k - i)."""
    field = Field(p, b"")
    return field.multiply((k, 1), field.invert((k, p - 1)))
