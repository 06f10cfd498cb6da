"""The typed normal forms of answers.  Two forms are equal if a rule for their kind proves it."""

import dataclasses
from fractions import Fraction

from dars_jax.rewards.equality.trees import Node, Unreadable

Tokens = tuple[str, ...]


class TooMany(ValueError):
    """More list items or matrix entries than any answer needs."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Text, or anything unreadable that is only comparable as it stands."""

    text: str


@dataclasses.dataclass(frozen=True)
class Value:
    """A number or an expression in free letters, with the unit that was written beside it."""

    node: Node
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Items:
    """kind is list (bare), set (in braces), tuple (in brackets, also an open interval), ratio."""

    kind: str
    items: tuple["Form", ...]
    joiner: str = ""  # "and" or "or", when a word separates the items


@dataclasses.dataclass(frozen=True)
class Sequence:
    r"""`1, 2, \ldots, n`: what stands before the dots and what stands after them."""

    before: tuple["Form", ...]
    after: tuple["Form", ...]


@dataclasses.dataclass(frozen=True)
class Relation:
    """A chain a < b < c: len(signs) + 1 sides, each a form."""

    signs: tuple[str, ...]
    sides: tuple["Form", ...]
    tokens: tuple[Tokens, ...]


@dataclasses.dataclass(frozen=True)
class Congruence:
    """left = one of residues modulo modulus; left is None in `3 (mod 5)`."""

    left: "Form | None"
    residues: tuple["Form", ...]
    modulus: "Form"


@dataclasses.dataclass(frozen=True)
class Family:
    r"""`\{2k : k \in Z\}`: all values of an expression under a condition, as tokens."""

    member: "Form"
    condition: Tokens


@dataclasses.dataclass(frozen=True)
class Cases:
    """A function in pieces: (value, condition as tokens) in any order."""

    pieces: tuple[tuple["Form", Tokens], ...]


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


Form = Words | Value | Items | Sequence | Relation | Congruence | Family | Cases | RealSet | Matrix


def scaled(matrix: Matrix, factor: Node) -> Matrix:
    """factor times matrix."""
    if factor == Fraction(1):
        return matrix
    rows = []
    for row in matrix.rows:
        if not all(isinstance(cell, Value) for cell in row):
            raise Unreadable("a matrix of what are no values")
        rows.append(tuple(Value(("*", factor, cell.node)) for cell in row))  # type: ignore[union-attr]
    return Matrix(tuple(rows))
