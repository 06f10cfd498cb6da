r"""Parts of an expression that no sampling can prove equal: each distinct one becomes a name.

`|x-10|` and `10-x` agree wherever x is small, `\lfloor n/2\rfloor` and `\lfloor n/2.5\rfloor` at
many integers.  So absolute values, floors, minima, remainders, factorials and inverse functions of
what varies, and functions whose rule nobody knows, count as equal only if what they are of is
proved equal.  Equal ones get the same new name in both trees, and the trees are then compared as
expressions in these names.  (n+1)! is not seen to be (n+1) n!.
"""

from collections.abc import Callable

from dars_jax.rewards.equality.expression import Node, variables

Same = Callable[[Node, Node], bool]

_OPERATORS = frozenset(["abs", r"\lfloor", r"\lceil", "mod", "!"])
_FUNCTIONS = frozenset([r"\min", r"\max", r"\gcd", r"\lcm", r"\arcsin", r"\arccos", r"\arctan",
                        r"\arccot"])  # fmt: skip
_IN_ANY_ORDER = frozenset([r"\min", r"\max", r"\gcd", r"\lcm"])


def named(left: Node, right: Node, same: Same) -> tuple[Node, Node]:
    """Both trees with their pieces replaced.

    Args:
      same: decides about the operands of pieces.
    """
    known: list[tuple] = []
    return _replace(left, known, same), _replace(right, known, same)


def _replace(tree: Node, known: list[tuple], same: Same) -> Node:
    if not isinstance(tree, tuple) or tree[0] in ("series", "integral"):
        return tree  # a bound name has no value outside
    if tree[0] == "root" and tree[2] == 2 and isinstance(tree[1], tuple) and tree[1][0] == "^":
        base, exponent = tree[1][1:]
        tree = ("abs", base) if exponent == 2 else tree  # of real numbers, which names are
    if tree[0] == "binom" and variables(tree[2]):
        n, k = tree[1:]
        tree = ("/", ("!", n), ("*", ("!", k), ("!", ("+", n, ("neg", k)))))
    tree = tuple(_replace(part, known, same) if isinstance(part, tuple) else part for part in tree)
    if not _is_piece(tree):
        return tree
    for number, other in enumerate(known):
        if _same_piece(tree, other, same):
            return f"\x00{number}"
    known.append(tree)
    return f"\x00{len(known) - 1}"


def _is_piece(tree: tuple) -> bool:
    if tree[0] == "apply":
        return True
    return bool((tree[0] in _OPERATORS or _function(tree) in _FUNCTIONS) and variables(tree))


def _function(tree: tuple) -> str:
    return tree[1] if tree[0] == "fn" else ""


def _same_piece(one: tuple, other: tuple, same: Same) -> bool:
    head = 2 if one[0] in ("fn", "apply") else 1
    if one[:head] != other[:head] or len(one) != len(other):
        return False
    ours, theirs = one[head:], list(other[head:])
    if one[0] == "abs":
        return same(ours[0], theirs[0]) or same(ours[0], ("neg", theirs[0]))
    if _function(one) in _IN_ANY_ORDER:
        for operand in ours:
            match = next((t for t in theirs if same(operand, t)), None)
            if match is None:
                return False
            theirs.remove(match)
        return True
    return all(same(a, b) for a, b in zip(ours, theirs, strict=True))
