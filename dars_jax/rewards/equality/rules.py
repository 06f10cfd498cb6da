r"""The rules: when does an answer count for a gold?

R1 the last box, or list of boxes, is the answer (extract.py).  R2 values are exact: no rounding,
no factor 100.
R3 decimals, fractions and per cent are numbers; unreduced or unevaluated values count.
R4 units, currency and the degree sign are ignored when one side lacks them.
R5 order is free in lists, sets and unions, fixed in tuples; brackets of intervals matter.
R6 `x = 5` counts for `5` and the reverse; equations count by equivalence.
R7 words and letters count without case and fonts.  R8 hedges and longer lists do not count.

equivalent() answers, or says that it cannot read one of the sides; then by_math_verify.py is asked.
"""

from fractions import Fraction
from itertools import pairwise

from dars_jax.rewards.equality import (
    applications,
    forms,
    latex,
    qualifiers,
    real_sets,
    same_value,
    units,
)
from dars_jax.rewards.equality.evaluator import Undefined
from dars_jax.rewards.equality.expression import Unreadable
from dars_jax.rewards.equality.forms import (
    Congruence,
    Form,
    Items,
    Matrix,
    RealSet,
    Relation,
    Value,
    Words,
)

_FLIPPED = {">": "<", r"\ge": r"\le"}


def equivalent(gold: str, answer: str) -> bool:
    """Whether answer counts for gold.  Raises Unreadable, TooMany or TooBig."""
    unreadable: Exception | None = None
    read = False  # in one of its readings at least
    readings = [(g, a) for g in latex.readings(gold) for a in latex.readings(answer)]
    for pair in readings:
        gold_tokens, answer_tokens = applications.mark(*pair)
        applied = applications.has_mark(gold_tokens) or applications.has_mark(answer_tokens)
        if gold_tokens == answer_tokens and gold_tokens:
            return True
        gold_tokens, said = qualifiers.split(gold_tokens)
        answer_tokens, says = qualifiers.split(answer_tokens)
        if said and says and said != says:
            read = True
            continue
        gold_prose = forms.is_prose(gold_tokens)
        answer_prose = forms.is_prose(answer_tokens)
        if gold_prose and answer_prose and forms.prose(gold_tokens) == forms.prose(answer_tokens):
            return True
        if gold_prose and _choice(answer_tokens) == forms.prose(gold_tokens):
            return True
        if latex.words_in(gold_tokens) and forms.spelled(gold_tokens) == forms.spelled(
            answer_tokens
        ):
            return True
        if _is_text(gold_tokens) != _is_text(answer_tokens) and not _has_list(*pair):
            continue
        try:
            if same(forms.read(gold_tokens), forms.read(answer_tokens)):
                return True
            read = True
        except Undefined:  # 1/0 somewhere: read, and equal to nothing
            read = True
        except Unreadable as error:
            if applied:  # math-verify would read a product
                read = True
            unreadable = error
    if unreadable and not read:
        raise unreadable
    return False


def may_ask_sympy(answer: str) -> bool:
    """math-verify drops words and hedges with them: `not 5` would count for 5."""
    tokens = latex.readings(answer)[0]
    environments = (r"\begin", r"\end")
    return bool(tokens) and not any(
        token[0] == latex.WORD and not (i >= 2 and tokens[i - 2] in environments)
        for i, token in enumerate(tokens)
    )


def warm_up() -> None:
    """Touches what mpmath computes or imports late."""
    equivalent(
        r"\sin 30^\circ+\ln 2+\arctan\sqrt3+\pi+e^{1.5}+\sinh 1+\frac72!+\binom{x}{2}+(-8)^{1/3}",
        r"\int_0^1 \tan x dx + \log_2 7 + \arcsin\frac13+\csc 1+\cosh 1+\sqrt[3]{x}+\exp(i\pi)",
    )


