"""Tells the application of a function, f(x), from a product, n(n + 1).

A letter before a bracket is a function if it is called f, g or h, if it has a prime, if the bracket
holds what nobody multiplies by like this (a number, one name, several arguments), or if the gold or
the answer uses the same letter so somewhere.  Marked letters are read as functions of their
arguments; all others as factors.
"""

from dars_jax.rewards.equality.expression import APPLY, closing_bracket
from dars_jax.rewards.equality.trees import CONSTANTS
from dars_jax.rewards.equality.vocabulary import word_set

Tokens = tuple[str, ...]

_FUNCTION_LETTERS = frozenset("fghFGH")


def used(tokens: Tokens) -> frozenset[str]:
    """Letters that these tokens apply to something by themselves."""
    return frozenset(
        tokens[i] for i, _, bracket in _candidates(tokens) if _is_argument(tokens, bracket)
    )


def mark(tokens: Tokens, functions: frozenset[str]) -> Tokens:
    """The tokens with APPLY before the brackets of arguments."""
    places = {
        bracket
        for i, end, bracket in _candidates(tokens)
        if _is_argument(tokens, bracket)
        or tokens[i] in functions | _FUNCTION_LETTERS
        or "'" in tokens[i:end]
    }
    return tuple(
        token for i, old in enumerate(tokens) for token in ((APPLY, old) if i in places else (old,))
    )


def _candidates(tokens: Tokens) -> list[tuple[int, int, int]]:
    """(letter, end of its marks, bracket) for letters with a bracket behind them."""
    found = []
    i = 0
    while i < len(tokens):
        end = i + 1
        if _is_letter(tokens[i]):
            end = _after_marks(tokens, end)
            bracket = _after_power(tokens, end)
            if tokens[bracket : bracket + 1] == ("(",):
                found.append((i, end, bracket))
        i = end
    return found


def _is_letter(token: str) -> bool:
    single = len(token) == 1 and token.isalpha() and token.isascii()
    greek = token[0] == "\\" and token[1:].isalpha() and token.lower() in _GREEK
    return (single or greek) and token not in CONSTANTS


_GREEK = frozenset(
    "\\" + name
    for name in word_set(
        "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi "
        "psi omega"
    )
)


def _after_marks(tokens: Tokens, i: int) -> int:
    """Behind subscripts and primes."""
    while i < len(tokens) and tokens[i] in ("_", "'"):
        i = _after_group(tokens, i + 1) if tokens[i] == "_" else i + 1
    return i


def _after_power(tokens: Tokens, i: int) -> int:
    """Behind the -1 of an inverse function or the bracketed number of a derivative."""
    if tokens[i : i + 2] != ("^", "{"):
        return i
    end = _after_group(tokens, i + 1)
    inside = tokens[i + 2 : end - 1]
    derivative = inside[:1] == ("(",) and inside[-1:] == (")",)
    return end if inside == ("-", "1") or derivative else i


def _after_group(tokens: Tokens, i: int) -> int:
    if tokens[i : i + 1] != ("{",):
        return i + 1
    return tokens.index("}", i) + 1 if "}" in tokens[i:] else len(tokens)


def _is_argument(tokens: Tokens, bracket: int) -> bool:
    """A number, a name, or several of something: what stands in f(2), f(x), f(x, y), P(A|B)."""
    inside = tokens[bracket + 1 : closing_bracket(tokens, bracket)]
    if "," in inside or inside.count("|") == 1:
        return True
    if len(inside) == 1:
        return inside[0][0].isdigit() or inside[0].isalpha() or inside[0][0] == "\\"
    return len(inside) > 2 and _is_letter(inside[0]) and _after_marks(inside, 1) == len(inside)
