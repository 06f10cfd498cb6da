r"""Reads the tokens of an answer as a form: words, a value, a list, a set, a relation, a matrix.

Forms are what rules.py speaks about.  Reading never decides what is right.
"""

import dataclasses
import re
from typing import TypeGuard

from dars_jax.rewards.equality import expression, units
from dars_jax.rewards.equality.expression import Node, Unreadable
from dars_jax.rewards.equality.latex import WORD

Tokens = tuple[str, ...]

_OPEN = {"(": 1, "[": 1, "{": 1, r"\{": 1, r"\lfloor": 1, r"\lceil": 1, r"\begin": 1,
         r"\langle": 1}  # fmt: skip
_CLOSE = {")": 1, "]": 1, "}": 1, r"\}": 1, r"\rfloor": 1, r"\rceil": 1, r"\end": 1,
          r"\rangle": 1}  # fmt: skip
_SEPARATORS = frozenset([",", ";", '"and', '"or'])
RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\equiv", r"\sim"])
_MODULO = frozenset([r"\mod", r"\bmod", r"\pmod"])
_SET_OPERATORS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}
_SET_NAMES = {"ℝ": "reals", r"\emptyset": "empty"}
_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"])
_PAIRS = frozenset([("(", ")"), ("[", "]"), (r"\langle", r"\rangle")])
DOTS = "…"
_MAX_ITEMS = 64
_MAX_CELLS = 100


class TooMany(ValueError):
    """More list items or matrix entries than any answer needs."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Text, or anything unreadable that is only comparable as it stands."""

    text: str


@dataclasses.dataclass(frozen=True)
class Value:
    """An expression, with the unit that was written after or before it."""

    node: Node
    unit: str = ""
    nouns: frozenset[str] = frozenset()  # words behind it that are no units


@dataclasses.dataclass(frozen=True)
class Items:
    """kind is list (bare), set (in braces) or tuple (in brackets, also an open interval)."""

    kind: str
    items: tuple["Form", ...]
    joiner: str = ""  # "and" or "or", when a word separates the items


@dataclasses.dataclass(frozen=True)
class Relation:
    """A chain a < b < c: len(signs) + 1 sides, each a form."""

    signs: tuple[str, ...]
    sides: tuple["Form", ...]
    tokens: tuple[Tokens, ...]


@dataclasses.dataclass(frozen=True)
class RealSet:
    """interval (low, high, closing), union, intersection, minus, reals, empty, finite."""

    operator: str
    parts: tuple
    closed: tuple[bool, bool] = (False, False)


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Rows of forms; determinant bars make a value of it, which only math-verify reads."""

    rows: tuple[tuple["Form", ...], ...]


@dataclasses.dataclass(frozen=True)
class Congruence:
    """left = right modulo modulus."""

    left: "Form"
    right: "Form"
    modulus: "Form"


Form = Words | Value | Items | Relation | RealSet | Matrix | Congruence


def read(tokens: Tokens) -> Form:
    """The form of an answer.  Raises Unreadable, or TooMany."""
    tokens = _unwrap(tokens)
    if not tokens:
        raise Unreadable("nothing")
    parts = split(tokens, _SEPARATORS)
    if len(parts) > _MAX_ITEMS:
        raise TooMany(f"{len(parts)} list items")
    if len(parts) > 1:
        joiner = next((word for word in ("and", "or") if WORD + word in tokens), "")
        items = tuple(item for part in parts if part for item in _read_item(part))
        if not items:
            raise Unreadable("separators alone")
        return Items("list", items, joiner)
    items = _read_item(tokens)
    return items[0] if len(items) == 1 else Items("list", items)


def prose(tokens: Tokens) -> str:
    """The letters of an answer, for R7: without case, fonts, spaces and punctuation.

    Behind a letter that is no word a dash, a colon or a prime says something: AB-CD, A'B'.
    """
    kept = []
    for before, token in zip(("", *tokens), tokens, strict=False):
        letter = len(before) == 1 and before.isalpha()
        if token in ("-", ":", "'") and (letter or before == token):
            kept.append(token)
        kept.append(re.sub(r"[^a-z0-9]", "", token.lower()))
    return "".join(kept).rstrip(":")


def spelled(tokens: Tokens) -> str:
    """All tokens in lower case and without word marks, for text with numbers: June 5."""
    return " ".join(token.lstrip(WORD).lower() for token in tokens)


def is_prose(tokens: Tokens) -> bool:
    """Words without any number or operator: `odd`, `(A)`, `\\text{June}`."""
    if any(token[0].isdigit() or token[0] in "\\.…" for token in tokens if token != "."):
        return False
    if any(token[0] == WORD for token in tokens):
        return not any(token in RELATIONS or token in "+*/^°%|" for token in tokens)
    letters = [token for token in tokens if token.isalpha() and token.isascii()]
    return (
        bool(letters)
        and all(t.isalpha() or t in "(){}.:'-" for t in tokens)
        and (
            (len(letters) == 1 and "-" not in tokens)
            or any(letter.isupper() for letter in letters[1:])
        )
    )


def split(tokens: Tokens, separators: frozenset[str]) -> list[Tokens]:
    """Splits at separators outside brackets.  Half-open intervals close with any bracket."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += _OPEN.get(token, 0) - _CLOSE.get(token, 0)
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts]


