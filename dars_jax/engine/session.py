"""The host's handle on a running engine: padding to buckets, explicit transfers, slot counts.

Shapes come in powers of two, so that a handful of programs serves any amount of work.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dars_jax import distributed
from dars_jax.engine.programs import Programs
from dars_jax.engine.state import DecodeConfig, Report, Requests, Sampling
from dars_jax.policy import decoder, sharding

_FEWEST_REQUESTS = 64
_SHORTEST_PROMPT = 8


class NonFiniteError(FloatingPointError):
    """The policy gave a log-prob that is no number: whatever was sampled by it means nothing."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One completion to be sampled."""

    replica: int
    row: int  # where its completion is kept, below DecodeConfig.requests
    prefix: int  # row of its prompt in the prefix store
    stream: tuple[int, int, int, int, int]  # seed, step, stage, prompt uid, sample
    limit: int  # most tokens, at most DecodeConfig.response_tokens


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Sampling parameters of a whole work list."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1


@dataclasses.dataclass(frozen=True)
class Progress:
    """Outcome of one dispatch, summed over replicas where not said otherwise."""

    steps: int  # decode steps of the replica that ran longest
    busy: int  # slots in use, summed over steps
    capacity: int  # slots there were, summed over steps
    idle: bool  # nothing active, nothing waiting
    completed: int  # completions that became whole
    tokens: int  # of these
    most: int  # of these, most on one replica
    finished: list[tuple[int, int]]  # (replica, row) of those on this process's replicas


def bucket(n: int, least: int) -> int:
    """Smallest power of two that is >= n and >= least."""
    return max(least, 1 << max(n - 1, 0).bit_length())


