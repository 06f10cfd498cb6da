"""Ends a run that makes no progress, so that whoever watches over it can start it again.

The loop says where it is and how far; a thread looks at how long ago it last said something new.
What hangs may hold anything, so the process ends at once and clears nothing up: the state on disk
is whole at every moment.  With several processes each has a watchdog of its own: while one hangs
the others wait for it, and theirs end them in the same time.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dars_jax import distributed

# A station may take so many times as long as it ever took before or, the first time, as the limit:
# programs are compiled then.
_PATIENCE = 3
_STDERR = 2  # the descriptor: a notebook's standard error, or a test's, has none
_GRACE_S = 10.0  # to write down where threads are, with a disk and a terminal that may hang too


class Watchdog:
    """Knows when a run last made progress, and ends it when that is too long ago."""

    def __init__(
        self,
        limit_s: float,
        file: Path | None,
        end: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
    ):
        """The run is at its start.

        Args:
          limit_s: seconds without progress; 0 watches nothing.
          file: where stacks are appended, beside standard error.
          end: ends the process; called in a thread of the watchdog's.
        """
        self._limit, self._file, self._end, self._clock = limit_s, file, end, clock
        # (station, step, work) and when: one value, as two threads look at it
        self._last: tuple[tuple[str, int, Any], float] = (("start", 0, None), clock())
        self._slowest: dict[str, float] = {}  # seconds between two signs of a station
        self._over = threading.Event()

    def at(self, station: str, step: int, work: Any = None) -> None:
        """A sign of life: the run is at a station of a step, and has done so much there.

        Only what differs from the last sign is progress.
        """
        place, since = self._last
        if (station, step, work) == place:
            return
        now = self._clock()
        self._slowest[place[0]] = max(self._slowest.get(place[0], 0.0), now - since)
        self._last = (station, step, work), now

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the body runs."""
        if self._limit <= 0:
            yield
            return
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _allowed(self, station: str) -> float:
        """Seconds that a station may take."""
        return max(self._limit, _PATIENCE * self._slowest.get(station, self._limit))

    def _watch(self) -> None:
        main = threading.main_thread().ident
        while not self._over.wait(min(self._limit / 20, 10.0)):
            # Native code that holds the interpreter holds this thread as well: then Python's own
            # watchdog, which needs no interpreter, ends the process with exit code 1.
            (station, step, _), since = self._last
            idle, allowed = self._clock() - since, self._allowed(station)
            faulthandler.dump_traceback_later(allowed + _GRACE_S, exit=True, file=_STDERR)
            if idle <= allowed:
                continue
            others = ", waiting for the other processes" if _waits_for_others(main) else ""
            stacks = f"; stacks of all threads are in {self._file}" if self._file else ""
            message = (
                f"no progress for {idle:,.0f} s at station {station!r} of step {step}{others}, "
                f"where watchdog.minutes = {self._limit / 60:.3g} allows {allowed:,.0f} s{stacks}. "
                "The same command continues from the last checkpoint"
            )
            for tell in (self._tell_console, self._tell_file):
                teller = threading.Thread(target=tell, args=(message,), daemon=True)
                teller.start()
                teller.join(_GRACE_S / 2)
            self._end()
            return

    def _tell_console(self, message: str) -> None:
        os.write(_STDERR, f"error: {message}\n".encode())
        faulthandler.dump_traceback(_STDERR, all_threads=True)

    def _tell_file(self, message: str) -> None:
        if self._file:
            with open(self._file, "a") as file:
                print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", file=file, flush=True)
                faulthandler.dump_traceback(file=file, all_threads=True)


def nobody() -> Watchdog:
    """One that watches nothing."""
    return Watchdog(0, None, lambda: None)


def _waits_for_others(thread: int | None) -> bool:
    """Whether a thread is inside an exchange between processes."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        if frame.f_code.co_filename == distributed.__file__:
            return True
        frame = frame.f_back
    return False
