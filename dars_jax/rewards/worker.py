"""The process that reads untrusted answers: one JSON line in, one JSON line out.

Started by pool.py as a plain interpreter, with its own environment and without JAX (which would
try to take the TPU).  The kernel ends it when one answer uses too much CPU or writes a file;
Python ends it when anything tries to open, import, compile or start something.
"""

import contextlib
import functools
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dars_jax.rewards import guard, lifeline
from dars_jax.rewards.equality import rules
from dars_jax.rewards.equality.evaluator import TooBig
from dars_jax.rewards.equality.forms import TooMany
from dars_jax.rewards.equality.trees import Unreadable
from dars_jax.rewards.grader import Verdict

BLOCKED_EXIT = 99  # the audit hook saw what no grading does
RECYCLE_EXIT = 98  # time for a fresh process; what is unanswered is not to blame
MEMORY_LIMIT = 480 * 2**20  # bytes of address space
_RECYCLE_ITEMS = 5_000
_RECYCLE_MEMORY = 400 * 2**20  # bytes

_FORBIDDEN = frozenset(["open", "import", "exec", "compile", "pickle.find_class", "marshal.loads"])
_FORBIDDEN_PREFIXES = ("os.", "socket.", "subprocess.", "shutil.", "ctypes.", "urllib.", "http.",
                       "ftplib.", "mmap.", "sqlite3.", "webbrowser.", "pty.", "fcntl.")  # fmt: skip


class _Seal:
    """The audit hook.  It cannot be removed; open() lifts it for our own imports only.

    What is `permitted`, an event and its arguments, is let through.
    """

    def __init__(self, permitted: Callable[[str, tuple], bool] = lambda *_: False) -> None:
        self._closed = False
        self._permitted = permitted
        sys.addaudithook(self._hook)

    def close(self) -> None:
        self._closed = True

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        self._closed = False
        try:
            yield
        finally:
            self._closed = True

    def _hook(self, event: str, args: tuple) -> None:
        if (
            self._closed
            and (event in _FORBIDDEN or event.startswith(_FORBIDDEN_PREFIXES))
            and not self._permitted(event, args)
        ):
            os._exit(BLOCKED_EXIT)


def _limited(cpu_limit_s: float, function: Callable, answer: str, golds: list[str]) -> tuple:
    """Calls function under the CPU limit: user and system time of this process.

    The signal's default action ends the process, also inside a C loop.
    """
    signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
    try:
        return function(answer, golds)
    except (MemoryError, RecursionError):
        return Verdict.TOO_BIG, []
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Judge:
    """Reads answers within limits.  sympy (0.8 CPU-s, 60 MB) is loaded only when needed."""

    def __init__(self, cpu_limit_s: float) -> None:
        self._limited = functools.partial(_limited, cpu_limit_s)
        self._symbolic: Any = None  # by_math_verify, once it is loaded
        rules.warm_up()
        self._seal = _Seal()
        self._seal.close()

    def verdict(self, answer: str, golds: list[str]) -> tuple[Verdict, bool]:
        """The best verdict over the accepted forms, and whether math-verify was asked."""
        verdict, unread = self._limited(self._compare, answer, golds)
        if verdict == Verdict.CORRECT or not unread:
            return verdict, False
        if self._symbolic is None:
            self._load_symbolic()
        asked, _ = self._limited(self._ask_sympy, answer, unread)
        return (asked if asked != Verdict.WRONG else verdict), True

    def _compare(self, answer: str, golds: list[str]) -> tuple[Verdict, list[str]]:
        verdict, unread = Verdict.WRONG, []
        for gold in golds:
            try:
                if rules.equivalent(gold, answer):
                    return Verdict.CORRECT, []
            except Unreadable:
                if guard.too_heavy_for_sympy(answer, gold):
                    verdict = Verdict.TOO_BIG
                elif rules.may_ask_sympy(answer):
                    unread.append(gold)
            except (TooBig, TooMany):
                verdict = Verdict.TOO_BIG
            except (ArithmeticError, LookupError, TypeError, ValueError):
                # A fault of ours on a strange answer must not cost a worker; it is not correct.
                continue
        return verdict, unread

    def _ask_sympy(self, answer: str, golds: list[str]) -> tuple[Verdict, list[str]]:
        for gold in golds:
            # Whatever sympy raises on hostile input, the answer is not shown to be right.
            with contextlib.suppress(Exception):
                if self._symbolic.equivalent(gold, answer):
                    return Verdict.CORRECT, []
        return Verdict.WRONG, []

    def _load_symbolic(self) -> None:
        with self._seal.open():
            from dars_jax.rewards.equality import by_math_verify

            by_math_verify.warm_up()
            self._symbolic = by_math_verify


class _AuthorsJudge:
    """math-verify over whole responses; see authors_call.py for what it may run."""

    def __init__(self, cpu_limit_s: float) -> None:
        from dars_jax.rewards.equality import authors_call

        self._limited = functools.partial(_limited, cpu_limit_s)
        authors_call.warm_up()
        self._judge = authors_call.judge
        _Seal(authors_call.permits).close()

    def verdict(self, answer: str, golds: list[str]) -> tuple[Verdict, bool]:
        """The best verdict over the accepted forms; math-verify was asked."""
        verdict, _ = self._limited(self._compare, answer, golds)
        return verdict, True

    def _compare(self, answer: str, golds: list[str]) -> tuple[Verdict, list[str]]:
        verdict = Verdict.WRONG
        for gold in golds:
            right = self._judge(gold, answer)
            if right:
                return Verdict.CORRECT, []
            if right is None:
                verdict = Verdict.NO_ANSWER
        return verdict, []


def main(cpu_limit_s: float, authors: bool, life: int) -> None:
    """Serves until stdin ends, or until it is time for a fresh process.

    Args:
      authors: judge by math-verify instead of by our rules.
      life: see lifeline.tie.
    """
    lifeline.tie(life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = os.open("/proc/self/statm", os.O_RDONLY)  # before files are out of reach
    judge = (_AuthorsJudge if authors else _Judge)(cpu_limit_s)
    _reply({"ready": True})
    for _ in range(_RECYCLE_ITEMS):
        line = sys.stdin.buffer.readline()
        if not line:
            return
        item = json.loads(line)
        verdict, symbolic = judge.verdict(item["answer"], item["forms"])
        _reply({"id": item["id"], "verdict": int(verdict), "symbolic": symbolic})
        if _resident(statm) > _RECYCLE_MEMORY:
            break
    sys.exit(RECYCLE_EXIT)


def _resident(statm: int) -> int:
    """Bytes in memory now.  The peak that getrusage gives starts from the parent's, a trainer."""
    return int(os.pread(statm, 64, 0).split()[1]) * resource.getpagesize()


def _reply(message: dict) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")  # below PIPE_BUF: whole or not at all
