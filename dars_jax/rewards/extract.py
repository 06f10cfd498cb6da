r"""Finds the answer in a response: the content of the last \boxed{}.

Only the box counts.  Grading the last number of a text without a box is a channel for reward
hacking, and merging all boxes of a response (what math-verify does with a whole response) lets a
model list candidates.  Boxes that nothing but commas, `and`, `or` or \quad stands between are one
list: two solutions boxed apart count, and `\boxed{1} and \boxed{2}` does not pass for 2.
Everything here is linear in the length of the response.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_JOINER = r"[,;&]|\\q?quad|\b(?:and|or)\b|\\(?:text|mathrm|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}"
_PADDING = r"[^\S\n]|\n(?!\s*\n)|\$|~|\\[,;:! ()\[\]]"
_JOINED = re.compile(rf"(?:{_PADDING})*(?:{_JOINER})(?:{_PADDING}|{_JOINER})*")
_MAX_JOINER = 60  # characters between two boxes of one list


def last_box(response: str) -> str | None:
    r"""Content of the last `\boxed{}` or `\fbox{}`; None if there is none or it never closes.

    The last box is the one that opens last, so a nested box yields its inside.  A mention of
    `\boxed` without a brace is prose, not a box.  Boxes joined into a list yield the list.
    """
    last = None
    for match in _BOX.finditer(response):
        last = match
    if last is None:
        return None
    end = _closing(response, last.end())
    if end is None:
        return None
    content = response[last.end() : end].strip()
    others = _joined_before(response, last.start())
    return ", ".join([*others, content]) if any(other != content for other in others) else content


def _joined_before(response: str, start: int) -> list[str]:
    """Contents of the boxes that are joined to what begins at start."""
    contents: list[str] = []
    for opening, content, end in reversed(_boxes(response, start)):
        if end >= start:
            continue  # inside of a box that is taken already
        between = response[end + 1 : start]
        if len(between) > _MAX_JOINER or not _JOINED.fullmatch(between):
            break
        contents.append(response[content:end].strip())
        start = opening
    return contents[::-1]


def _boxes(response: str, end: int) -> list[tuple[int, int, int]]:
    """(start, start of the content, closing brace) of boxes that close before end, by closing."""
    boxes: list[tuple[int, int, int]] = []
    open_groups: list[tuple[int, int] | None] = []
    for match in _BRACE.finditer(response, 0, end):
        if match[0] == "}":
            box = open_groups.pop() if open_groups else None
            if box:
                boxes.append((*box, match.start()))
        elif match[0] == "{":
            open_groups.append(None)
        elif match[0][-1] == "{" and len(match[0]) > 2:
            open_groups.append(match.span())
    return boxes


def _closing(text: str, start: int) -> int | None:
    r"""Index of the brace that closes the group; escaped braces do not count."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match[0][-1] == "{" and match[0] != r"\{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None
