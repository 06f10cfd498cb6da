"""How far an evaluation is, on standard error.  Loads no JAX."""

import sys
import time


class Progress:
    """One live line on a terminal; a line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, done: int = 0):
        """`done` of `total` were there before; they do not count as speed."""
        self._what, self._total, self._before = what, total, done
        self._live = sys.stderr.isatty()
        self._start = time.monotonic()
        self._shown = 0.0
        self._width = 0

    def __call__(self, done: int) -> None:
        """Shows it, if the last time is long enough ago or all is done."""
        now = time.monotonic()
        if done < self._total and now - self._shown < (0.1 if self._live else 5):
            return
        self._shown = now
        line = f"{self._what}  {done:,}/{self._total:,}"
        rate = (done - self._before) / max(now - self._start, 1e-9)
        if rate > 0:
            line += f"  {rate:,.1f}/s"
            if done < self._total:
                line += f"  about {_duration((self._total - done) / rate)} left"
        if not self._live:
            print(line, file=sys.stderr, flush=True)
            return
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def close(self) -> None:
        """Leaves the live line."""
        if self._live and self._width:
            sys.stderr.write("\n")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
