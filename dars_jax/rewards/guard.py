r"""Refuses answers that cost too much, by looking at them, before anything is computed.

A hanging answer costs its whole CPU limit, thousands of times what a harmless one costs, so these
few comparisons save most of the time an adversarial batch takes.  Right answers stay far below
the limits; and an answer spelled exactly like the gold is accepted before the guard looks.
"""

import re

MAX_LENGTH = 512  # characters of a box
_MAX_NESTING = 30
_MAX_DIGITS = 60  # of one number; plain numbers of any length go through the fast path
_MAX_SEPARATORS = 200  # a 10 x 10 matrix has 99; lists are counted exactly in equality/forms.py

_BRACKET = re.compile(r"\\[{}]|[{}()\[\]]")
_LONG_NUMBER = re.compile(rf"\d{{{_MAX_DIGITS + 1}}}")

# For sympy only; equality/evaluator.py bounds its own work.
_HEAVY = re.compile(r"\\(?:i*int|lim|sum|prod|det|nabla|partial|frac\{d)(?![A-Za-z])|vmatrix")
_MAX_SYMBOLIC_LENGTH = 200  # its parser takes a CPU-second for 500 strange characters
_BIG_POWER = re.compile(r"\^\s*\{?\s*-?\d{4,}")
_TOWER = re.compile(r"\^\s*(?:\{[^{}^]*|\(?[^\s{}^]{1,3})\^")
_SMALL_POWER = re.compile(r"(?<=[a-z])\^(?:\{[1-9]\}|[1-9](?!\d))")  # e^{-x^2} is no tower
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w*\}")
_DUMMY = re.compile(r"(?:_\s*\{?\s*|d)([a-zA-Z])")
_LETTER = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


def too_big(answer: str, forms: tuple[str, ...]) -> bool:
    """Static limits for an answer.  A gold is trusted, and may be longer than any limit."""
    if len(answer) > max(MAX_LENGTH, *(2 * len(form) for form in forms)):
        return True
    if _LONG_NUMBER.search(answer) and not any(_LONG_NUMBER.search(form) for form in forms):
        return True
    if answer.count(",") + answer.count("&") > _MAX_SEPARATORS:
        return True
    depth = 0
    for match in _BRACKET.finditer(answer):
        depth += 1 if match[0][-1] in "{([" else -1
        if depth > _MAX_NESTING:
            return True
    return False


def too_heavy_for_sympy(answer: str, gold: str) -> bool:
    """Length, towers, nested factorials, and calculus with letters that the gold lacks."""
    if len(answer) > max(_MAX_SYMBOLIC_LENGTH, 2 * len(gold)):
        return True
    tower = _TOWER.search(_SMALL_POWER.sub("", answer))
    if tower or _BIG_POWER.search(answer) or answer.count("!") > 1:
        return True
    if not _HEAVY.search(answer):
        return False
    if answer.count("\\int") + answer.count("\\lim") + answer.count("\\sum") > 1:
        return True
    dummies = set(_DUMMY.findall(answer)) | {"d", "e", "i"}
    letters = {name for name in _LETTER.findall(_ENVIRONMENT.sub("", answer)) if len(name) == 1}
    return not letters - dummies <= set(_LETTER.findall(gold))
