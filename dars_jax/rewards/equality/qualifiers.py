r"""What may follow an answer and not change it: `for all x`, `where k is an integer`, `, k \in Z`.

A qualifier says over what the letters of an answer range.  One side may leave it out; two must
say the same.  Whatever else follows (`for even n`, `if x > 0`) belongs to the answer.
"""

from dars_jax.rewards.equality.latex import WORD, word_set

Tokens = tuple[str, ...]
_OPENERS = frozenset([r"\forall", WORD + "for", WORD + "where", WORD + "with"])
_STARTS = _OPENERS | {",", ";", "("}
_KINDS = word_set(
    "is are be a an any the some all every each arbitrary positive negative nonnegative natural "
    "real rational complex integer integers number numbers constant constants"
)
_SETS = frozenset("ℝℤℕℚℂ")
_RELATIONS = frozenset(["<", ">", r"\le", r"\ge", r"\ne"])


def split(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """(the answer, its qualifier without the words that introduce it); () where there is none."""
    for i in range(1, len(tokens)):
        if tokens[i] not in _STARTS:
            continue
        rest = tokens[i:]
        if rest[0] == "(" and rest[-1] == ")":
            rest = rest[1:-1]
        while rest[:1] in ((",",), (";",)):
            rest = rest[1:]
        said = _qualifier(rest)
        if said:
            return tokens[:i], said
    return tokens, ()


def _qualifier(tokens: Tokens) -> Tokens:
    opened = bool(tokens) and tokens[0] in _OPENERS
    if opened:
        universal = tokens[0] == r"\forall" or tokens[1:2] in (
            (WORD + "all",), (WORD + "any",), (WORD + "every",), (WORD + "each",)
        )  # fmt: skip
        tokens = tokens[1:]
        while tokens and tokens[0][0] == WORD and tokens[0][1:] in _KINDS:
            tokens = tokens[1:]
    letters = 0
    while letters < len(tokens) and (_is_letter(tokens[letters]) or tokens[letters] == ","):
        letters += 1
    if not letters or tokens[letters - 1] == ",":
        return ()
    rest = tokens[letters:]
    if not rest:
        return tokens if opened and universal else ()
    if rest[0] == r"\in":
        return tokens if len(rest) >= 2 and rest[1] in _SETS and not _values(rest[2:]) else ()
    if not opened:
        return ()
    if rest[0] in _RELATIONS:
        number = rest[2:] if rest[1:2] == ("-",) else rest[1:]
        return tokens if len(number) == 1 and number[0].isdigit() else ()
    words = all((token[0] == WORD and token[1:] in _KINDS) or token == "a" for token in rest)
    return tokens if words else ()


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha() and token.isascii()


def _values(tokens: Tokens) -> bool:
    """Anything but the marks of a set: R^+, Z_{>0}, Z_{\\ge 0}."""
    return not all(t in ("^", "_", "+", "*", "{", "}", ">", r"\ge", "0") for t in tokens)