def _unwrap(tokens: Tokens) -> Tokens:
    """Drops braces round everything and words that only introduce."""
    while len(tokens) >= 2 and tokens[0] == "{" and _closes_at(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    exact, *rounded = split(tokens, frozenset([r"\approx"]))
    if rounded:  # 5/6 \approx 0.83 says 5/6, x \approx 5 says 5
        return exact if any(token[0].isdigit() for token in exact) else rounded[0]
    return tokens


def _closes_at(tokens: Tokens, start: int) -> int:
    depth = 0
    for i in range(start, len(tokens)):
        depth += _OPEN.get(tokens[i], 0) - _CLOSE.get(tokens[i], 0)
        if depth == 0:
            return i
    return -1


def _read_item(tokens: Tokens) -> tuple[Form, ...]:
    r"""One list item; `\pm` makes two of it, with `\mp` the other way round."""
    if (r"\pm" in tokens or r"\mp" in tokens) and r"\{" not in tokens:
        plus = tuple({r"\pm": "+", r"\mp": "-"}.get(token, token) for token in tokens)
        minus = tuple({r"\pm": "-", r"\mp": "+"}.get(token, token) for token in tokens)
        return _read_one(plus), _read_one(minus)
    return (_read_one(tokens),)


def _read_one(tokens: Tokens) -> Form:
    tokens = _unwrap(tokens)
    if not tokens:
        raise Unreadable("an empty item")
    if tokens == (DOTS,):
        return Words(DOTS)
    if is_prose(tokens):
        # A letter alone may be a choice, a name or a constant: same() knows all three.
        letter = [token for token in tokens if token.isalpha()]
        return Value(letter[0]) if letter and len(prose(tokens)) == 1 else Words(prose(tokens))
    membership = split(tokens, frozenset([r"\in"]))
    if len(membership) == 2:
        return read(membership[1])
    sides = split(tokens, RELATIONS)
    if len(sides) > 1:
        return _read_relation(tokens, sides)
    for operator, name in _SET_OPERATORS.items():
        parts = split(tokens, frozenset([operator]))
        if len(parts) > 1:
            return RealSet(name, tuple(_read_one(part) for part in parts))
    if len(tokens) == 1 and tokens[0] in _SET_NAMES:
        return RealSet(_SET_NAMES[tokens[0]], ())
    if tokens[0] == r"\begin":
        return _read_matrix(tokens)
    bracketed = _read_bracketed(tokens)
    if bracketed is not None:
        return bracketed
    ratio = split(tokens, frozenset([":"]))
    if len(ratio) > 1:
        return Items("ratio", tuple(_read_one(part) for part in ratio))
    tokens, unit, nouns = units.strip(tokens)
    return Value(expression.parse(tokens), unit, nouns)


def _read_relation(tokens: Tokens, sides: list[Tokens]) -> Form:
    depth, signs = 0, []
    for token in tokens:
        depth += _OPEN.get(token, 0) - _CLOSE.get(token, 0)
        if depth == 0 and token in RELATIONS:
            signs.append(token)
    if signs == [r"\equiv"] and len(split(sides[1], _MODULO)) == 2:
        return Congruence(*map(_side, (sides[0], *split(sides[1], _MODULO))))
    return Relation(tuple(signs), tuple(_side(side) for side in sides), tuple(sides))


def _side(tokens: Tokens) -> Form:
    try:
        return read(tokens)
    except Unreadable:
        return Words(" ".join(tokens))  # a left side may be any name: \angle ABC, \frac{dy}{dx}


def _read_bracketed(tokens: Tokens) -> Form | None:
    """A set, a tuple or an interval, if brackets enclose everything."""
    opening, closing = tokens[0], tokens[-1]
    if opening not in ("(", "[", "]", r"\{", r"\langle") or len(tokens) < 2:
        return None
    if opening == r"\{" and closing == r"\}" and _closes_at(tokens, 0) == len(tokens) - 1:
        inside = tokens[1:-1]
        if not inside:
            return RealSet("empty", ())
        if "|" in inside or ":" in inside:
            raise Unreadable("a set given by a condition")
        form = read(inside)
        return Items("set", form.items if _is_list(form) else (form,))
    if closing not in (")", "]", "[", r"\rangle"):
        return None
    if opening != "]" and _closes_at(tokens, 0) != len(tokens) - 1:
        return None
    parts = split(tokens[1:-1], frozenset([",", ";"]))
    if len(parts) > _MAX_ITEMS:
        raise TooMany(f"{len(parts)} entries")
    if len(parts) == 2 and (opening, closing) != ("(", ")") and opening != r"\langle":
        ends = tuple(_read_one(part) for part in parts)
        return RealSet("interval", ends, (opening == "[", closing == "]"))
    if len(parts) > 1:
        if (opening, closing) not in _PAIRS:
            return Words("".join(tokens))  # [6,31,-1) is neither tuple nor interval
        return Items("tuple", tuple(_read_one(part) for part in parts))
    inside = parts[0]
    if opening == "(" and _needs_no_brackets(inside):
        return _read_one(inside)
    return None


def _needs_no_brackets(tokens: Tokens) -> bool:
    """(\\text{A}), (x=5), ([0,1]): brackets that say nothing round what no expression holds."""
    return bool(tokens) and (
        tokens[0] in (r"\begin", r"\{") or any(token in RELATIONS for token in tokens)
    )


def _is_list(form: Form) -> TypeGuard[Items]:
    return isinstance(form, Items) and form.kind == "list"


def _read_matrix(tokens: Tokens) -> Form:
    if len(tokens) < 8 or tokens[-1] != "}" or tokens[-4] != r"\end":
        raise Unreadable("an environment and something else")
    name = "".join(t.lstrip(WORD) for t in tokens[2 : tokens.index("}")])
    if name not in {matrix.lower() for matrix in _MATRICES}:
        raise Unreadable(f"environment {name}")
    body = tokens[tokens.index("}") + 1 : -4]
    if name == "array" and body[:1] == ("{",):
        body = body[body.index("}") + 1 :]
    if r"\begin" in body:
        raise Unreadable("a matrix of matrices")
    rows = [split(row, frozenset(["&"])) for row in split(body, frozenset([r"\\"])) if row]
    if sum(map(len, rows)) > _MAX_CELLS:
        raise TooMany("matrix entries")
    return Matrix(tuple(tuple(_read_one(cell) for cell in row) for row in rows))
