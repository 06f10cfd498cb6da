"""MathGrader: mathematical answers, checked by value."""

import collections
import hashlib
import logging
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from typing import cast

from dars_jax.rewards import fast_path, guard
from dars_jax.rewards.extract import last_box
from dars_jax.rewards.grader import Context, Gold, Grade, Grader, Verdict, as_forms
from dars_jax.rewards.pool import ROOT, Command, Pool

_log = logging.getLogger(__name__)

_GRADES = {verdict: Grade(float(verdict == Verdict.CORRECT), verdict) for verdict in Verdict}
_CACHE_SIZE = 65_536  # pairs of at most about 1 KB
_WARN_FRACTION = 0.005
_WARN_AT_LEAST = 200  # responses: one time-out in a small batch is no news

_MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); import dars_jax.rewards.worker as worker; "
    "worker.main(float(sys.argv[2]), sys.argv[3] == 'authors', int(sys.argv[4]))"
)
_HINT = (
    ": is math-verify installed? See for yourself: "
    f"{sys.executable} -c 'import dars_jax.rewards.worker'"
)

_LONGEST_KEY = 1024  # characters; of longer answers the digest is kept

Key = tuple[str | bytes, tuple[str, ...]]


class MathGrader(Grader):
    r"""Grades the last \boxed{} of a response by the rules in equality/rules.py.

    box -> same spelling or plain numbers -> cache -> static guard -> worker processes

    The verdict of a pair (answer, gold) is found once and kept, time-outs included.  Workers
    start when the first answer needs one.  Methods may be called from any thread.
    """

    _JUDGE = "rules"  # of the worker

    def __init__(self, num_workers: int = 2, cpu_limit_s: float = 1.0) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        if not cpu_limit_s > 0:
            raise ValueError(f"cpu_limit_s must be positive, got {cpu_limit_s}")
        # Nothing else of the environment, no token or proxy; a fixed hash seed orders sympy's sets
        # alike.  Standard error could only echo an untrusted answer.
        argv = ("-P", "-s", "-c", _MAIN, str(ROOT), repr(cpu_limit_s), self._JUDGE)
        command = Command(argv, {"PYTHONHASHSEED": "0"}, cwd="/", hint=_HINT)
        self._pool = Pool(num_workers, command)
        self._lock = threading.RLock()
        self._cache: collections.OrderedDict[Key, Verdict] = collections.OrderedDict()
        self._items: dict[int, Key] = {}  # sent to the pool
        self._waiting: dict[Key, list[Hashable]] = {}  # tickets of each pair in the pool
        self._next_item = 0
        self._batches = 0
        self._submitted: set[int] = set()
        self._finished: list[tuple[int, Grade]] = []
        self._counters: collections.Counter[str] = collections.Counter()
        self._since_warning: collections.Counter[Verdict] = collections.Counter()

    def submit(
        self, request_id: int, response: str, gold: Gold, context: Context | None = None
    ) -> None:
        """Queues one response.  Ids must differ among responses not yet collected."""
        with self._lock:
            if request_id in self._submitted:
                raise ValueError(f"request {request_id} is submitted already")
            self._submitted.add(request_id)
            self._deliver(self._start(request_id, response, gold))
            self._deliver(self._pump(wait=False))

    def collect(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple[int, Grade]]:
        """Grades finished since the last call; with wait, all that were submitted."""
        with self._lock:
            begin = time.monotonic()
            self._deliver(self._pump(wait=False))
            while wait and len(self._finished) < len(self._submitted):
                self._deliver(self._pump(wait=True, timeout_s=timeout_s))
                if timeout_s is not None and time.monotonic() >= begin + timeout_s:
                    break
            finished, self._finished = self._finished, []
            self._submitted.difference_update(request_id for request_id, _ in finished)
            if wait:
                self._warn_of_timeouts()
            return finished

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[Gold],
        contexts: Sequence[Context] | None = None,
    ) -> list[Grade]:
        """Grades a batch, in order.  Responses that were submitted are not disturbed."""
        if len(responses) != len(golds):
            raise ValueError(f"{len(responses)} responses but {len(golds)} golds")
        with self._lock:
            self._batches += 1
            grades: list[Grade | None] = [None] * len(responses)
            missing = len(responses)
            tickets = [(self._batches, i) for i in range(len(responses))]
            done = []
            for ticket, response, gold in zip(tickets, responses, golds, strict=True):
                done += self._start(ticket, response, gold)
            while True:
                for ticket, verdict in done:
                    if isinstance(ticket, tuple):
                        grades[ticket[1]] = _GRADES[verdict]
                        missing -= 1
                    else:
                        self._deliver([(ticket, verdict)])
                if not missing:
                    break
                done = self._pump(wait=True)
            self._warn_of_timeouts()
            return cast(list[Grade], grades)

    def counters(self) -> dict[str, int]:
        """Counts since the previous call: reading resets."""
        with self._lock:
            names = [verdict.name.lower() for verdict in Verdict]
            names += ["fast_path", "cache_hits", "worker_items", "symbolic"]
            names += ["worker_deaths", "workers_recycled"]
            counts = self._counters + self._pool.counters
            self._counters.clear()
            self._pool.counters.clear()
            return {name: counts[name] for name in names}

    def complaints(self) -> list[str]:
        """None: an answer that cannot be judged is not right."""
        return []

    def worker_ids(self) -> list[int]:
        """Process ids of the running workers."""
        with self._lock:
            return self._pool.worker_ids()

    def close(self) -> None:
        """Ends the workers."""
        with self._lock:
            self._pool.close()

    def _start(self, ticket: Hashable, response: str, gold: Gold) -> list[tuple]:
        """The verdict if it is known at once, else nothing: the pair goes to the pool."""
        forms = as_forms(gold)
        answer = self._glance(response, forms)
        if isinstance(answer, Verdict):
            return self._count([ticket], answer)
        key = (answer if len(answer) <= _LONGEST_KEY else _digest(answer), forms)
        if key in self._cache:
            self._cache.move_to_end(key)
            self._counters["cache_hits"] += 1
            return self._count([ticket], self._cache[key])
        if key in self._waiting:
            self._counters["cache_hits"] += 1
            self._waiting[key].append(ticket)
            return []
        self._waiting[key] = [ticket]
        self._items[self._next_item] = key
        self._pool.submit(self._next_item, {"answer": answer, "forms": forms})
        self._next_item += 1
        self._counters["worker_items"] += 1
        return []

    def _glance(self, response: str, forms: tuple[str, ...]) -> Verdict | str:
        """The verdict, or what a worker is to judge."""
        answer = last_box(response)
        if not answer:
            return Verdict.NO_ANSWER
        right = fast_path.decide(answer, forms)
        if right is not None:
            self._counters["fast_path"] += 1
            return Verdict.CORRECT if right else Verdict.WRONG
        return Verdict.TOO_BIG if guard.too_big(answer, forms) else answer

    def _pump(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple]:
        """Takes verdicts from the pool and hands each to everyone who waits for it."""
        done = []
        for item, message in self._pool.poll(wait=wait, timeout_s=timeout_s):
            verdict = Verdict(message["verdict"])
            self._counters["symbolic"] += message.get("symbolic", 0)
            key = self._items.pop(item)
            self._cache[key] = verdict
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
            done += self._count(self._waiting.pop(key), verdict)
        return done

    def _count(self, tickets: list[Hashable], verdict: Verdict) -> list[tuple]:
        self._counters[verdict.name.lower()] += len(tickets)
        self._since_warning[verdict] += len(tickets)
        return [(ticket, verdict) for ticket in tickets]

    def _deliver(self, done: list[tuple]) -> None:
        self._finished += [(ticket, _GRADES[verdict]) for ticket, verdict in done]

    def _warn_of_timeouts(self) -> None:
        total = self._since_warning.total()
        timed_out = self._since_warning[Verdict.TIMED_OUT]
        self._since_warning.clear()
        if total >= _WARN_AT_LEAST and timed_out > _WARN_FRACTION * total:
            _log.warning(
                "%d of %d responses timed out in grading: look at their boxes, or raise "
                "cpu_limit_s",
                timed_out,
                total,
            )


class MathVerifyGrader(MathGrader):
    """math-verify as the paper's authors call it, in the same workers; see authors_call.py.

    For figures beside theirs, not for training: it judges whole responses, with or without a box.
    """

    _JUDGE = "authors"

    def _glance(self, response: str, forms: tuple[str, ...]) -> Verdict | str:
        return response if response.strip() else Verdict.NO_ANSWER


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass")).digest()
