r"""Reads the tokens of an answer as a form: words, a value, a list, a set, a relation, a matrix.

Forms are what rules.py speaks about.  Reading never decides what is right.
"""

from fractions import Fraction
from typing import TypeGuard

from dars_jax.rewards.equality import expression, units
from dars_jax.rewards.equality.evaluator import Machine, as_float, is_real
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
    TooMany,
    Value,
    Words,
    scaled,
)
from dars_jax.rewards.equality.latex import WORD
from dars_jax.rewards.equality.trees import Node, Unreadable, variables

_OPEN = {"(": 1, "[": 1, "{": 1, r"\{": 1, r"\lfloor": 1, r"\lceil": 1, r"\begin": 1,
         r"\langle": 1}  # fmt: skip
_CLOSE = {")": 1, "]": 1, "}": 1, r"\}": 1, r"\rfloor": 1, r"\rceil": 1, r"\end": 1,
          r"\rangle": 1}  # fmt: skip
_PARTNER = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_SEPARATORS = frozenset([",", ";", '"and', '"or'])
RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\equiv", r"\sim"])
_INEQUALITIES = frozenset(["<", ">", r"\le", r"\ge", r"\ne"])
_MODULO = frozenset([r"\pmod", r"\mod", r"\bmod", '"mod'])
_DOTS = (r"\ldots",)
_SET_OPERATORS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}
_SET_NAMES = {"ℝ": "reals", r"\emptyset": "empty"}
_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "smallmatrix", "array"])
_CONDITION_WORDS = frozenset(['"if', '"for', '"when', '"where', '"is', ",", "."])
_MAX_ITEMS = 64
_MAX_CELLS = 100


def read(tokens: Tokens) -> Form:
    """The form of an answer.  Raises Unreadable, or TooMany."""
    tokens = _without_rounding(unwrap(tokens))
    if not tokens:
        raise Unreadable("nothing")
    if RELATIONS & set(tokens):  # x > 1 \land x < 3; p \land q is no list
        words = {r"\land": '"and', r"\lor": '"or'}
        tokens = tuple(words.get(token, token) for token in tokens)
    if sum(token in _MODULO for token in tokens) == 1 and (
        r"\equiv" in tokens or r"\pmod" in tokens
    ):
        return _read_congruence(tokens)
    parts = split(tokens, _SEPARATORS)
    if len(parts) > _MAX_ITEMS:
        raise TooMany(f"{len(parts)} list items")
    if len(parts) > 1:
        joiner = next((word for word in ("and", "or") if WORD + word in tokens), "")
        if _DOTS in parts:
            return _read_sequence([part for part in parts if part])
        items = tuple(item for part in parts if part for item in _read_item(part))
        if not items:
            raise Unreadable("separators alone")
        return Items("list", items, joiner)
    items = _read_item(tokens)
    return items[0] if len(items) == 1 else Items("list", items, "or")


def prose(tokens: Tokens) -> str:
    """The letters of an answer, for R7: without case, fonts, spaces and brackets.

    Signs, dashes, colons and primes stay: AB - CD is not AB CD.
    """
    return "".join(
        token.lstrip(WORD).lower() for token in tokens if token not in ("(", ")", "{", "}", ".")
    )


def spelled(tokens: Tokens) -> str:
    """All tokens without word marks, for text with numbers: June 5.

    Words are lower case already, but for units: mW is not MW.
    """
    return " ".join(token.lower() if len(token) == 1 else token.lstrip(WORD) for token in tokens)


def is_prose(tokens: Tokens) -> bool:
    """Words without any number or operator: `odd`, `(A)`, `\\text{June}`."""
    if any(is_number(token) or token[0] == "\\" for token in tokens):
        return False
    if any(token[0] == WORD for token in tokens):
        return not any(token in RELATIONS or token in "+*/^°%|" for token in tokens)
    letters = [token for token in tokens if token.isalpha() and token.isascii()]
    return (
        bool(letters)
        and all(t.isalpha() or t in "(){}." for t in tokens)
        and (len(letters) == 1 or any(letter.isupper() for letter in letters[1:]))
    )


def is_number(token: str) -> bool:
    """12, 0.5 or .5"""
    return token[0].isdigit() or (token[0] == "." and len(token) > 1)


def split(tokens: Tokens, separators: frozenset[str]) -> list[Tokens]:
    """Splits at separators outside brackets.  Half-open intervals close with any bracket."""
    if separators.isdisjoint(tokens):
        return [tokens]
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += _OPEN.get(token, 0) - _CLOSE.get(token, 0)
        if depth == 0 and token in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts]


