"""A pool of worker processes that survives any answer and any kill.

Items and answers are JSON objects; what they say is between the grader and its kind of worker.

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
from collections.abc import Iterator, Mapping
from typing import Any

from dars_jax.rewards.grader import GradingError, Verdict

_WINDOW = 16  # items sent ahead to a worker, so that it never waits for the caller
_WINDOW_BYTES = 32_768  # below a pipe's 64 KiB: a write never blocks on a busy worker
_MAX_CRASHES = 3  # of one item, by a signal of its own making such as SIGSEGV
_MAX_KILLS = 20  # of one item by SIGKILL: an accident, or out of memory every time
_MAX_FAILED_STARTS = 3
_BLOCKED_EXIT = 99  # as in worker.py, which the trainer's process need not import
_RECYCLE_EXIT = 98  # likewise
ROOT = pathlib.Path(__file__).resolve().parents[2]  # where a worker finds this package


@dataclasses.dataclass(frozen=True)
class Command:
    """How a worker is started."""

    argv: tuple[str, ...]  # after the interpreter, before the descriptor of its lifeline
    env: Mapping[str, str]
    cwd: str | None = None
    quiet: bool = True  # nothing of its standard error is shown
    hint: str = ""  # how to see why it does not start


@dataclasses.dataclass
class Item:
    """A question to a worker."""

    id: int
    line: bytes
    deaths: int = 0


class _Worker:
    """One process and the items it has been sent, oldest first."""

    def __init__(self, command: Command) -> None:
        its_end, self._life = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, *command.argv, str(its_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if command.quiet else None,
            bufsize=0,
            cwd=command.cwd,
            env=dict(command.env),
            pass_fds=(its_end,),
        )
        os.close(its_end)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.sent: collections.deque[Item] = collections.deque()
        self.ready = False
        self._rest = b""

    def has_room(self, item: Item) -> bool:
        held = sum(len(i.line) for i in self.sent)
        return not held or (len(self.sent) < _WINDOW and held + len(item.line) < _WINDOW_BYTES)

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
        os.close(self._life)
        return self.process.wait()


class Pool:
    """Runs items on up to num_workers processes, started when there is work."""

    def __init__(self, num_workers: int, command: Command) -> None:
        self._num_workers = num_workers
        self._command = command
        self._queue: collections.deque[Item] = collections.deque()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self.counters: collections.Counter[str] = collections.Counter()

    def submit(self, item_id: int, fields: Mapping[str, Any]) -> None:
        """Queues one item; its answer comes from a later poll()."""
        message = {"id": item_id, **fields}
        self._queue.append(Item(item_id, json.dumps(message).encode() + b"\n"))
        self._feed()

    def poll(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple[int, dict]]:
        """Answers that have arrived; with wait, at least one if any item is out.

        An item that ended its worker has {"verdict": why, "status": exit status} for an answer.

        Args:
          timeout_s: seconds to wait at most, though nothing has come.
        """
        done: list[tuple[int, dict]] = []
        while not done:
            self._feed()
            if not self._workers:
                break
            events = self._selector.select(timeout_s if wait and self.busy() else 0)
            for key, _ in events:
                done.extend(self._read(key.data))
            if not events and (not wait or timeout_s is not None):
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
                worker = _Worker(self._command)
                self._workers.append(worker)
                self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
            assert worker is not None  # there is one, since num_workers is at least 1
            if not worker.has_room(self._queue[0]):
                return
            worker.send(self._queue.popleft())

    def end_oldest(self) -> None:
        """Kills the workers that have unanswered items; each first item is given up."""
        for worker in [w for w in self._workers if w.sent]:
            worker.sent[0].deaths = _MAX_KILLS
            worker.process.kill()

    def _read(self, worker: _Worker) -> Iterator[tuple[int, dict]]:
        messages, ended = worker.receive()
        for message in messages:
            if "ready" in message:
                worker.ready = True
                self._failed_starts = 0
                continue
            item = worker.sent.popleft()
            if message["id"] != item.id:
                raise RuntimeError("a grading worker answered out of order")
            yield item.id, message
        if ended:
            yield from self._bury(worker)

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, dict]]:
        """Blames the item in work when the limit ended the worker; queues the rest again."""
        self._selector.unregister(worker.stdout)
        self._workers.remove(worker)
        status = worker.process.wait()  # the pipe is at its end: it is dead or dying
        worker.end()
        unanswered = list(worker.sent)
        if status == _RECYCLE_EXIT:
            self.counters["workers_recycled"] += 1
        else:
            self.counters["worker_deaths"] += 1
        if not worker.ready:
            self._check_start(status)
        elif status != _RECYCLE_EXIT and unanswered:
            suspect = unanswered[0]
            suspect.deaths += 1
            if status == -signal.SIGPROF:
                yield unanswered.pop(0).id, {"verdict": Verdict.TIMED_OUT, "status": status}
            elif status == _BLOCKED_EXIT or suspect.deaths >= (
                _MAX_KILLS if status == -signal.SIGKILL else _MAX_CRASHES
            ):
                yield unanswered.pop(0).id, {"verdict": Verdict.TOO_BIG, "status": status}
        self._queue.extendleft(reversed(unanswered))

    def _check_start(self, status: int) -> None:
        """A worker that cannot even start will never do: say so instead of trying for ever."""
        self._failed_starts += status >= 0
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise GradingError(
                f"grading workers fail to start (exit status {status}){self._command.hint}"
            )
