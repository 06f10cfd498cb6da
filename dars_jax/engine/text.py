"""Answers as text while they are being sampled."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass
class TextStream:
    """Ids to text piece by piece; the pieces add up to the text of all ids."""

    decode: Callable[[Sequence[int]], str]
    _window: list[int] = dataclasses.field(default_factory=list)  # ids that decide what comes next
    _shown: int = 0  # ids of the window whose text is out

    def add(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that more ids add, less a character of which bytes may be missing."""
        self._window += ids
        old, new = self.decode(self._window[: self._shown]), self.decode(self._window)
        if len(new) <= len(old) or (new.endswith("\ufffd") and not last):
            return ""
        # A piece alone would lose its leading space: the ids before it stay in view.
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return new[len(old) :]


@dataclasses.dataclass
class StopText:
    """Text piece by piece up to the first of some stop sequences, which is left out."""

    stops: Sequence[str]
    stopped: bool = False
    _held: str = ""  # what may be the beginning of a stop sequence

    def add(self, piece: str, last: bool = False) -> str:
        """The text that is certain to be in the answer, beyond what was returned before."""
        if self.stopped:
            return ""
        text, self._held = self._held + piece, ""
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if not last:
            held = max((_overlap(text, stop) for stop in self.stops), default=0)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, without being whole."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
