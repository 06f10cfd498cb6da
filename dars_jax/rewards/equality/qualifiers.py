r"""Separates an answer from what it says about its letters: `f(x) = 2x for all x`, `k\pi, k \in ℤ`.

Such a condition may be missing on one side; two different ones contradict each other.  It must be
about letters of the answer, and say no more than where they lie: a domain, or an inequality.
"""

from dars_jax.rewards.equality.latex import WORD
from dars_jax.rewards.equality.vocabulary import DOMAINS, QUALIFIER_STARTS, QUALIFIER_WORDS

Tokens = tuple[str, ...]

_NUMBER_SETS = frozenset("ℝℤℕℚℂ")
_INEQUALITIES = frozenset(["<", ">", r"\le", r"\ge", r"\ne"])
_SIGNS = _INEQUALITIES | _NUMBER_SETS | frozenset([r"\in", r"\forall", ",", "^", "_", "{", "}", "+",
                                                   "-", "(", ")", '"and'])  # fmt: skip
_NOISE = frozenset([r"\in", r"\forall", ",", "(", ")", "{", "}", '"and'])


def split(tokens: Tokens) -> tuple[Tokens, frozenset[str]]:
    """The answer itself, and its condition; the whole and no condition if there is none."""
    for start in range(1, len(tokens)):
        head, tail = tokens[:start], tokens[start:]
        if tail[0] == "(" and tail[-1] == ")" and head[-1] != "^":
            tail = tail[1:-1]
        elif tail[0] == ",":
            tail = tail[1:]
        if not tail or head.count("(") != head.count(")") or head.count("{") != head.count("}"):
            continue
        opens = tail[0] == r"\forall" or (tail[0][0] == WORD and tail[0][1:] in QUALIFIER_STARTS)
        bare = tokens[start] in (",", "(") and _is_bare_condition(tail, head)
        if (opens or bare) and _letters(tail) and _letters(tail) <= _letters(head):
            condition = _condition(tail)
            if condition is not None:
                return _without_comma(head), condition
    return tokens, frozenset()


def contradict(first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether both say something and not the same."""
    return bool(first and second and first != second)


def _is_bare_condition(tail: Tokens, head: Tokens) -> bool:
    """`k \\in ℤ`, `n \\ge 1` or `k an integer` without a word before it."""
    if len(tail) > 2 and _is_letter(tail[0]) and any(token[1:] in DOMAINS for token in tail):
        return all(token[0] == WORD for token in tail[1:] if not _is_letter(token))
    if any(token[0] == WORD for token in tail) or "," in head:
        return False
    if len(tail) > 2 and tail[1] == r"\in":
        return tail[2] in _NUMBER_SETS
    inequality = len(tail) > 2 and tail[1] in _INEQUALITIES and tail[0].isalpha()
    return inequality and not _INEQUALITIES & set(head)


def _letters(tokens: Tokens) -> set[str]:
    """Letters, but not the article in `k is a positive integer`."""
    following = (*tokens[1:], "")
    return {
        token
        for token, after in zip(tokens, following, strict=True)
        if _is_letter(token) and not (token == "a" and after[:1] == WORD)
    }


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha() and token.isascii()


def _condition(tail: Tokens) -> frozenset[str] | None:
    """What a condition says, without order and padding; None if it says anything else."""
    said: list[str] = []
    inequality = bool(_INEQUALITIES & set(tail))
    letters = _letters(tail)
    for token in tail:
        if token == "a" and token not in letters:
            continue
        if token[0] == WORD and token[1:] in DOMAINS:
            said.append(DOMAINS[token[1:]])
        elif token in _NOISE or (token[0] == WORD and token[1:] in QUALIFIER_WORDS):
            continue
        elif token in _SIGNS or token.isdigit() or _is_letter(token):
            said.append(token)
        else:
            return None
    if set(said) <= letters:
        return frozenset()  # "for all x": about everything, so about nothing
    # The order of an inequality counts: 1 < n is not n < 1.
    return frozenset([" ".join(said)] if inequality else said)


def _without_comma(tokens: Tokens) -> Tokens:
    return tokens[:-1] if tokens[-1:] == (",",) else tokens
