r"""Finds the answer in a response: the content of the last \boxed{}, or of boxes that form a list.

Only boxes count.  Grading the last number of a text without a box is a channel for reward hacking,
and merging all boxes of a response (what math-verify does with a whole response) lets a model list
candidates.  Everything here is linear in the length of the response.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Between two boxes of one list: commas, "and", wide space, beside what delimits mathematics.
_JOINER = re.compile(
    r"(?:[\s$~]|\\[()\[\]!:]|(?P<joins>[,;]|\\,|and\b|\\q?quad(?![A-Za-z])"
    r"|\\(?:text|mathrm|mbox)\s*\{\s*(?:and|,)\s*\}))+"
)
_MAX_BOXES = 64


def last_box(response: str) -> str | None:
    r"""Content of the last `\boxed{}` or `\fbox{}`; None if there is none or it never closes.

    The last box is the one that opens last, so a nested box yields its inside.  A mention of
    `\boxed` without a brace is prose, not a box.
    """
    opening = None
    for match in _BOX.finditer(response):
        opening = match
    if opening is None:
        return None
    end = _closing(response, opening.end(), len(response))
    return None if end < 0 else response[opening.end() : end].strip()


def answer(response: str) -> str | None:
    r"""The last box, with those before it that only commas, `and` or wide space part from it.

    `\boxed{1}, \boxed{2}` and `\boxed{1} and \boxed{2}` are the list 1, 2: neither passes for 2.
    The same box twice is one.
    """
    last = last_box(response)
    boxes = list(_BOX.finditer(response))[-_MAX_BOXES:]
    if not last or len(boxes) < 2:
        return last
    found = [last]
    for box, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        end = _closing(response, box.end(), after.start())
        joiner = _JOINER.fullmatch(response, end + 1, after.start()) if end >= 0 else None
        if joiner is None or joiner["joins"] is None:
            break
        found.append(response[box.end() : end].strip())
    return ", ".join(dict.fromkeys(reversed(found)))


def _closing(text: str, start: int, stop: int) -> int:
    r"""Where the group closes that is open at `start`, -1 if not before `stop`."""
    depth = 1
    for match in _BRACE.finditer(text, start, stop):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return -1