class Session:
    """Prefix store, slots and work list of one batch of prompts."""

    def __init__(self, programs: Programs, params: decoder.Params, prefill_batch: int):
        self._programs, self._params = programs, params
        self._prefill_batch = prefill_batch
        self._rows = sharding.rows(programs.mesh)
        self.replicas = distributed.Replicas(programs.mesh, programs.num_replicas)
        self._prefixes = programs.empty_prefixes()
        self._work = programs.empty_work()
        self._size, self._capacity = self.config.slots, self.config.capacities[0]
        self._slots = programs.empty_slots(self._size, self._capacity)
        self._pending: tuple[Report, int] | None = None
        replicas = programs.num_replicas
        self._whole = np.zeros((replicas, self.config.requests), bool)
        self._load = np.zeros(replicas, np.int64)  # requests handed in and not yet whole
        self._total = np.zeros(replicas, np.int64)  # requests handed in so far; a queue never wraps
        self._waiting = False  # whether any replica may have requests in its queue

    @property
    def config(self) -> DecodeConfig:
        """Static sizes, per replica."""
        return self._programs.config

    @property
    def num_replicas(self) -> int:
        """Independent engines."""
        return self._programs.num_replicas

    def prefill(self, prompts: Sequence[tuple[int, int, np.ndarray]]) -> None:
        """(replica, prefix row, tokens int32[length]) each; one program per length bucket.

        Raises:
          ValueError: a prompt is empty or too long.
        """
        for _, _, tokens in prompts:
            if not 1 <= len(tokens) <= self.config.prompt_tokens:
                raise ValueError(
                    f"prompt of {len(tokens)} tokens: 1 to {self.config.prompt_tokens} are possible"
                )
        by_bucket: dict[int, list[list[tuple[int, np.ndarray]]]] = {}
        for replica, row, tokens in prompts:
            width = min(bucket(len(tokens), _SHORTEST_PROMPT), self.config.prompt_tokens)
            lists = by_bucket.setdefault(width, [[] for _ in range(self.num_replicas)])
            lists[replica].append((row, tokens))
        for width, lists in sorted(by_bucket.items()):
            for start in range(0, max(map(len, lists)), self._prefill_batch):
                self._prefill(width, [x[start : start + self._prefill_batch] for x in lists])

    def _prefill(self, width: int, lists: list[list[tuple[int, np.ndarray]]]) -> None:
        shape = (self.num_replicas, self._prefill_batch)
        tokens = np.zeros((*shape, width), np.int32)
        length = np.ones(shape, np.int32)
        row = np.full(shape, self.config.prefixes, np.int32)
        for e, prompts in enumerate(lists):
            for i, (r, ids) in enumerate(prompts):
                tokens[e, i, : len(ids)], length[e, i], row[e, i] = ids, len(ids), r
        arrays = sharding.put((tokens, length, row), self._rows)
        self._prefixes, self._slots = self._programs.prefill(
            self._params, self._prefixes, self._slots, *arrays
        )

    def enqueue(self, requests: Sequence[Request], sampling: SamplingConfig) -> None:
        """Adds requests, in this order, to the queues of their replicas.

        Raises:
          ValueError: a replica gets more requests than DecodeConfig.requests in all, or a row
            beyond them.
        """
        if not requests:
            return
        capacity = self.config.requests
        total = self._total + np.bincount(
            [r.replica for r in requests], minlength=self.num_replicas
        )
        if total.max() > capacity or max(r.row for r in requests) >= capacity:
            raise ValueError(
                f"request {total.max()} of a replica, row {max(r.row for r in requests)}: "
                f"its work list has room for {capacity}"
            )
        self._total = total
        lists: list[list[Request]] = [[] for _ in range(self.num_replicas)]
        for request in requests:
            lists[request.replica].append(request)
        n = bucket(max(map(len, lists)), _FEWEST_REQUESTS)
        shape = (self.num_replicas, n)
        row = np.full(shape, self.config.requests, np.int32)
        prefix, stream = np.zeros(shape, np.int32), np.zeros((*shape, 5), np.int32)
        limit = np.ones(shape, np.int32)
        for e, mine in enumerate(lists):
            if mine:
                row[e, : len(mine)] = [r.row for r in mine]
                prefix[e, : len(mine)] = [r.prefix for r in mine]
                stream[e, : len(mine)] = [r.stream for r in mine]
                limit[e, : len(mine)] = [r.limit for r in mine]
            self._load[e] += len(mine)
        for request in requests:
            self._whole[request.replica, request.row] = False
        new = Requests(
            row=row,
            prefix=prefix,
            stream=stream,
            limit=limit,
            sampling=Sampling(
                temperature=np.full(shape, sampling.temperature, np.float32),
                top_p=np.full(shape, sampling.top_p, np.float32),
                top_k=np.full(shape, sampling.top_k, np.int32),
            ),
        )
        new = sharding.put(new, self._rows)
        self._work = self._programs.enqueue(self._params, self._prefixes, self._work, new)
        if self._load.max() > self._size:
            self._resize(self._fitting(int(self._load.max())), self._capacity)
        self._waiting = int(self._load.max()) > self._size

    def start(self, max_steps: int) -> None:
        """Dispatches up to max_steps decode steps; returns at once."""
        # A replica that returns to shrink would idle while another still has a queue.
        alone = self.num_replicas == 1 or not self._waiting
        self._slots, self._work, report = self._programs.run(
            self._params, self._prefixes, self._slots, self._work, max_steps,
            enough=max((n for n in self.config.sizes if n < self._size and alone), default=0),
        )  # fmt: skip
        self._pending = (report, self._size)

    def finish(self) -> Progress:
        """Waits for the dispatch.  Goes on with fewer slots or longer caches if that is due."""
        assert self._pending is not None  # `start` came before
        report, size = self._pending
        report = self.replicas.local(report)
        whole = report.length > 0
        new = whole & ~self._whole
        self._whole |= whole
        columns = (report.steps, report.busy, report.active, report.waiting, new.sum(1),
                   np.where(new, report.length, 0).sum(1))  # fmt: skip
        agreed = self.replicas.share(np.stack(columns, 1, dtype=np.int32))
        steps, busy, active, waiting, completed, tokens = agreed.T
        self._load = (active + waiting).astype(np.int64)
        self._waiting = bool(waiting.any())
        most = int(self._load.max())
        fitting = self._fitting(most)
        if most:
            longest = int(report.longest.max())
            capacity = next(n for n in self.config.capacities if n >= longest)
            shrinks = not self._waiting and fitting < self._size
            self._resize(fitting if shrinks else self._size, max(capacity, self._capacity))
        return Progress(
            steps=int(steps.max()),
            busy=int(busy.sum()),
            capacity=int(steps.max()) * size * self.num_replicas,
            idle=most == 0,
            completed=int(completed.sum()),
            tokens=int(tokens.sum()),
            most=int(completed.max()),
            finished=[(int(e), int(r)) for e, r in np.argwhere(new)],
        )

    def _fitting(self, load: int) -> int:
        """Fewest slots for so many requests, or all there can be."""
        return next((n for n in self.config.sizes if n >= load), self.config.slots)

    def _resize(self, size: int, capacity: int) -> None:
        if (size, capacity) != (self._size, self._capacity):
            self._slots = self._programs.resize(self._slots, size, capacity)
            self._size, self._capacity = size, capacity

    def drain(self, rows: Sequence[tuple[int, int]], most: int = 0) -> dict[tuple[int, int], Any]:
        """(replica, row) of whole completions -> (tokens int32[n], logprob float32[n]) of each.

        Args:
          rows: on this process's replicas.
          most: rows of one replica, at most, if other processes drain theirs at the same time.
        """
        lists: list[list[int]] = [[] for _ in range(self.num_replicas)]
        for e, row in rows:
            lists[e].append(row)
        most = max(most, *map(len, lists))
        if not most:
            return {}
        index = np.zeros((self.num_replicas, bucket(most, _FEWEST_REQUESTS)), np.int32)
        for e, mine in enumerate(lists):
            index[e, : len(mine)] = mine
        tokens, logprob, length = self.replicas.local(
            self._programs.drain(self._work, sharding.put(index, self._rows))
        )
        return {  # copies: a view would keep the padding of all of them
            (e, row): (tokens[e, i, : length[e, i]].copy(), logprob[e, i, : length[e, i]].copy())
            for e, mine in enumerate(lists)
            for i, row in enumerate(mine)
        }
