r"""Which letters are functions?  `f(x)` is f of x, `x(x-1)` a product: marks the former.

A letter is a function in a pair of answers if one of them uses it so beyond doubt: with a prime or
an inverse before the bracket (`f'(x)`, `f^{-1}(x)`), or with a bracket that holds one letter, one
number, several arguments or a condition (`f(x)`, `I(0)`, `u(0,t)`, `P(A|B)`).  Then it is one
wherever a bracket follows it, in both.
"""

from dars_jax.rewards.equality.latex import APPLIED

Tokens = tuple[str, ...]
_INVERSE = ("^", "{", "-", "1", "}")


def mark(gold: Tokens, answer: Tokens) -> tuple[Tokens, Tokens]:
    """Both token sequences, functions with the mark APPLIED behind their letter."""
    heads = _certain(gold) | _certain(answer)
    return _marked(gold, heads), _marked(answer, heads)


def has_mark(tokens: Tokens) -> bool:
    """Whether a function is applied."""
    return any(token[-1] == APPLIED for token in tokens)


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha() and token.isascii() and token not in "ei"


def _bracket(tokens: Tokens, at: int) -> tuple[int, bool]:
    """Where the bracket of a function at `at` would open (-1: nowhere), and if it is one surely."""
    i, sure = at + 1, False
    if tokens[i : i + 1] == ("_",):
        i += 1
        if tokens[i : i + 1] == ("{",):
            while i < len(tokens) and tokens[i] != "}":
                i += 1
        i += 1
    while tokens[i : i + 1] == ("'",):
        i, sure = i + 1, True
    if tokens[i : i + 5] == _INVERSE:
        i, sure = i + 5, True
    return (i if tokens[i : i + 1] == ("(",) else -1), sure


def _certain(tokens: Tokens) -> set[str]:
    heads = set()
    for at, token in enumerate(tokens):
        if not _is_letter(token):
            continue
        opens, sure = _bracket(tokens, at)
        if opens < 0:
            continue
        inside = _inside(tokens, opens)
        one = len(inside) == 1 and (_is_letter(inside[0]) or inside[0][0].isdigit())
        if sure or one or "," in inside or "|" in inside:
            heads.add(token)
    return heads


def _inside(tokens: Tokens, opens: int) -> Tokens:
    depth = 0
    for i in range(opens, len(tokens)):
        depth += (tokens[i] == "(") - (tokens[i] == ")")
        if depth == 0:
            return tokens[opens + 1 : i]
    return ()


def _marked(tokens: Tokens, heads: set[str]) -> Tokens:
    return tuple(
        token + APPLIED if token in heads and _bracket(tokens, i)[0] >= 0 else token
        for i, token in enumerate(tokens)
    )
