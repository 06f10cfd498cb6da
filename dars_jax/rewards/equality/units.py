"""Separates a value from the unit, currency or counted noun written beside it.

Only what the vocabulary knows is a unit: any other word makes the answer unreadable.
"""

from collections import Counter

from dars_jax.rewards.equality.latex import WORD
from dars_jax.rewards.equality.trees import Unreadable
from dars_jax.rewards.equality.vocabulary import (
    COUNTED,
    CURRENCIES,
    MULTIPLES,
    POWERS,
    POWERS_AFTER,
    UNITS,
)

Tokens = tuple[str, ...]

_PUNCTUATION = frozenset("^/*{}()-")
_LETTERS_AFTER_MU = frozenset("msgAFHLNVWJC")


def strip(tokens: Tokens) -> tuple[Tokens, str]:
    """Tokens without unit, and a spelling-independent name of the unit.

    Two different names contradict each other; "" contradicts nothing.
    """
    negative, tokens = tokens[:1] == ("-",), tokens[tokens[:1] == ("-",) :]
    unit = ""
    if len(tokens) > 1 and UNITS.get(tokens[0][1:]) in CURRENCIES:  # $12, -$12, USD 12
        tokens, unit = tokens[1:], UNITS[tokens[0][1:]] + "^1"
    value, tail = _cut(_join_micro(tokens))
    if tail[:1] and tail[0][1:] in MULTIPLES:
        value, tail = (*value, "*", "10", "^", MULTIPLES[tail[0][1:]]), tail[1:]
    words = [token[1:] for token in tail if token[0] == WORD]
    if words in (["percent"], ["per", "cent"]):
        value, tail = (*value, "%"), ()
    elif value[-1:] == ("°",) and words in (["C"], ["F"], ["celsius"], ["fahrenheit"]):
        value, tail, unit = value[:-1], (), "°" + words[0][0].upper()
    elif value[-1:] == ("°",):
        unit = "degree^1"
    if not value:
        raise Unreadable("a unit alone")
    return (("-", *value) if negative else value), _name(tail) or unit


def _join_micro(tokens: Tokens) -> Tokens:
    r"""5\mu m and 5\Omega after a number: letters that can only be units there."""
    if not any(token[0].isdigit() for token in tokens[:1]):
        return tokens
    if len(tokens) > 2 and tokens[-2] == r"\mu":
        last = tokens[-1].removeprefix(WORD)
        if last in _LETTERS_AFTER_MU:
            return (*tokens[:-2], WORD + "µ" + last)
    if len(tokens) > 1 and tokens[-1] == r"\Omega":
        prefix = tokens[-2] if tokens[-2] in "kMGm" else ""
        number = tokens[: -2 if prefix else -1]
        if not any(token.isalpha() for token in number):
            return (*number, WORD + prefix + "Ω")
    return tokens


def _cut(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Splits before the first word, if only what units are made of follows it."""
    words = (i for i, token in enumerate(tokens) if token[0] == WORD and i > 0)
    first = next((i for i in words if "_" not in tokens[max(0, i - 2) : i]), len(tokens))
    tail = tokens[first:]
    if not all(token[0] == WORD or token.isdigit() or token in _PUNCTUATION for token in tail):
        raise Unreadable("a word inside an expression")
    if tail and tokens[first - 1] == "(" and tail[-1] == ")":  # 15 (minutes)
        first, tail = first - 1, tail[:-1]
    if tail and tokens[first - 1] == "/":  # 5 /s
        first, tail = first - 1, ("/", *tail)
    return tokens[:first], tail


def _name(tail: Tokens) -> str:
    """Units with their powers in alphabetical order.  Unreadable if a word is no unit."""
    powers: Counter[str] = Counter()
    last, below, multiplier = "", False, 1
    i = 0
    while i < len(tail):
        word = tail[i][1:] if tail[i][0] == WORD else ""
        if tail[i] == "/" or word == "per":
            below, last = True, ""
        elif tail[i] == "^" and last:
            exponent, i = _exponent(tail, i + 1)
            powers[last] += (exponent - 1) * (-1 if below else 1)
        elif word in POWERS:
            multiplier = int(POWERS[word][1:])
            if word == "square" and i + 1 == len(tail):
                raise Unreadable("square what?")
        elif word in POWERS_AFTER and last:
            powers[last] += (int(POWERS_AFTER[word][1:]) - 1) * (-1 if below else 1)
        elif word in UNITS or word in COUNTED:
            last = UNITS.get(word) or word.removesuffix("s")
            powers[last] += multiplier * (-1 if below else 1)
            multiplier = 1
        elif tail[i] not in ("*", "{", "}", "(", ")"):
            raise Unreadable("words that are no unit")
        i += 1
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items()) if power)


def _exponent(tail: Tokens, i: int) -> tuple[int, int]:
    """2, -1, {2} or {-1} behind a power sign, and the index of its last token."""
    end = tail.index("}", i) if tail[i : i + 1] == ("{",) and "}" in tail[i:] else i
    text = "".join(tail[i : end + 1]).strip("{}")
    if tail[i : i + 1] == ("-",):
        end, text = i + 1, "".join(tail[i : i + 2])
    if text.removeprefix("-") not in ("1", "2", "3", "4"):
        raise Unreadable("the power of a unit")
    return int(text), end
