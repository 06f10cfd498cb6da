"""How far an evaluation is, on standard error.  Loads no JAX."""

import sys
import time


class Progress:
    """One live line on a terminal; a line every few seconds elsewhere."""

    def __init__(self, what: str):
        self._what = what
        self._before: int | None = None  # done at the first call: they do not count as speed
        self._live = sys.stderr.isatty()
        self._start = self._shown = 0.0
        self._last = -1
        self._width = 0

    def __call__(self, done: int, total: int, *_: int) -> None:
        """Shows news, if the last time is long enough ago or all is done."""
        now = time.monotonic()
        if self._before is None:
            self._before, self._start = done, now
        if done == self._last or (done < total and now - self._shown < (0.1 if self._live else 5)):
            return
        self._shown, self._last = now, done
        line = f"{self._what}  {done:,}/{total:,}"
        rate = (done - self._before) / max(now - self._start, 1e-9)
        if rate > 0:
            line += f"  {rate:,.1f}/s"
            if done < total:
                line += f"  about {duration((total - done) / rate)} left"
        if not self._live:
            print(line, file=sys.stderr, flush=True)
            return
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def log(self, message: str) -> None:
        """A line that stays."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
        print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the live line."""
        if self._live and self._width:
            sys.stderr.write("\n")


def duration(seconds: float) -> str:
    """A time left, as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
