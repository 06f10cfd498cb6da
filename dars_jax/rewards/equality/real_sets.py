r"""Compares sets of real numbers: intervals, unions, \mathbb{R}\setminus\{1\}, `-2 < x \le 3`.

Two such sets are equal exactly when they agree at every end point of either, between neighbouring
end points, and beyond the outermost: so membership of finitely many probes decides.
"""

import functools
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeGuard

import mpmath

from dars_jax.rewards.equality import same_value
from dars_jax.rewards.equality.evaluator import Undefined, as_float
from dars_jax.rewards.equality.forms import Form, Items, RealSet, Relation, Value
from dars_jax.rewards.equality.trees import Node, Unreadable, variables


class End(NamedTuple):
    """An end point: 60 digits to order it, and the tree to prove that two are one."""

    value: mpmath.mpf
    node: Node


_INFINITE: dict[Node, int] = {r"\infty": 1, ("neg", r"\infty"): -1}


def same_set(first: Form, second: Form) -> bool:
    """Raises Unreadable when one is no set of reals, Undefined when an end is no constant."""
    sets = _as_set(first), _as_set(second)
    unknowns = _unknowns(first), _unknowns(second)
    if max(map(len, unknowns)) > 1:
        raise Unreadable("several unknowns")
    if all(unknowns) and unknowns[0] != unknowns[1]:
        return False
    with mpmath.workdps(60):
        ends = _distinct([end for part in sets for end in _ends(part)])
        probes = [*ends, *_between(ends)]
        return all(_contains(sets[0], x) == _contains(sets[1], x) for x in probes)


def _as_set(form: Form) -> RealSet:
    if isinstance(form, RealSet):
        if form.operator == "interval":
            return _nonempty(form)
        if form.operator in ("finite", "reals", "empty"):
            return form
        return RealSet(form.operator, tuple(map(_as_set, form.parts)))
    if isinstance(form, Relation):
        return _as_set(form.sides[1]) if form.signs == (r"\in",) else _solutions(form)
    if isinstance(form, Items) and any(isinstance(item, Relation) for item in form.items):
        operator = "intersection" if form.joiner == "and" else "union"
        return RealSet(operator, tuple(map(_as_set, form.items)))
    if isinstance(form, Items) and form.kind == "tuple" and len(form.items) == 2:
        return _nonempty(RealSet("interval", form.items))
    if isinstance(form, Items) and form.kind in ("set", "list"):
        if any(isinstance(item, RealSet) for item in form.items):  # [0,1] or [2,3]
            return RealSet("union", tuple(map(_as_set, form.items)))
        return RealSet("finite", form.items)
    raise Unreadable("not a set of real numbers")


def _nonempty(interval: RealSet) -> RealSet:
    """(2, -1) is a point: as intervals all such would be the same empty set."""
    low, high = map(_number, interval.parts)
    if _sign(low, high) > 0 or (_sign(low, high) == 0 and interval.closed != (True, True)):
        raise Unreadable("ends out of order")
    return interval


def _solutions(relation: Relation) -> RealSet:
    """`-2 < x <= 3` as an interval; every link must have the one unknown alone on a side."""
    parts = []
    sides = zip(relation.signs, pairwise(relation.sides), strict=True)
    for sign, (left, right) in sides:
        if not (isinstance(left, Value) and isinstance(right, Value)):
            raise Unreadable("an inequality of what are no values")
        if not _is_unknown(left.node):
            left, right = right, left
            sign = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(sign, sign)
        if not _is_unknown(left.node):
            raise Unreadable("an inequality that is not solved")
        parts.append(_half_line(sign, right))
    return RealSet("intersection", tuple(parts))


def _unknowns(form: Form) -> set[str]:
    """The names whose values a set of solutions holds."""
    if isinstance(form, Relation):
        return {s.node for s in form.sides if isinstance(s, Value) and _is_unknown(s.node)}
    if isinstance(form, Items):
        return set().union(*map(_unknowns, form.items))
    return set()


def _half_line(sign: str, end: Value) -> RealSet:
    infinity, minus_infinity = Value(r"\infty"), Value(("neg", r"\infty"))
    if sign in ("<", r"\le"):
        return RealSet("interval", (minus_infinity, end), (False, sign == r"\le"))
    if sign in (">", r"\ge"):
        return RealSet("interval", (end, infinity), (sign == r"\ge", False))
    if sign == r"\ne":
        return RealSet("minus", (RealSet("reals", ()), RealSet("finite", (end,))))
    if sign == "=":
        return RealSet("finite", (end,))
    raise Unreadable(f"relation {sign}")


def _is_unknown(node: Node) -> TypeGuard[str]:
    return isinstance(node, str) and variables(node) == {node}


def _ends(part: RealSet) -> list[End]:
    if part.operator in ("interval", "finite"):
        return [end for end in map(_number, part.parts) if mpmath.isfinite(end.value)]
    return [end for inner in part.parts for end in _ends(inner)]


@functools.lru_cache(maxsize=256)  # the same ends are asked for at every point
def _number(form: Form) -> End:
    if not isinstance(form, Value):
        raise Unreadable("an end that is no value")
    if form.node in _INFINITE:
        return End(mpmath.inf * _INFINITE[form.node], form.node)
    value = as_float(same_value.constant(form.node))
    if isinstance(value, mpmath.mpc):
        raise Unreadable("a complex end")
    return End(value, form.node)


def _sign(a: End, b: End) -> int:
    """Order of two numbers known to 60 digits; where these do not tell, equality is proved."""
    if not (mpmath.isfinite(a.value) and mpmath.isfinite(b.value)):
        return int(a.value > b.value) - int(a.value < b.value)
    if abs(a.value - b.value) <= max(abs(a.value), abs(b.value)) * mpmath.mpf(10) ** -45:
        if same_value.same_value(a.node, b.node):
            return 0
        raise Undefined("ends closer than 60 digits tell")
    return 1 if a.value > b.value else -1


def _distinct(ends: list[End]) -> list[End]:
    ends = sorted(ends, key=lambda end: end.value)
    return [end for i, end in enumerate(ends) if i == 0 or _sign(ends[i - 1], end)]


def _between(ends: list[End]) -> list[End]:
    """A point in every gap, and one beyond either end."""
    if not ends:
        return [End(mpmath.mpf(0), Fraction(0))]
    trees: list[Node] = [("+", ends[0].node, Fraction(-1)), ("+", ends[-1].node, Fraction(1))]
    trees += [("/", ("+", a.node, b.node), Fraction(2)) for a, b in pairwise(ends)]
    return [_number(Value(tree)) for tree in trees]


def _contains(part: RealSet, x: End) -> bool:
    if part.operator == "interval":
        low, high = (_sign(x, _number(end)) for end in part.parts)
        return low >= (not part.closed[0]) and high <= -(not part.closed[1])
    if part.operator == "finite":
        return any(_sign(x, _number(end)) == 0 for end in part.parts)
    if part.operator in ("reals", "empty"):
        return part.operator == "reals"
    inside = [_contains(inner, x) for inner in part.parts]
    if part.operator == "union":
        return any(inside)
    return all(inside) if part.operator == "intersection" else inside[0] and not any(inside[1:])
