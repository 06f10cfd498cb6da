"""FunctionGrader: a reward function of the user's own, in worker processes or in this one."""

import collections
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

from dars_jax.rewards import functions
from dars_jax.rewards.functions import Function
from dars_jax.rewards.grader import Context, Gold, Grade, Grader, GradingError, Verdict, as_forms
from dars_jax.rewards.math_grader import MathGrader, MathVerifyGrader
from dars_jax.rewards.pool import ROOT, Command, Pool

CORRECT_AT = 0.5
_MATHEMATICS = {"math": MathGrader, "math_verify": MathVerifyGrader}
_OURS = "dars_jax.tasks."  # quick and known not to hang: called in the trainer's process
_STALLED_S = 600.0  # without any news from a worker; CPU limits do not end one that sleeps
_ALL_TIMED_OUT = 20  # so many, and none judged: the limit is wrong, not the answers
_KEPT = 3  # complaints
_MAIN = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "import dars_jax.rewards.function_worker as worker; "
    "worker.main(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))"
)


class FunctionGrader(Grader):
    """Grades with a function of the user's own; see functions.py for what it may look like.

    An answer without a reward (None, NaN) is LEFT_OUT.  What the function raises, or returns that
    is no reward, makes the answer FAILED: a checker that fails on every response would otherwise
    look like a policy that learns nothing.  An answer that takes too long is TIMED_OUT, one that
    takes too much memory TOO_BIG; both are worth 0.
    """

    def __init__(
        self,
        function: Function | Callable[..., Any],
        *,
        correct_at: float = CORRECT_AT,
        max_errors: int = 0,
        pool: Pool | None = None,
    ) -> None:
        """
        Args:
          correct_at: rewards from here on are CORRECT.
          max_errors: FAILED answers of one `grade` that do not raise.
          pool: of workers that call the function; None calls it here.
        """
        if not isinstance(function, Function):
            name = f"{function.__module__}:{getattr(function, '__qualname__', function)}"
            function = functions.of(function, name)
        self._function, self._pool = function, pool
        self._correct_at, self._max_errors = correct_at, max_errors
        self._ours = function.name.startswith(_OURS)
        self._pending: list[tuple[Hashable, dict]] = []  # not called or sent yet
        self._items: dict[int, list[tuple[Hashable, dict]]] = {}  # sent to the pool
        self._next_item = 0
        self._out = 0  # submitted, not graded
        self._finished: list[tuple[Hashable, Grade]] = []
        self._counters: collections.Counter[str] = collections.Counter()
        self._complaints: list[str] = []
        self._judged = self._timed_out = 0
        self._news = time.monotonic()
        self._batches = 0

    def submit(
        self, request_id: int, response: str, gold: Gold, context: Context | None = None
    ) -> None:
        """Queues one response.  Without workers it is graded at once.

        Raises:
          GradingError: the function asks for what is not known here.
        """
        self._submit(request_id, response, gold, context)

    def _submit(self, ticket: Hashable, response: str, gold: Gold, context: Context | None) -> None:
        call = {"response": response, "forms": as_forms(gold)}
        for key in self._function.wanted:
            value = getattr(context, key, None)
            if value is None:
                raise GradingError(
                    f"reward {self._function.name!r} asks for {key!r}, which is not known here"
                )
            call[key] = value
        where = getattr(context, "uid", None)
        self._pending.append((ticket, call if where is None else {**call, "uid": where}))
        self._out += 1
        if len(self._pending) >= self._function.batch:
            self._flush()

    def collect(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple[int, Grade]]:
        """Grades finished since the last call; with wait, all that were submitted."""
        self._flush()
        self._pump(wait=wait, timeout_s=timeout_s)
        finished, self._finished = self._finished, []
        return cast(list[tuple[int, Grade]], finished)

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[Gold],
        contexts: Sequence[Context] | None = None,
    ) -> list[Grade]:
        """Grades a batch, in order.  Responses that were submitted are not disturbed.

        Raises:
          GradingError: more than max_errors of them FAILED.
        """
        self._batches += 1
        for i, pair in enumerate(zip(responses, golds, strict=True)):
            self._submit((self._batches, i), *pair, contexts[i] if contexts else None)
        self._flush()
        self._pump(wait=True, timeout_s=None)
        mine = {t: g for t, g in self._finished if isinstance(t, tuple)}
        self._finished = [(t, g) for t, g in self._finished if not isinstance(t, tuple)]
        grades = [mine[self._batches, i] for i in range(len(responses))]
        failed = sum(grade.verdict == Verdict.FAILED for grade in grades)
        if failed > self._max_errors:
            raise GradingError("; ".join(self.complaints()))
        return grades

    def complaints(self) -> list[str]:
        """What was wrong with the first FAILED since the previous call."""
        complaints, self._complaints = self._complaints, []
        return complaints

    def counters(self) -> dict[str, int]:
        """Responses per verdict since the previous call: reading resets."""
        counts = {v.name.lower(): self._counters[v.name.lower()] for v in Verdict}
        self._counters.clear()
        return counts

    def close(self) -> None:
        """Ends the workers."""
        if self._pool:
            self._pool.close()

    def _flush(self) -> None:
        """Calls the function with what is pending, or sends it."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        if self._pool:
            self._send(pending)
            self._pump(wait=False, timeout_s=None)
            return
        calls = [call for _, call in pending]
        with contextlib.nullcontext() if self._ours else _free_transfers():
            outcomes = functions.rewards(self._function, calls)
        self._take(pending, outcomes)

    def _send(self, tickets: list[tuple[Hashable, dict]]) -> None:
        assert self._pool is not None
        if not self._items:
            self._news = time.monotonic()
        self._items[self._next_item] = tickets
        self._pool.submit(self._next_item, {"calls": [call for _, call in tickets]})
        self._next_item += 1

    def _pump(self, *, wait: bool, timeout_s: float | None) -> None:
        """Takes what the workers have answered; with wait, everything, or until the time is up."""
        if self._pool is None:
            return
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            arrived = self._pool.poll(wait=wait, timeout_s=1.0)
            for item, message in arrived:
                self._answered(self._items.pop(item), message)
            now = time.monotonic()
            if arrived:
                self._news = now
            elif self._items and now - self._news > _STALLED_S:
                self._pool.end_oldest()
                self._news = now
            if not wait or not self._out or (end is not None and now >= end):
                return

    def _answered(self, tickets: list[tuple[Hashable, dict]], message: dict) -> None:
        if "outcomes" in message:
            self._take(tickets, message["outcomes"])
        elif len(tickets) > 1:  # one of many ended the worker: ask for each alone
            for ticket in tickets:
                self._send([ticket])
        elif message["verdict"] == Verdict.TIMED_OUT:
            self._take(tickets, [{"verdict": int(Verdict.TIMED_OUT)}])
        else:
            what = f"it ended its process (exit status {message['status']}) or never answered"
            self._take(tickets, [{"error": what}])

    def _take(self, tickets: list[tuple[Hashable, dict]], outcomes: list[dict]) -> None:
        for (ticket, call), outcome in zip(tickets, outcomes, strict=True):
            self._finished.append((ticket, self._graded(call, outcome)))
            self._out -= 1

    def _graded(self, call: dict, outcome: dict) -> Grade:
        grade = self._verdict(call, outcome)
        self._counters[grade.verdict.name.lower()] += 1
        return grade

    def _verdict(self, call: dict, outcome: dict) -> Grade:
        if outcome.get("verdict") == Verdict.TIMED_OUT:
            self._timed_out += 1
            if not self._judged and self._timed_out >= _ALL_TIMED_OUT:
                outcome = {"error": f"the first {self._timed_out} answers all reached the limit "
                                    "of CPU time; raise reward.timeout_s"}  # fmt: skip
        if "error" in outcome:
            self._complain(call, outcome["error"])
            return Grade(0.0, Verdict.FAILED)
        if "verdict" in outcome:
            return Grade(0.0, Verdict(outcome["verdict"]))
        self._judged += 1
        reward = outcome["reward"]
        if reward is None:
            return Grade(0.0, Verdict.LEFT_OUT)
        return Grade(reward, Verdict.CORRECT if reward >= self._correct_at else Verdict.WRONG)

    def _complain(self, call: dict, error: str) -> None:
        if len(self._complaints) < _KEPT:
            row = f"row {call['uid'] + 1}, " if "uid" in call else ""
            self._complaints.append(
                f"reward {self._function.name!r}: {error}; {row}response "
                f"{call['response']!a:.300}, answer {call['forms'][0]!a:.100}"
            )


@contextlib.contextmanager
def _free_transfers() -> Any:
    """A function may compute with JAX, whose transfers the training loop forbids."""
    if "jax" not in sys.modules:
        yield
        return
    import jax

    with jax.transfer_guard("allow"):
        yield


def load_one(
    name: str,
    *,
    num_workers: int,
    cpu_limit_s: float,
    timeout_s: float,
    memory_gib: float,
    correct_at: float,
    max_errors: int,
    in_process: bool,
) -> Grader:
    """One reward that is no sum; see sum_grader.load_grader."""
    if name in _MATHEMATICS:
        return _MATHEMATICS[name](num_workers, cpu_limit_s)
    for what, value in (("timeout_s", timeout_s), ("memory_gib", memory_gib)):
        if not value > 0:
            raise ValueError(f"{what} must be positive, got {value}")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    function = functions.load(name)
    pool = None
    if not (in_process or name.startswith(_OURS)):
        path = [str(ROOT), *sys.path]
        limits = (repr(float(timeout_s)), str(int(memory_gib * 2**30)))
        env = os.environ | {"PYTHONHASHSEED": "0", "JAX_PLATFORMS": "cpu"}  # chips are taken
        argv = ("-P", "-c", _MAIN, json.dumps(path), name, *limits)
        pool = Pool(num_workers, Command(argv, env, quiet=False))
    return FunctionGrader(function, correct_at=correct_at, max_errors=max_errors, pool=pool)
