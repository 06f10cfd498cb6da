"""A pool of worker processes that survives any answer and any kill.

Each worker has its own pipes; there is no shared lock or queue that a dying process could hold.
A death by the CPU limit is blamed on the first unanswered item, which was the one in work, and
the others are queued again.  Any other death (SIGKILL, out of memory) may be an accident: the
item is tried again, and refused only after several.  No wall clock is ever consulted.
"""

import collections
import dataclasses
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator

from dars_jax.rewards.grader import Verdict

_WINDOW = 16  # items sent ahead to a worker, so that it never waits for the caller
_WINDOW_BYTES = 32_768  # below a pipe's 64 KiB: a write never blocks on a busy worker
_MAX_CRASHES = 3  # of one item, by a signal of its own making such as SIGSEGV
_MAX_KILLS = 20  # of one item by SIGKILL: an accident, or out of memory every time
_MAX_FAILED_STARTS = 3
_BLOCKED_EXIT = 99  # as in worker.py, which the trainer's process need not import
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); import dars_jax.rewards.worker as worker; "
    "worker.main(float(sys.argv[2]))"
)


@dataclasses.dataclass
class Item:
    """One distinct answer and its gold forms."""

    id: int
    line: bytes
    deaths: int = 0


class _Worker:
    """One process and the items it has been sent, oldest first."""

    def __init__(self, cpu_limit_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", _MAIN, str(_ROOT), repr(cpu_limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it could only echo an untrusted answer
            bufsize=0,
            cwd="/",
            # Nothing else, no token or proxy; a fixed hash seed orders sympy's sets alike.
            env={"PYTHONHASHSEED": "0"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.sent: collections.deque[Item] = collections.deque()
        self.ready = False
        self._rest = b""

    def has_room(self) -> bool:
        return len(self.sent) < _WINDOW and sum(len(i.line) for i in self.sent) < _WINDOW_BYTES

    def send(self, item: Item) -> None:
        self.sent.append(item)
        try:
            view = memoryview(item.line)
            while view:
                view = view[self.stdin.write(view) :]
        except BrokenPipeError:
            pass  # its end of file is on the way and returns the item

    def receive(self) -> tuple[list[dict], bool]:
        """Messages that have arrived, and whether the worker has ended."""
        data = os.read(self.stdout.fileno(), 65_536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def end(self) -> int:
        """Reaps the process; its exit status."""
        self.process.kill()
        self.stdin.close()
        self.stdout.close()
        return self.process.wait()


class Pool:
    """Runs items on up to num_workers processes, started when there is work."""

    def __init__(self, num_workers: int, cpu_limit_s: float) -> None:
        self._num_workers = num_workers
        self._cpu_limit_s = cpu_limit_s
        self._queue: collections.deque[Item] = collections.deque()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self.counters: collections.Counter[str] = collections.Counter()

    def submit(self, item_id: int, answer: str, forms: tuple[str, ...]) -> None:
        """Queues one item; its verdict comes from a later poll()."""
        message = {"id": item_id, "answer": answer, "forms": forms}
        self._queue.append(Item(item_id, json.dumps(message).encode() + b"\n"))
        self._feed()

    def poll(self, *, wait: bool) -> list[tuple[int, Verdict]]:
        """Verdicts that have arrived; with wait, at least one if any item is out."""
        done: list[tuple[int, Verdict]] = []
        while not done:
            self._feed()
            if not self._workers:
                break
            events = self._selector.select(None if wait and self.busy() else 0)
            for key, _ in events:
                done.extend(self._read(key.data))
            if not wait and not events:
                break
        self._feed()
        return done

    def busy(self) -> bool:
        """Whether any item has no verdict yet."""
        return bool(self._queue) or any(worker.sent for worker in self._workers)

    def worker_ids(self) -> list[int]:
        """Process ids, for tests that kill."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends all workers at once."""
        for worker in self._workers:
            self._selector.unregister(worker.stdout)
            worker.end()
        self._workers.clear()
        self._queue.clear()
        self._selector.close()

    def _feed(self) -> None:
        """Sends to the least busy worker with room; starts another when all have work."""
        while self._queue:
            worker = min(self._workers, key=lambda w: len(w.sent), default=None)
            if (worker is None or worker.sent) and len(self._workers) < self._num_workers:
                worker = _Worker(self._cpu_limit_s)
                self._workers.append(worker)
                self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
            assert worker is not None  # there is one, since num_workers is at least 1
            if not worker.has_room():
                return
            worker.send(self._queue.popleft())

    def _read(self, worker: _Worker) -> Iterator[tuple[int, Verdict]]:
        messages, ended = worker.receive()
        for message in messages:
            if "ready" in message:
                worker.ready = True
                self._failed_starts = 0
                continue
            item = worker.sent.popleft()
            if message["id"] != item.id:
                raise RuntimeError("a grading worker answered out of order")
            self.counters["symbolic"] += message["symbolic"]
            yield item.id, Verdict(message["verdict"])
        if ended:
            yield from self._bury(worker)

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, Verdict]]:
        """Blames the item in work when the limit ended the worker; queues the rest again."""
        self._selector.unregister(worker.stdout)
        self._workers.remove(worker)
        status = worker.process.wait()  # the pipe is at its end: it is dead or dying
        worker.end()
        unanswered = list(worker.sent)
        if status == 0:
            self.counters["workers_recycled"] += 1
        else:
            self.counters["worker_deaths"] += 1
        if not worker.ready:
            self._check_start(status)
        elif status != 0 and unanswered:
            suspect = unanswered[0]
            suspect.deaths += 1
            if status == -signal.SIGPROF:
                yield unanswered.pop(0).id, Verdict.TIMED_OUT
            elif status == _BLOCKED_EXIT or suspect.deaths >= (
                _MAX_KILLS if status == -signal.SIGKILL else _MAX_CRASHES
            ):
                yield unanswered.pop(0).id, Verdict.TOO_BIG
        self._queue.extendleft(reversed(unanswered))

    def _check_start(self, status: int) -> None:
        """A worker that cannot even start will never do: say so instead of trying for ever."""
        self._failed_starts += status >= 0
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise RuntimeError(
                f"grading workers fail to start (exit status {status}): is math-verify installed? "
                f"See for yourself: {sys.executable} -c 'import dars_jax.rewards.worker'"
            )