def _has_list(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    return any(token in (",", ";", '"and', '"or') for token in gold + answer)


def _is_text(tokens: tuple[str, ...]) -> bool:
    return forms.is_prose(tokens) and len(forms.prose(tokens)) > 1


def _choice(tokens: tuple[str, ...]) -> str:
    """The letter of `(B) 5`, `B) 5`, `B: 5`; "" if it is not written like that, or not alone."""
    if any(token in (",", ";", '"and', '"or') for token in tokens):
        return ""
    if len(tokens) > 3 and tokens[0] == "(" and tokens[2] == ")" and tokens[1].isalpha():
        return tokens[1].lower()
    if len(tokens) > 2 and tokens[0] in "ABCDEFGH" and tokens[1] in (")", ":", "."):
        return tokens[0].lower()
    return ""


def same(gold: Form, answer: Form) -> bool:
    """R2 to R8 for two forms."""
    if isinstance(gold, Words) or isinstance(answer, Words):
        return gold == answer
    if isinstance(gold, Congruence) or isinstance(answer, Congruence):
        return _same_congruence(gold, answer)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relations(gold, answer)
    if isinstance(gold, Items) and isinstance(answer, Items):
        if _same_items(gold, answer):
            return True
        solved = any(isinstance(x, Relation | RealSet) for x in gold.items + answer.items)
        return solved and _same_real_sets(gold, answer)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return _same_matrices(gold, answer)
    if isinstance(gold, RealSet) or isinstance(answer, RealSet):
        return _same_real_sets(gold, answer)
    if isinstance(gold, Items) or isinstance(answer, Items):
        return _one_and_many(gold, answer)
    if isinstance(gold, Value) and isinstance(answer, Value):
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return False
        if not units.agree(gold.nouns, answer.nouns):
            return False
        if isinstance(gold.node, str) and isinstance(answer.node, str):
            return _without_case(gold.node) == _without_case(answer.node)  # R7
        try:
            return same_value.same_value(gold.node, answer.node)
        except Undefined:
            return gold.node == answer.node
    return False


def _without_case(name: str) -> str:
    """Latin letters only: \\Delta is not \\delta."""
    return name if name.startswith("\\") else name.lower()


def _same_congruence(gold: Form, answer: Form) -> bool:
    """The same unknown and modulus, and residues that differ by a multiple of it."""
    if not (isinstance(gold, Congruence) and isinstance(answer, Congruence)):
        return False
    if not (same(gold.left, answer.left) and same(gold.modulus, answer.modulus)):
        return False
    sides = (gold.right, answer.right, gold.modulus)
    if same(gold.right, answer.right) or not all(isinstance(side, Value) for side in sides):
        return same(gold.right, answer.right)
    first, second, modulus = (same_value.constant(side.node) for side in sides)
    if not all(isinstance(value, Fraction) for value in (first, second, modulus)) or modulus == 0:
        return False
    return (first - second) % modulus == 0


# Lists, sets, tuples, ratios.


def _same_items(gold: Items, answer: Items) -> bool:
    kinds = {gold.kind, answer.kind}
    if "ratio" in kinds:
        return kinds == {"ratio"} and _same_ratios(gold, answer)
    if "tuple" in kinds:
        # A bare list may stand for a tuple, then in its order; braces may not.
        return "set" not in kinds and _same_in_order(gold.items, answer.items)
    if any(item == Words(forms.DOTS) for item in gold.items):
        return ("tuple" not in kinds or len(kinds) == 1) and _same_in_order(
            gold.items, answer.items
        )
    points = all(_is_tuple(item) for item in gold.items + answer.items)  # solutions are a set
    same_items = _same_in_any_order if points or kinds == {"set"} else _same_multiset
    return same_items(_spread_names(gold), _spread_names(answer)) or (
        kinds == {"list"}
        and _all_named(gold) != _all_named(answer)
        and _same_in_order(gold.items, answer.items)
    )


def _is_tuple(form: Form) -> bool:
    return isinstance(form, Items) and form.kind == "tuple"


def _same_in_order(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
    return len(gold) == len(answer) and all(map(same, gold, answer))


def _same_in_any_order(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
    """Set equality: repeated items count once."""
    return all(any(same(g, a) for a in answer) for g in gold) and all(
        any(same(g, a) for g in gold) for a in answer
    )


def _same_multiset(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
    """In any order, each as often."""
    rest = list(answer)
    for g in gold:
        match = next((i for i, a in enumerate(rest) if same(g, a)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def _spread_names(items: Items) -> tuple[Form, ...]:
    """`a = 4, -8, -10` names one unknown and three values: the name says nothing."""
    first, *others = items.items
    if isinstance(first, Relation) and not any(isinstance(other, Relation) for other in others):
        named = _named_value(first)
        if named is not None:
            return (named, *others)
    return items.items


def _all_named(items: Items) -> bool:
    return all(isinstance(item, Relation) for item in items.items)


def _same_ratios(gold: Items, answer: Items) -> bool:
    """Proportional; a zero part (12:00) allows identity only."""
    if _same_in_order(gold.items, answer.items):
        return True
    if len(gold.items) != len(answer.items):
        return False
    if not all(isinstance(form, Value) and not form.unit for form in gold.items + answer.items):
        return False
    for (g, a), (h, b) in pairwise(zip(gold.items, answer.items, strict=True)):
        left, right = ("*", g.node, b.node), ("*", h.node, a.node)
        if any(_is_zero(form) for form in (g, a, h, b)) or not same_value.same_value(left, right):
            return False
    return True


def _is_zero(form: Value) -> bool:
    try:
        return same_value.constant(form.node) == 0
    except Undefined:
        return False


def _one_and_many(gold: Form, answer: Form) -> bool:
    """One value against several items: equal only if the items are all that value."""
    many, one = (gold, answer) if isinstance(gold, Items) else (answer, gold)
    if many.kind == "ratio":
        if len(many.items) != 2 or not all(isinstance(x, Value) for x in (*many.items, one)):
            return False
        if _is_zero(many.items[1]):
            return False
        return same_value.same_value(("/", many.items[0].node, many.items[1].node), one.node)
    if many.kind == "tuple":
        return False
    items = _spread_names(many)
    if many.kind != "set" and len(items) > 1:
        return False
    return all(same(one, item) for item in items)


def _same_matrices(gold: Matrix, answer: Matrix) -> bool:
    return [len(row) for row in gold.rows] == [len(row) for row in answer.rows] and all(
        map(_same_in_order, gold.rows, answer.rows)
    )


# Equations and inequalities.


def _same_relations(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.signs == ("=",) == answer.signs and _same_sides(gold, answer):
            return True
        return _same_in_any_chain(_links(gold), _links(answer))
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    if set(relation.signs) == {"="}:
        named = _named_value(relation, liberal=relation is answer)
        if named is not None:
            return same(named, other) if relation is gold else same(other, named)
        return False
    return _same_real_sets(gold, answer)


def _same_sides(gold: Relation, answer: Relation) -> bool:
    """Same left, same right, or the other way round: for names, lists and tuples."""
    pairs = [answer.sides, answer.sides[::-1]]
    for left, right in pairs:
        try:
            if same(gold.sides[0], left) and same(gold.sides[1], right):
                return True
        except Undefined:
            continue
    return False


def _named_value(relation: Relation, liberal: bool = False) -> Form | None:
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


def _is_name(tokens: tuple[str, ...], liberal: bool) -> bool:
    if not tokens or tokens in (("e",), ("i",), (r"\pi",)):
        return False
    if liberal:
        outside = [t for t, before in zip(tokens, ("", *tokens), strict=False) if before != "_"]
        return not any(token[0].isdigit() for token in outside)
    if tokens[0] == "(":
        return not any(token[0].isdigit() or token in "+-*/^" for token in tokens)
    letters = sum(token.isalpha() and len(token) == 1 for token in tokens)
    if len(tokens) > 1 and tokens[1] in ("_", "'", "("):
        return not any(token in ("+", "-", "*", "/", "^") for token in tokens)
    return (
        letters == len(tokens) == 1
        or ":" in tokens
        or tokens[0][0] in '"\\'
        or (letters == len(tokens) and all(token.isupper() for token in tokens))
    )


def _links(relation: Relation) -> list[tuple[str, Form, Form]]:
    """A chain as its links, greater-than turned into less-than."""
    links = []
    for sign, (left, right) in zip(relation.signs, pairwise(relation.sides), strict=True):
        if sign in _FLIPPED:
            sign, left, right = _FLIPPED[sign], right, left
        links.append((sign, left, right))
    return links


def _same_in_any_chain(gold: list, answer: list) -> bool:
    return all(any(_same_link(g, a) for a in answer) for g in gold) and all(
        any(_same_link(g, a) for g in gold) for a in answer
    )


def _same_link(gold: tuple[str, Form, Form], answer: tuple[str, Form, Form]) -> bool:
    if gold[0] != answer[0]:
        return False
    if not all(isinstance(side, Value) for side in gold[1:] + answer[1:]):
        return all(map(same, gold[1:], answer[1:]))
    left, right = (
        ("+", first.node, ("neg", second.node)) for first, second in (gold[1:], answer[1:])
    )
    symmetric = gold[0] in ("=", r"\ne")
    try:
        return same_value.proportional(left, right, positive=not symmetric)
    except Undefined:
        return False


# Sets of real numbers.


def _same_real_sets(gold: Form, answer: Form) -> bool:
    try:
        return real_sets.same_set(gold, answer)
    except (Undefined, Unreadable):
        return _same_structure(gold, answer)


def _same_structure(gold: Form, answer: Form) -> bool:
    """Intervals with symbolic ends."""
    if not (isinstance(gold, RealSet) and isinstance(answer, RealSet)):
        return False
    if (gold.operator, gold.closed) != (answer.operator, answer.closed):
        return False
    if gold.operator in ("union", "intersection"):
        return _same_in_any_order(gold.parts, answer.parts)
    return _same_in_order(gold.parts, answer.parts)
