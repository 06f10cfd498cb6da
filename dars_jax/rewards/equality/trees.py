"""Expression trees: what they are made of, their free names, and putting values in their place.

A tree is a Fraction, a name (str), or a tuple (operator, operand, ...).
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction

Node = Fraction | str | tuple

CONSTANTS = frozenset(["e", "i", r"\pi", r"\infty"])


class Unreadable(ValueError):
    """The tokens are no answer that this grammar knows."""


def variables(tree: Node) -> set[str]:
    """Free names of a tree; a named function is one of them, its marks of arguments are not."""
    if isinstance(tree, str):
        return set() if tree in CONSTANTS else {tree}
    if isinstance(tree, tuple):
        if tree[0] in ("series", "integral"):
            index, *rest = tree[2:] if tree[0] == "series" else tree[1:]
            ends, body = rest[:2], rest[2]
            return (variables(body) - {index}) | variables(ends[0]) | variables(ends[1])
        operands = tree[2:] if tree[0] == "fn" else tree[1:]
        return set().union(*(variables(operand) for operand in operands))
    return set()


def substitute(tree: Node, values: Mapping[str, Node]) -> Node:
    """The tree with values for free names."""
    if not values or isinstance(tree, Fraction):
        return tree
    if isinstance(tree, str):
        return values.get(tree, tree)
    if tree[0] in ("series", "integral"):
        first = 2 if tree[0] == "series" else 1
        inner = {name: value for name, value in values.items() if name != tree[first]}
        *heads, body = tree[: first + 1], tree[first + 1], tree[first + 2], tree[first + 3]
        ends = tuple(substitute(end, values) for end in heads[1:])
        return (*heads[0], *ends, substitute(body, inner))
    fixed = 2 if tree[0] in ("fn", "call") else 1
    return (*tree[:fixed], *(substitute(operand, values) for operand in tree[fixed:]))


def ordered(tree: Node) -> Node:
    """The tree with the terms of sums and the factors of products in one order."""
    if not isinstance(tree, tuple):
        return tree
    operator, *operands = tree
    if operator not in ("+", "*"):
        return (operator, *map(ordered, operands))
    parts = list(_flat(operator, tree))
    return (operator, *sorted(map(ordered, parts), key=repr))


def _flat(operator: str, tree: Node) -> Iterator[Node]:
    if isinstance(tree, tuple) and tree[0] == operator:
        for operand in tree[1:]:
            yield from _flat(operator, operand)
    else:
        yield tree
