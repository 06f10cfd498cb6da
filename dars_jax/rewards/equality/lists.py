"""When lists, sets, tuples, ratios, sequences, families and matrices are equal.

Every rule gets `same`, which decides about the elements.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

from dars_jax.rewards.equality import same_value
from dars_jax.rewards.equality.evaluator import Undefined
from dars_jax.rewards.equality.forms import (
    Cases,
    Family,
    Form,
    Items,
    Matrix,
    Relation,
    Sequence,
    Value,
)
from dars_jax.rewards.equality.trees import variables

Same = Callable[[Form, Form], bool]


def same_items(gold: Items, answer: Items, same: Same) -> bool:
    """Tuples in order; sets as sets; lists as multisets, of points and of alternatives as sets."""
    kinds = {gold.kind, answer.kind}
    if "ratio" in kinds:
        return kinds == {"ratio"} and _same_ratios(gold, answer, same)
    if "tuple" in kinds:
        # A bare list may stand for a tuple, then in its order; braces may not.
        return "set" not in kinds and in_order(gold.items, answer.items, same)
    if _common_name(gold) and _common_name(answer) and _common_name(gold) != _common_name(answer):
        return False
    first, second = spread_names(gold), spread_names(answer)
    if "set" in kinds or _idempotent(gold) or _idempotent(answer):
        equal = as_sets(first, second, same)
    else:
        equal = _as_multisets(first, second, same)
    return equal or (
        kinds == {"list"}
        and _all_named(gold) != _all_named(answer)
        and in_order(gold.items, answer.items, same)
    )


def in_order(gold: Iterable[Form], answer: Iterable[Form], same: Same) -> bool:
    """Same length, and same in every place."""
    gold, answer = tuple(gold), tuple(answer)
    return len(gold) == len(answer) and all(map(same, gold, answer))


def as_sets(gold: tuple[Form, ...], answer: tuple[Form, ...], same: Same) -> bool:
    """Each of one side is in the other: repeated items count once."""
    return all(any(same(g, a) for a in answer) for g in gold) and all(
        any(same(g, a) for g in gold) for a in answer
    )


def _as_multisets(gold: tuple[Form, ...], answer: tuple[Form, ...], same: Same) -> bool:
    """As often on one side as on the other; sameness is an equivalence, so greed is enough."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for form in gold:
        match = next((i for i, other in enumerate(left) if same(form, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _idempotent(items: Items) -> bool:
    """`x = 1 or x = 1` says x = 1, and a point named twice is one point; numbers are counted."""
    points = all(isinstance(item, Items) and item.kind == "tuple" for item in items.items)
    return items.joiner == "or" or points


def spread_names(items: Items) -> tuple[Form, ...]:
    """`a = 4, -8, -10` names one unknown and three values: the name says nothing."""
    first, *others = items.items
    return (first.sides[1], *others) if _common_name(items) else items.items


def _common_name(items: Items) -> str:
    """The name that only the first item has."""
    first, *others = items.items
    if not isinstance(first, Relation) or first.signs != ("=",):
        return ""
    name = first.sides[0]
    if any(isinstance(other, Relation) for other in others):
        return ""
    return name.node if isinstance(name, Value) and isinstance(name.node, str) else ""


def _all_named(items: Items) -> bool:
    return all(isinstance(item, Relation) for item in items.items)


def _same_ratios(gold: Items, answer: Items, same: Same) -> bool:
    """Proportional; a zero part (12:00) allows identity only."""
    if in_order(gold.items, answer.items, same):
        return True
    if len(gold.items) != len(answer.items):
        return False
    if not all(isinstance(form, Value) and not form.unit for form in gold.items + answer.items):
        return False
    for (g, a), (h, b) in pairwise(zip(gold.items, answer.items, strict=True)):
        left, right = ("*", g.node, b.node), ("*", h.node, a.node)
        if any(is_zero(form) for form in (g, a, h, b)) or not same_value.same_value(left, right):
            return False
    return True


def is_zero(form: Form) -> bool:
    """Whether a form is the number 0."""
    try:
        return isinstance(form, Value) and same_value.constant(form.node) == 0
    except Undefined:
        return False


def one_and_many(gold: Form, answer: Form, same: Same) -> bool:
    """One value against several items: a ratio is a quotient, {5} and `5 or 5` are 5."""
    many, one = (gold, answer) if isinstance(gold, Items) else (answer, gold)
    assert isinstance(many, Items)
    if many.kind == "ratio":
        if len(many.items) != 2 or not all(isinstance(x, Value) for x in (*many.items, one)):
            return False
        if is_zero(many.items[1]):
            return False
        return same_value.same_value(("/", many.items[0].node, many.items[1].node), one.node)
    if many.kind == "tuple":
        return False
    items = spread_names(many)
    if many.kind == "set" and any(isinstance(x, Value) and variables(x.node) for x in items):
        return False  # {x} may be the fractional part of x
    once = len(items) == 1 or many.kind == "set" or _idempotent(many)
    return once and all(same(one, item) for item in items)


def same_sequences(gold: Form, answer: Form, same: Same) -> bool:
    """The same written items, or two arithmetic progressions with the same start, step and end."""
    if not (isinstance(gold, Sequence) and isinstance(answer, Sequence)):
        return False
    if not in_order(gold.after, answer.after, same):
        return False
    if in_order(gold.before, answer.before, same):
        return True
    # Two items and no end may go on in any way: 2, 4, ... are even numbers or powers of 2.
    enough = 2 if gold.after else 3
    if min(len(gold.before), len(answer.before)) < enough:
        return False
    short = min(len(gold.before), len(answer.before))
    return (
        _is_progression(gold.before)
        and _is_progression(answer.before)
        and in_order(gold.before[:short], answer.before[:short], same)
    )


def _is_progression(items: tuple[Form, ...]) -> bool:
    if not all(isinstance(item, Value) for item in items):
        return False
    steps = [("+", b.node, ("neg", a.node)) for a, b in pairwise(items)]
    return all(same_value.same_value(steps[0], step) for step in steps[1:])


def same_families(gold: Form, answer: Form, same: Same) -> bool:
    """The same member under the same condition."""
    if not (isinstance(gold, Family) and isinstance(answer, Family)):
        return False
    return gold.condition == answer.condition and same(gold.member, answer.member)


def same_cases(gold: Form, answer: Form, same: Same, same_condition: Callable) -> bool:
    """The same pieces, in any order."""
    if not (isinstance(gold, Cases) and isinstance(answer, Cases)):
        return False
    left = list(answer.pieces)
    for value, condition in gold.pieces:
        match = next(
            (p for p in left if same(value, p[0]) and same_condition(condition, p[1])), None
        )
        if match is None:
            return False
        left.remove(match)
    return not left


def same_matrices(gold: Matrix, answer: Matrix, same: Same) -> bool:
    """Same shape, and same in every place."""
    return len(gold.rows) == len(answer.rows) and all(
        in_order(g, a, same) for g, a in zip(gold.rows, answer.rows, strict=True)
    )
