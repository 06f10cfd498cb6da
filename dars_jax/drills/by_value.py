r"""Whether two short answers are equal, computed once more without the grader's code.

A small reader of its own turns numbers, arithmetic, roots, powers, common functions and plain
letters into mpmath numbers of 60 digits; letters are drawn, the same for both.  Lists, tuples and
intervals are compared place by place.  What it cannot read it says so about: None, not equal.
"""

import random
import re
from collections.abc import Callable
from typing import Any

import mpmath

mp = mpmath.mp.clone()
mp.dps = 60

_POINTS = 4  # draws of the letters
_DIGITS = 40  # that have to agree
_TOKEN = re.compile(r"\d+\.?\d*|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^!(){}\[\]|]")
_IGNORED = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[,;:! $]|\$|~")
_GROUPS = re.compile(r"(?<=\d)(?:\{,\}|,?\\!|,)\s*(?:\\!)?\s*(?=\d{3}(?!\d))")
_INTERVAL = re.compile(r"([(\[\]])([^,]+),([^,]+)([)\[\]])")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    r"\sin": mp.sin, r"\cos": mp.cos, r"\tan": mp.tan, r"\ln": mp.log, r"\exp": mp.exp,
    r"\sqrt": mp.sqrt,
}  # fmt: skip


class _Unknown(ValueError):
    pass


def equal(gold: str, answer: str) -> bool | None:
    """True if every draw agrees to 40 digits, False if one does not, None if one is not read."""
    try:
        return _same(_tidy(gold), _tidy(answer))
    except (_Unknown, ValueError, ArithmeticError, IndexError, RecursionError):
        return None


def _tidy(text: str) -> str:
    text = _GROUPS.sub("", text.strip().rstrip("."))
    return _IGNORED.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac").strip()


def _same(gold: str, answer: str) -> bool:
    intervals = [_INTERVAL.fullmatch(text) for text in (gold, answer)]
    if all(intervals):
        (a, b), (c, d) = (_open_ends(match) for match in intervals if match)
        sides = [match.group(2, 3) for match in intervals if match]
        return (a, b) == (c, d) and all(map(_same_values, *sides))
    if any("," in text for text in (gold, answer)):
        lists = [text.split(",") for text in (gold, answer)]
        return len(lists[0]) == len(lists[1]) and all(map(_same_values, *lists))
    return _same_values(gold, answer)


def _open_ends(match: re.Match[str]) -> tuple[bool, bool]:
    """Of an interval, also as `]0, 1[`."""
    return match[1] in "(]", match[4] in ")["


def _same_values(gold: str, answer: str) -> bool:
    for seed in range(_POINTS):
        first, second = (_Reader(text, seed).whole() for text in (gold, answer))
        if first == second:
            continue
        size = max(abs(first), abs(second))
        if mp.isinf(size) or not abs(first - second) <= size * mp.mpf(10) ** -_DIGITS:
            return False
    return True


class _Reader:
    """Recursive descent: sum, product (also by juxtaposition), sign, power, atom."""

    def __init__(self, text: str, seed: int) -> None:
        self._tokens = _TOKEN.findall(text)
        if re.sub(r"\s", "", text) != "".join(self._tokens):
            raise _Unknown(text)
        self._at, self._seed = 0, seed

    def whole(self) -> Any:
        value = self._sum()
        if self._at < len(self._tokens):
            raise _Unknown(self._tokens[self._at])
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _sum(self) -> Any:
        value = self._product()
        while self._peek() in ("+", "-"):
            value = value + self._product() if self._next() == "+" else value - self._product()
        return value

    def _product(self) -> Any:
        value = self._signed()
        while (token := self._peek()) and token not in ("+", "-", ")", "}", "]"):
            if token in ("*", "/", r"\cdot", r"\times", r"\div"):
                self._next()
                right = self._signed()
                value = value / right if token in ("/", r"\div") else value * right
            else:
                value = value * self._power()
        return value

    def _signed(self) -> Any:
        if self._peek() in ("+", "-"):
            return self._signed() if self._next() == "+" else -self._signed()
        return self._power()

    def _power(self) -> Any:
        value = self._atom()
        while self._peek() in ("^", "!"):
            if self._next() == "!":
                if value != int(value) or not 0 <= value < 200:
                    raise _Unknown("!")
                value = mp.factorial(value)
            else:
                value = mp.power(value, self._group())
        return value

    def _group(self) -> Any:
        """A braced argument, or one digit or letter as TeX takes it."""
        if self._peek() == "{":
            self._next()
            value = self._sum()
            self._expect("}")
            return value
        token = self._peek()
        if re.fullmatch(r"\d\d.*", token):  # x^12 is x^1 2
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._atom()

    def _atom(self) -> Any:
        token = self._next()
        if token == "(":
            value = self._sum()
            self._expect(")")
            return value
        if token == "{":
            self._at -= 1
            return self._group()
        if token[0].isdigit() or token[0] == ".":
            return mp.mpf(token)
        if token == r"\frac":
            return self._group() / self._group()
        if token == r"\sqrt" and self._peek() == "[":
            self._next()
            degree = self._sum()
            self._expect("]")
            return mp.root(self._group(), int(degree))
        if token in _FUNCTIONS:
            return _FUNCTIONS[token](self._group() if self._peek() == "{" else self._power())
        if token in (r"\pi", "e", "i"):
            return {r"\pi": mp.pi + 0, "e": mp.e + 0, "i": mp.mpc(0, 1)}[token]
        if token == r"\infty":
            return mp.inf
        if re.fullmatch(r"[A-Za-z]|\\(?:alpha|beta|gamma|theta|lambda|omega)", token):
            rng = random.Random(f"{self._seed} {token}")
            return mp.mpf(rng.randint(-(10**9), 10**9)) / 10**8
        raise _Unknown(token)

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise _Unknown(token)
