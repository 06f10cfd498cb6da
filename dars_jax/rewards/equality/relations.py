"""When equations, inequalities and congruences are equal, and when a name counts for its value.

Every rule gets `same`, which decides about the sides.
"""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from dars_jax.rewards.equality import real_sets, same_value
from dars_jax.rewards.equality.evaluator import Undefined
from dars_jax.rewards.equality.expression import APPLY
from dars_jax.rewards.equality.forms import Congruence, Form, RealSet, Relation, Tokens, Value
from dars_jax.rewards.equality.latex import words_in
from dars_jax.rewards.equality.lists import as_sets, in_order
from dars_jax.rewards.equality.reading import is_number
from dars_jax.rewards.equality.trees import Unreadable
from dars_jax.rewards.equality.vocabulary import HEDGES

Same = Callable[[Form, Form], bool]
_Link = tuple[str, Form, Form]

_FLIPPED = {">": "<", r"\ge": r"\le"}
_CONSTANT_NAMES: tuple[Tokens, ...] = (("e",), ("i",), (r"\pi",))


def same_relations(gold: Form, answer: Form, same: Same) -> bool:
    """Equal side by side, or link by link; a name with its value counts for the value (R6)."""
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.signs == ("=",) == answer.signs and _same_sides(gold, answer, same):
            return True
        if (r"\in",) in (gold.signs, answer.signs):
            if gold.signs == answer.signs:
                return in_order(gold.sides, answer.sides, same)
            return same_real_sets(gold, answer, same)
        first, second = _links(gold), _links(answer)
        return all(any(_same_link(g, a, same) for a in second) for g in first) and all(
            any(_same_link(g, a, same) for g in first) for a in second
        )
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if set(relation.signs) == {"="} or relation.signs == (r"\in",):
        named = named_value(relation, same, liberal=relation is answer)
        if named is not None:
            return same(named, other) if relation is gold else same(other, named)
        return False
    return same_real_sets(gold, answer, same)


def _same_sides(gold: Relation, answer: Relation, same: Same) -> bool:
    """Same left, same right, or the other way round: for names, lists and tuples."""
    for left, right in (answer.sides, answer.sides[::-1]):
        try:
            if same(gold.sides[0], left) and same(gold.sides[1], right):
                return True
        except Undefined:
            continue
    return False


def named_value(relation: Relation, same: Same, liberal: bool = False) -> Form | None:
    """The value in `x = 5`, `f(x) = 5` or `x = 10/2 = 5`; None if the sides disagree.

    A gold must have a plain name on its left; in an answer any side without a number is a name.
    """
    sides = list(zip(relation.sides, relation.tokens, strict=True))
    if _is_name(sides[0][1], liberal):
        sides = sides[1:]
    elif _is_name(sides[-1][1], liberal):
        sides = sides[:-1]
    values = [form for form, _ in sides]
    return values[-1] if all(same(values[-1], value) for value in values[:-1]) else None


def _is_name(tokens: Tokens, liberal: bool) -> bool:
    if not tokens or tokens in _CONSTANT_NAMES or HEDGES & set(words_in(tokens)):
        return False
    # f^{-1} and f'(x) are other functions than f, but names all the same; f(2) is no value of f.
    outside = [t for t, before in zip(tokens, ("", *tokens), strict=False) if before != "_"]
    if liberal:
        return not any(is_number(token) for token in outside)
    if tokens[0] == "(":
        return not any(is_number(token) or token in "+-*/^" for token in tokens)
    letters = sum(token.isalpha() and len(token) == 1 for token in tokens)
    if len(tokens) > 1 and tokens[1] in ("_", "'", "(", APPLY):
        return not any(token in ("+", "-", "*", "/", "^") for token in tokens)
    return (
        letters == len(tokens) == 1
        or ":" in tokens
        or tokens[0][0] in '"\\'
        or (letters == len(tokens) and all(token.isupper() for token in tokens))
    )


def _links(relation: Relation) -> list[_Link]:
    """A chain as its links, greater-than turned into less-than."""
    links = []
    for sign, (left, right) in zip(relation.signs, pairwise(relation.sides), strict=True):
        if sign in _FLIPPED:
            sign, left, right = _FLIPPED[sign], right, left
        links.append((sign, left, right))
    return links


def _same_link(gold: _Link, answer: _Link, same: Same) -> bool:
    """Equations up to a constant factor or solved for a letter; inequalities up to a positive."""
    sign, *sides = gold
    if sign != answer[0]:
        return False
    if not all(isinstance(side, Value) for side in (*sides, *answer[1:])):
        return all(map(same, sides, answer[1:]))
    left, right = (
        ("+", first.node, ("neg", second.node))  # type: ignore[union-attr]
        for first, second in (sides, answer[1:])
    )
    symmetric = sign in ("=", r"\ne")
    try:
        if same_value.proportional(left, right, positive=not symmetric):
            return True
        return symmetric and same_value.same_solution(left, right)
    except Undefined:
        return False


def same_congruences(gold: Form, answer: Form, same: Same) -> bool:
    """The same modulus, and residues that are the same modulo it."""
    if not (isinstance(gold, Congruence) and isinstance(answer, Congruence)):
        return False
    if not same(gold.modulus, answer.modulus):
        return False
    if gold.left is not None and answer.left is not None and not same(gold.left, answer.left):
        return False
    modulus = _integer(gold.modulus)
    residues = [[_integer(form) for form in side.residues] for side in (gold, answer)]
    if modulus and None not in residues[0] + residues[1]:
        first, second = ({n % modulus for n in side if n is not None} for side in residues)
        return first == second
    return as_sets(gold.residues, answer.residues, same)


def _integer(form: Form) -> int | None:
    try:
        value = same_value.constant(form.node) if isinstance(form, Value) else None
    except Undefined:
        return None
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None


def same_real_sets(gold: Form, answer: Form, same: Same) -> bool:
    """As sets of real numbers; with symbolic ends, as they are written."""
    try:
        return real_sets.same_set(gold, answer)
    except (Undefined, Unreadable):
        return _same_structure(gold, answer, same)


def _same_structure(gold: Form, answer: Form, same: Same) -> bool:
    if not (isinstance(gold, RealSet) and isinstance(answer, RealSet)):
        return False
    if (gold.operator, gold.closed) != (answer.operator, answer.closed):
        return False
    if gold.operator in ("union", "intersection"):
        return as_sets(gold.parts, answer.parts, same)
    return in_order(gold.parts, answer.parts, same)
