r"""Finds the answer in a response: the content of the last \boxed{}.

Only the box counts.  Grading the last number of a text without a box is a channel for reward
hacking, and merging all boxes of a response (what math-verify does with a whole response) lets a
model list candidates.  Everything here is linear in the length of the response.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def last_box(response: str) -> str | None:
    r"""Content of the last `\boxed{}` or `\fbox{}`; None if there is none or it never closes.

    The last box is the one that opens last, so a nested box yields its inside.  A mention of
    `\boxed` without a brace is prose, not a box.
    """
    opening = None
    for match in _BOX.finditer(response):
        opening = match
    return None if opening is None else _balanced(response, opening.end())


def _balanced(text: str, start: int) -> str | None:
    r"""Text from start to the brace that closes the group; escaped braces do not count."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return text[start : match.start()].strip()
    return None
