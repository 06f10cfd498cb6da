r"""The rules: when does an answer count for a gold?

R1 the last box is the answer (extract.py).  R2 values are exact: no rounding, no factor 100.
R3 decimals, fractions and per cent are numbers; unreduced or unevaluated values count.
R4 units, currency and the degree sign are ignored when one side lacks them.
R5 order is free in lists, sets and unions, fixed in tuples; brackets of intervals matter.
R6 `x = 5` counts for `5` and the reverse; equations count by equivalence.
R7 words and letters count without case and fonts.  R8 hedges and longer lists do not count.

Both sides are read as typed forms, and a rule for their kind has to prove that they are equal; what
no rule proves is not equal.  equivalent() answers, or says that it cannot read one of the sides.
"""

import re

from dars_jax.rewards.equality import (
    applications,
    latex,
    lists,
    qualifiers,
    reading,
    relations,
    same_value,
)
from dars_jax.rewards.equality.evaluator import Undefined
from dars_jax.rewards.equality.forms import (
    Cases,
    Congruence,
    Family,
    Form,
    Items,
    Matrix,
    RealSet,
    Relation,
    Sequence,
    Tokens,
    Value,
    Words,
)
from dars_jax.rewards.equality.trees import Unreadable

_CHOICES = frozenset("ABCDEFGHIJ")
_VECTOR = r"\\(?:mathbf|vec|boldsymbol|bm|overrightarrow)\s*(?:\{\s*\w+\s*\}|\w)"
_CROSS_PRODUCT = re.compile(rf"{_VECTOR}\s*\\times")  # no product of numbers; fonts go later
_ALTERNATIVES = frozenset([",", ";", '"and', '"or'])


def equivalent(gold: str, answer: str) -> bool:
    """Whether answer counts for gold.  Raises Unreadable, TooMany or TooBig."""
    if _CROSS_PRODUCT.search(gold) or _CROSS_PRODUCT.search(answer):
        return "".join(gold.split()) == "".join(answer.split())
    unreadable: Exception | None = None
    read = False  # in one of its readings at least
    for gold_tokens in latex.readings(gold):
        for answer_tokens in latex.readings(answer):
            try:
                if _same_tokens(gold_tokens, answer_tokens):
                    return True
                read = True
            except Undefined:  # 1/0 somewhere: read, and equal to nothing
                read = True
            except Unreadable as error:
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
    equivalent(
        r"\sin 30^\circ+\ln 2+\arctan\sqrt3+\pi+e^{1.5}+\sinh 1+\frac72!",
        r"\int_0^1 \tan x dx + \log_2 7 + \arcsin\frac13+\csc 1+\cosh 1",
    )
    equivalent(r"\sqrt{x^2}+½", r"|x|+\frac12")


def _same_text(gold: Tokens, answer: Tokens) -> bool:
    """Spelled alike, as tokens or as words; or the letter of a choice before its text."""
    if gold == answer:
        return bool(gold)
    if reading.is_prose(gold):
        if reading.is_prose(answer) and reading.prose(gold) == reading.prose(answer):
            return True
        if _choice(answer) == reading.prose(gold):
            return True
    return bool(latex.words_in(gold)) and reading.spelled(gold) == reading.spelled(answer)


def _same_tokens(gold: Tokens, answer: Tokens) -> bool:
    if _same_text(gold, answer):
        return True
    gold, gold_condition = qualifiers.split(reading.unwrap(gold))
    answer, answer_condition = qualifiers.split(reading.unwrap(answer))
    if qualifiers.contradict(gold_condition, answer_condition):
        return False
    if _same_text(gold, answer):
        return True
    if _is_text(gold) != _is_text(answer) and not _has_list(gold, answer):
        return False
    functions = applications.used(gold) | applications.used(answer)
    forms = [reading.read(applications.mark(side, functions)) for side in (gold, answer)]
    return same(*forms)


def _has_list(gold: Tokens, answer: Tokens) -> bool:
    return any(token in _ALTERNATIVES for token in gold + answer)


def _is_text(tokens: Tokens) -> bool:
    return reading.is_prose(tokens) and len(reading.prose(tokens)) > 1


def _choice(tokens: Tokens) -> str:
    """The letter of `(B) 5`, `B) 5`, `B: 5`, `B. 5`; "" if no text follows or it names others."""
    if tokens[:1] == ("(",):
        tokens, marks = tokens[1:], ")"
    else:
        marks = "):."
    if len(tokens) < 3 or tokens[0] not in _CHOICES or tokens[1] not in marks:
        return ""
    rest = tokens[2:]
    if rest[0] in "+-*/^" or rest[0] in reading.RELATIONS:
        return ""
    if _CHOICES & set(rest) or any(token in _ALTERNATIVES for token in rest):
        return ""
    return tokens[0].lower()


def same(gold: Form, answer: Form) -> bool:
    """R2 to R8 for two forms."""
    kinds = (gold, answer)
    if any(isinstance(form, Words) for form in kinds):
        return gold == answer
    if any(isinstance(form, Congruence) for form in kinds):
        return relations.same_congruences(gold, answer, same)
    if any(isinstance(form, Relation) for form in kinds):
        return relations.same_relations(gold, answer, same)
    if any(isinstance(form, Sequence) for form in kinds):
        return lists.same_sequences(gold, answer, same)
    if any(isinstance(form, Family) for form in kinds):
        return lists.same_families(gold, answer, same)
    if any(isinstance(form, Cases) for form in kinds):
        return lists.same_cases(gold, answer, same, _same_condition)
    if isinstance(gold, Items) and isinstance(answer, Items):
        if lists.same_items(gold, answer, same):
            return True
        solved = any(isinstance(x, Relation | RealSet) for x in gold.items + answer.items)
        return solved and relations.same_real_sets(gold, answer, same)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return lists.same_matrices(gold, answer, same)
    if any(isinstance(form, RealSet) for form in kinds):
        return relations.same_real_sets(gold, answer, same)
    if any(isinstance(form, Items) for form in kinds):
        return lists.one_and_many(gold, answer, same)
    if isinstance(gold, Value) and isinstance(answer, Value):
        return _same_values(gold, answer)
    return False


def _same_values(gold: Value, answer: Value) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if isinstance(gold.node, str) and isinstance(answer.node, str):
        if gold.node.isalpha() and answer.node.isalpha():
            return gold.node.lower() == answer.node.lower()  # R7, of plain letters
        return gold.node == answer.node
    try:
        return same_value.same_value(gold.node, answer.node)
    except Undefined:
        return gold.node == answer.node


def _same_condition(gold: Tokens, answer: Tokens) -> bool:
    """Two conditions of pieces: spelled alike, or equal as relations."""
    if reading.spelled(gold) == reading.spelled(answer):
        return True
    try:
        return same(reading.read(gold), reading.read(answer))
    except (Unreadable, Undefined):
        return False