def unwrap(tokens: Tokens) -> Tokens:
    """Drops braces round everything and words that only introduce."""
    while len(tokens) >= 2 and tokens[0] == "{" and _closes_at(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _without_rounding(tokens: Tokens) -> Tokens:
    r"""5/6 \approx 0.83 says 5/6, if that is how 5/6 is rounded; x \approx 5 says 5."""
    exact, *rounded = split(tokens, frozenset([r"\approx"]))
    if not rounded:
        return tokens
    if not any(is_number(token) or token in (r"\pi", "e") for token in exact):
        return rounded[0]
    sides = split(exact, frozenset(["="]))
    value, digits = (units.strip(side)[0] for side in (sides[-1], rounded[-1]))
    tree = expression.parse(value)
    if variables(tree) or not is_number(digits[-1]) or digits[:-1] not in ((), ("-",)):
        raise Unreadable("an approximation of what is no number")
    step = Fraction(1, 10 ** len(digits[-1].partition(".")[2]))
    error = Machine().value(("+", tree, ("neg", expression.parse(digits))), {})
    if not is_real(error) or abs(as_float(error)) >= as_float(step):
        raise Unreadable("an approximation that is none")
    return exact


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
    tokens = _without_rounding(unwrap(tokens))
    if not tokens:
        raise Unreadable("an empty item")
    if is_prose(tokens):
        # A letter alone may be a choice, a name or a constant: same() knows all three.
        letter = [token for token in tokens if token.isalpha()]
        return Value(letter[0]) if letter and len(prose(tokens)) == 1 else Words(prose(tokens))
    membership = split(tokens, frozenset([r"\in"]))
    if len(membership) == 2 and _is_subject(membership[0]):
        return Relation((r"\in",), (_side(membership[0]), read(membership[1])), tuple(membership))
    sides = split(tokens, RELATIONS)
    if len(sides) > 1:
        return _read_relation(tokens, sides)
    for operator, name in _SET_OPERATORS.items():
        parts = split(tokens, frozenset([operator]))
        if len(parts) > 1:
            return RealSet(name, tuple(_read_one(part) for part in parts))
    if len(tokens) == 1 and tokens[0] in _SET_NAMES:
        return RealSet(_SET_NAMES[tokens[0]], ())
    if r"\begin" in tokens:
        return _read_environment(tokens)
    bracketed = _read_bracketed(tokens)
    if bracketed is not None:
        return bracketed
    ratio = split(tokens, frozenset([":"]))
    if len(ratio) > 1:
        return Items("ratio", tuple(_read_one(part) for part in ratio))
    tokens, unit = units.strip(tokens)
    return Value(expression.parse(tokens), unit)


def _is_subject(tokens: Tokens) -> bool:
    """x of `x in A`, or (x, y): names alone."""
    return bool(tokens) and not any(is_number(t) or t in "+-*/^" or t[0] == WORD for t in tokens)


# Equations, inequalities, congruences.


def _read_relation(tokens: Tokens, sides: list[Tokens]) -> Form:
    depth, signs = 0, []
    for token in tokens:
        depth += _OPEN.get(token, 0) - _CLOSE.get(token, 0)
        if depth == 0 and token in RELATIONS:
            signs.append(token)
    return Relation(tuple(signs), tuple(_side(side) for side in sides), tuple(sides))


def _side(tokens: Tokens) -> Form:
    try:
        return read(tokens)
    except Unreadable:
        return Words(" ".join(tokens))  # a left side may be any name: \angle ABC, \frac{dy}{dx}


def _read_congruence(tokens: Tokens) -> Form:
    r"""`x \equiv 3 \pmod 5`, `x \equiv 2, 3 (mod 5)`, `3 \pmod 5`."""
    at = next(i for i, token in enumerate(tokens) if token in _MODULO)
    head, tail = tokens[:at], unwrap(tokens[at + 1 :])
    if head[-1:] == ("(",) and tail[-1:] == (")",):
        head, tail = head[:-1], tail[:-1]
    if len(tail) > 1 and tail[0] == "(" and tail[-1] == ")":
        tail = tail[1:-1]
    sides = split(head, frozenset([r"\equiv", "="]))
    if len(sides) > 2:
        raise Unreadable("a chain of congruences")
    left = read(sides[0]) if len(sides) == 2 else None
    values = read(sides[-1])
    residues = values.items if is_list(values) else (values,)
    return Congruence(left, residues, _read_one(tail))


# Lists, sets, tuples, intervals.


def _read_sequence(parts: list[Tokens]) -> Form:
    at = parts.index(_DOTS)
    if _DOTS in parts[at + 1 :]:
        raise Unreadable("dots twice")
    before, after = (
        tuple(_read_one(part) for part in side) for side in (parts[:at], parts[at + 1 :])
    )
    return Sequence(before, after)


def _read_bracketed(tokens: Tokens) -> Form | None:
    """A set, a tuple or an interval, if brackets enclose everything."""
    opening, closing = tokens[0], tokens[-1]
    if len(tokens) < 2 or opening not in ("(", "[", "]", r"\{", r"\langle"):
        return None
    if opening == r"\{":
        if closing != r"\}" or _closes_at(tokens, 0) != len(tokens) - 1:
            return None
        return _read_set(tokens[1:-1])
    if closing not in (")", "]", "[", r"\rangle"):
        return None
    if opening != "]" and _closes_at(tokens, 0) != len(tokens) - 1:
        return None
    parts = split(tokens[1:-1], frozenset([",", ";"]))
    if len(parts) > _MAX_ITEMS:
        raise TooMany(f"{len(parts)} entries")
    if _DOTS in parts and _PARTNER.get(opening) == closing:
        return _read_sequence(parts)
    if (opening, closing) in (("]", ")"), ("(", "[")):
        raise Unreadable("brackets of two notations")
    if len(parts) == 2 and (opening, closing) != ("(", ")") and opening != r"\langle":
        ends = tuple(_read_one(part) for part in parts)
        return RealSet("interval", ends, (opening == "[", closing == "]"))
    if len(parts) > 1:
        if _PARTNER.get(opening) != closing:
            raise Unreadable("brackets that do not match")
        return Items("tuple", tuple(_read_one(part) for part in parts))
    inside = parts[0]
    if opening == "(" and closing == ")" and _needs_no_brackets(inside):
        return _read_one(inside)
    return None


def _read_set(inside: Tokens) -> Form:
    r"""`\{1, 2\}`, `\{x : x > 3\}`, `\{2k \mid k \in ℤ\}`."""
    if not inside:
        return RealSet("empty", ())
    for bar in ("|", ":"):
        described = split(inside, frozenset([bar]))
        if len(described) == 2 and all(described):
            return _read_described(*described)
    form = read(inside)
    return (
        form
        if isinstance(form, Sequence)
        else Items("set", form.items if is_list(form) else (form,))
    )


def _read_described(member: Tokens, condition: Tokens) -> Form:
    """A set of real numbers where the condition is an inequality, otherwise a family."""
    subject = split(member, frozenset([r"\in"]))
    name = subject[0]
    real = len(subject) == 1 or subject[1] == ("ℝ",)
    if len(name) == 1 and name[0].isalpha() and real and _INEQUALITIES & set(condition):
        form = read(condition)
        relations = form.items if is_list(form) else (form,)
        if all(isinstance(relation, Relation) for relation in relations):
            return form
        raise Unreadable("a condition that is no inequality")
    if len(subject) > 1:
        return Family(_read_one(name), (*subject[1], ":", *condition))
    letters = sorted({t for t in condition if len(t) == 1 and t.isalpha() and t.isascii()})
    if len(letters) == 1 and letters[0] in member:  # the name of the parameter says nothing
        member, condition = (
            tuple(WORD.join(("", "parameter")) if t == letters[0] else t for t in side)
            for side in (member, condition)
        )
        member = tuple(r"\omega" if t == '"parameter' else t for t in member)
    return Family(_read_one(member), condition)


def _needs_no_brackets(tokens: Tokens) -> bool:
    """(\\text{A}), (x=5), ([0,1]): brackets that say nothing round what no expression holds."""
    return bool(tokens) and (
        tokens[0] in (r"\begin", r"\{") or any(token in RELATIONS for token in tokens)
    )


def is_list(form: Form) -> TypeGuard[Items]:
    """Whether a form is a bare list."""
    return isinstance(form, Items) and form.kind == "list"


# Matrices and functions in pieces.


def _read_environment(tokens: Tokens) -> Form:
    start = tokens.index(r"\begin")
    open_brace = tokens[start - 1 : start] == (r"\{",)  # \left\{ \begin{array}...\right.
    factor = tokens[: start - open_brace]
    brackets = tokens[start - 1 : start] in (("[",), ("(",)) and tokens[-1:] in (("]",), (")",))
    if brackets:  # \left[ \begin{matrix}
        factor, tokens = tokens[: start - 1], tokens[:-1]
    tokens = tokens[start:]
    if len(tokens) < 8 or tokens[-1] != "}" or tokens[-4] != r"\end":
        raise Unreadable("an environment and something else")
    name = "".join(t.lstrip(WORD) for t in tokens[2 : tokens.index("}")])
    body = tokens[tokens.index("}") + 1 : -4]
    if name == "array" and body[:1] == ("{",):
        body = body[body.index("}") + 1 :]
    if r"\begin" in body:
        raise Unreadable("an environment in another")
    rows = [split(row, frozenset(["&"])) for row in split(body, frozenset([r"\\"])) if row]
    if sum(map(len, rows)) > _MAX_CELLS:
        raise TooMany("matrix entries")
    if (name == "cases" or open_brace) and not factor:
        return _read_cases(rows)
    if name not in _MATRICES or open_brace:
        raise Unreadable(f"environment {name}")
    matrix = Matrix(tuple(tuple(_read_one(cell) for cell in row) for row in rows))
    return scaled(matrix, _factor(factor))


def _factor(tokens: Tokens) -> Node:
    if tokens in ((), ("-",)):
        return Fraction(-1 if tokens else 1)
    return expression.parse(tokens[:-1] if tokens[-1] == "*" else tokens)


def _read_cases(rows: list[list[Tokens]]) -> Form:
    pieces = []
    for row in rows:
        if len(row) != 2:
            raise Unreadable("a case without its condition")
        value = row[0][:-1] if row[0][-1:] == (",",) else row[0]
        condition = tuple(token for token in row[1] if token not in _CONDITION_WORDS)
        pieces.append((_read_one(value), condition))
    return Cases(tuple(pieces))
