r"""Reads numbers: decimals, mixed and repeating ones, numerals with a base, degrees with minutes.

The value is an exact fraction; what a letter or a root follows is left to expression.py.
"""

from fractions import Fraction

from dars_jax.rewards.equality.latex import WORD
from dars_jax.rewards.equality.trees import Node, Unreadable

_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
               "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip
_REPEATING = (r"\overline", r"\bar", r"\dot")
_DIGITS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Numerals:
    """A cursor over tokens, and the methods that consume one number."""

    def __init__(self, tokens: tuple[str, ...]):
        self.tokens = list(tokens)
        self.at = 0

    def digit_or_group(self) -> Node:
        """An argument of a fraction, as expression.py reads it."""
        raise NotImplementedError

    def peek(self, ahead: int = 0) -> str | None:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if token is None or (expected is not None and token != expected):
            raise Unreadable(f"expected {expected or 'more'}, got {token}")
        self.at += 1
        return token

    def number(self, token: str) -> Node:
        if self.peek() == "_":
            return self.in_base(token)
        digits = self.digits_of_large_base(token)
        if digits:
            return self.in_base(digits)
        if self.peek() == "°" and self.peek(2) == "'":
            return self.degrees_and_minutes(Fraction(token))
        if self.peek() in _REPEATING and (token == "." or "." in token):
            return self.repeating(token)
        if token == ".":
            raise Unreadable("a lone point")
        value = Fraction(token)
        if value.denominator == 1 and self.peek() == r"\frac":
            return self.mixed(value)
        if value.denominator == 1 and self.peek() == "." and self.peek(1) in _REPEATING:
            self.take()
            return self.repeating(token + ".")
        return value

    def mixed(self, whole: Fraction) -> Node:
        r"""2\frac12 is 5/2, and 2\frac{x}{3} or 2\frac{3}{2} a product."""
        back = self.at, list(self.tokens)
        self.take()
        over, under = self.digit_or_group(), self.digit_or_group()
        if isinstance(over, Fraction) and isinstance(under, Fraction) and 0 < over < under:
            return whole + over / under
        self.at, self.tokens = back
        return whole

    def repeating(self, token: str) -> Node:
        r"""0.1\overline{6} = 0.1\dot6 = 1/6; dots stand over the first and the last digit."""
        digits = self.marked_digits()
        if self.peek() == r"\dot" or (self.peek(1) == r"\dot" and (self.peek() or "").isdigit()):
            between = "" if self.peek() == r"\dot" else self.take()
            digits += between + self.marked_digits()
        places = len(token.partition(".")[2])
        start = Fraction(token + "0" if token[-1] == "." else token)
        return start + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)

    def marked_digits(self) -> str:
        mark = self.take()
        braced = self.peek() == "{"
        digits = self.take("{") and self.take() if braced else self.take()
        if braced:
            self.take("}")
        if not digits.isdigit() or (mark == r"\dot" and len(digits) > 1):
            raise Unreadable("repeating digits")
        return digits

    def degrees_and_minutes(self, degrees: Fraction) -> Node:
        """30° 15' or 30° 15' 20''."""
        self.take("°")
        for unit in (60, 3600):
            token = self.peek() or ""
            if not token.isdigit():
                break
            degrees += Fraction(int(self.take()), unit)
            for _ in range(1 if unit == 60 else 2):
                self.take("'")
        return ("deg", degrees)

    def digits_of_large_base(self, token: str) -> str:
        """1A2 of 1A2_{16}: letters are digits where a base above ten says so."""
        end = self.at
        while end < len(self.tokens) and set(self.tokens[end]) <= _DIGITS:
            end += 1
        below = self.tokens[end + 1 : end + 3]
        if end == self.at or self.tokens[end : end + 1] != ["_"] or not below:
            return ""
        base = below[-1] if below[0] == "{" else below[0]
        if not base.isdigit() or not 11 <= int(base) <= 36:
            return ""
        digits = token + "".join(self.tokens[self.at : end])
        self.at = end
        return digits

    def in_base(self, digits: str) -> Node:
        r"""1011_2, 2345_{6}, 1011_{\text{two}}: the value, because bases may differ."""
        self.take("_")
        braced = self.peek() == "{"
        token = self.take("{") and self.take() if braced else self.take()
        if braced:
            self.take("}")
        base = _BASE_WORDS.get(token.lstrip(WORD)) or (int(token) if token.isdigit() else 0)
        if not 2 <= base <= 36:
            raise Unreadable(f"base {token}")
        try:
            whole, _, rest = digits.lower().partition(".")
            return Fraction(int(whole + rest, base), base ** len(rest))
        except ValueError:
            raise Unreadable(f"{digits} in base {token}") from None
