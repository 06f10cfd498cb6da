"""Stages of rollouts: sample, grade, allocate, sample more where it pays.

    waiting prompts ─► prefix store ─► slots ─► grader ─► counts ─► top_up ─► slots …

A prompt moves on by itself: as soon as its own rollouts are graded, its top-ups join the queue,
while other prompts are still in an earlier stage.  With `barrier` every stage waits for the last
rollout of the one before.  Both give the same rollouts, bit for bit, since allocation looks at one
prompt only and a rollout's randomness is keyed by (seed, step, stage, prompt, sample).
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dars_jax import allocator, exchange
from dars_jax.rewards import Grade, Grader
from dars_jax.session import Request, SamplingConfig, Session
from dars_jax.types import Prompts, Rollouts


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Settings of a step's rollouts.  Sizes are counts."""

    n_pre: int
    n_max: int
    schedule: str  # "none", "et" or "hw"
    num_stages: int
    use_std: bool
    sampling: SamplingConfig
    steps_per_dispatch: int
    barrier: bool = False


@dataclasses.dataclass(frozen=True)
class RolloutStats:
    """What the rollouts of a step cost.  Seconds are wall-clock of the host."""

    decode_steps: int
    busy_slots: int  # summed over decode steps
    slot_steps: int  # slots there were, likewise
    prefill_seconds: float
    decode_seconds: float  # dispatching and waiting for the device
    grade_seconds: float  # submitting and collecting; grading itself overlaps with decoding
    allocate_seconds: float


# progress(rollouts done, rollouts planned so far, tokens, largest stage begun)
ProgressFn = Callable[[int, int, int, int], None]


@functools.partial(jax.jit, static_argnames=("schedule", "n_max", "use_std"))
def _allocate(
    correct: jax.Array, sampled: jax.Array, *, schedule: str, n_max: int, use_std: bool
) -> jax.Array:
    return allocator.top_up(correct, sampled, schedule=schedule, n_max=n_max, use_std=use_std)


class _Clock:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def charge(self, phase: str, since: float) -> float:
        now = time.perf_counter()
        self.seconds[phase] += now - since
        return now


class Scheduler:
    """Decides what to sample next for each prompt.  Holds counts, touches no array of the device.

    Prompt p belongs to replica p % E and keeps there the request rows
    (p // E) * n_max … (p // E + 1) * n_max - 1.
    """

    def __init__(
        self, prompts: Prompts, config: RolloutConfig, num_replicas: int, num_prefixes: int
    ):
        count = len(prompts)
        self._prompts, self._config, self._replicas = prompts, config, num_replicas
        self.sampled = np.zeros(count, np.int32)  # graded so far
        self.correct = np.zeros(count, np.int32)
        self.outstanding = np.zeros(count, np.int32)  # asked for, not graded yet
        self.stage = np.zeros(count, np.int32)
        self._wanted = np.full(count, config.n_pre, np.int32)  # decided, not asked for yet
        self._undecided = np.zeros(count, bool)  # stage complete, allocation not done
        self._prefix = np.full(count, -1, np.int32)
        self._free = [list(range(num_prefixes))[::-1] for _ in range(num_replicas)]
        self._waiting = collections.deque(range(count))  # wants rollouts, has no prefix
        self._ready: collections.deque[int] = collections.deque()  # wants rollouts, has one
        self.planned = count * config.n_pre

    @property
    def done(self) -> bool:
        """Nothing left to ask for, to wait for or to decide."""
        return not (self._waiting or self._ready or self.outstanding.any())

    def admit(self) -> list[int]:
        """Gives free prefix rows to waiting prompts; they need a prefill before `requests`."""
        admitted, blocked = [], collections.deque()
        for p in self._waiting:
            replica = p % self._replicas
            if not self._free[replica]:
                self._evict(replica)
            if self._free[replica]:
                self._prefix[p] = self._free[replica].pop()
                admitted.append(p)
            else:
                blocked.append(p)
        self._waiting = blocked
        self._ready.extend(admitted)
        return admitted

    def _evict(self, replica: int) -> None:
        """Takes the prefix of a prompt that only waits for the others of its stage."""
        idle = np.flatnonzero(self._undecided & (self._prefix >= 0))
        for p in idle[idle % self._replicas == replica][:1]:
            self._release(p)

    def _release(self, p: int) -> None:
        self._free[p % self._replicas].append(int(self._prefix[p]))
        self._prefix[p] = -1

    def prefix(self, p: int) -> tuple[int, int, np.ndarray]:
        """(replica, prefix row, tokens) of an admitted prompt."""
        return p % self._replicas, int(self._prefix[p]), self._prompts.tokens[p]

    def requests(self, seed: int, step: int) -> list[Request]:
        """Requests of all prompts that want rollouts and have a prefix."""
        requests = []
        while self._ready:
            p = self._ready.popleft()
            first = int(self.sampled[p])
            uid, stage = int(self._prompts.uid[p]), int(self.stage[p])
            base = (p // self._replicas) * self._config.n_max
            limit = self._config.sampling.max_tokens
            prefix, replica = int(self._prefix[p]), p % self._replicas
            requests += [
                Request(replica, base + i, prefix, (seed, step, stage, uid, i), limit)
                for i in range(first, first + int(self._wanted[p]))
            ]
            self.outstanding[p], self._wanted[p] = self._wanted[p], 0
        return requests

    def locate(self, replica: int, row: int) -> tuple[int, int]:
        """(prompt, sample) of a request row."""
        local, sample = divmod(row, self._config.n_max)
        return local * self._replicas + replica, sample

    def graded(self, counts: np.ndarray) -> None:
        """Counts rollouts that were graded: int32[P,2], how many and how many of them right."""
        count, correct = counts.T
        self.sampled += count
        self.correct += correct
        self.outstanding -= count
        self._undecided |= (count > 0) & (self.outstanding == 0)

    def allocate(self) -> None:
        """Decides for every prompt whose stage is complete: more rollouts, or finished."""
        ready = self._undecided
        config = self._config
        if not ready.any() or (config.barrier and (self.outstanding.any() or self._waiting)):
            return
        more = np.zeros_like(self.sampled)
        if config.schedule != "none":
            counts = jax.device_put((self.correct, self.sampled))
            more = jax.device_get(
                _allocate(*counts, schedule=config.schedule, n_max=config.n_max,
                          use_std=config.use_std)
            )  # fmt: skip
        again = ready & (more > 0) & (self.stage + 1 < config.num_stages)
        for p in np.flatnonzero(ready & ~again & (self._prefix >= 0)):
            self._release(p)
        for p in np.flatnonzero(again):
            self._wanted[p] = more[p]
            self.stage[p] += 1
            self.planned += int(more[p])
            (self._ready if self._prefix[p] >= 0 else self._waiting).append(int(p))
        self._undecided[:] = False


def collect(
    prompts: Prompts,
    session: Session,
    grader: Grader,
    decode_text: Callable[[np.ndarray], str],
    eos_ids: tuple[int, ...],
    config: RolloutConfig,
    *,
    seed: int,
    step: int,
    progress: ProgressFn = lambda *_: None,
) -> tuple[Rollouts, RolloutStats]:
    """Runs all stages for the prompts of one step.

    While the device decodes, the host decodes text and grades what the last dispatch finished.
    With several processes each does so for its own replicas; the counts are then shared, so that
    all decide alike, and in the end the rollouts.

    Args:
      decode_text: completion tokens int32[n] -> text to grade.
      step: part of every random key; evaluation uses negative numbers.
    """
    scheduler = Scheduler(prompts, config, session.num_replicas, session.config.prefixes)
    store = _Store(prompts, config, eos_ids)
    clock = _Clock()
    tokens = finished = 0
    decode_steps = busy = capacity = 0
    fresh: dict[tuple[int, int], Any] = {}  # completions the grader has not seen
    while True:
        t = time.perf_counter()
        admitted = scheduler.admit()
        if admitted:
            session.prefill([scheduler.prefix(p) for p in admitted])
        session.enqueue(scheduler.requests(seed, step), config.sampling)
        t = clock.charge("prefill", t)
        session.start(config.steps_per_dispatch)
        t = clock.charge("decode", t)
        requests = [scheduler.locate(*where) for where in fresh]
        store.add(requests, scheduler.stage, list(fresh.values()))
        for (p, sample), (ids, _) in zip(requests, fresh.values(), strict=True):
            grader.submit(p * config.n_max + sample, decode_text(ids), prompts.answer[p])
        fresh = {}
        graded = grader.collect(wait=False)
        t = clock.charge("grade", t)
        outcome = session.finish()
        decode_steps += outcome.steps
        busy += outcome.busy
        capacity += outcome.capacity
        fresh = session.drain(outcome.finished, outcome.most)
        t = clock.charge("decode", t)
        if outcome.idle and not outcome.completed:
            graded += grader.collect(wait=True)
        store.grade(graded)
        counts = _count(graded, len(prompts), config.n_max)
        scheduler.graded(exchange.share_counts(counts, session.replicas))
        finished += outcome.completed
        tokens += outcome.tokens
        t = clock.charge("grade", t)
        scheduler.allocate()
        clock.charge("allocate", t)
        progress(finished, scheduler.planned, tokens, int(scheduler.stage.max(initial=0)))
        if scheduler.done and not outcome.completed:
            break
    s = clock.seconds
    stats = RolloutStats(decode_steps, busy, capacity, s["prefill"], s["decode"], s["grade"],
                         s["allocate"])  # fmt: skip
    mine = session.replicas.mine[np.arange(len(prompts)) % session.num_replicas]
    return exchange.gather(store.rollouts(np.where(mine, scheduler.sampled, 0))), stats


def _count(graded: list[tuple[int, Grade]], num_prompts: int, n_max: int) -> np.ndarray:
    """Grades of requests -> int32[P,2], how many of each prompt and how many of them right."""
    every = [request // n_max for request, _ in graded]
    right = [request // n_max for request, grade in graded if grade.reward > 0.5]
    counts = [np.bincount(np.array(x, np.intp), minlength=num_prompts) for x in (every, right)]
    return np.stack(counts, 1).astype(np.int32)


class _Store:
    """Completions by (prompt, sample), in whatever order they arrive."""

    def __init__(self, prompts: Prompts, config: RolloutConfig, eos_ids: tuple[int, ...]):
        shape = (len(prompts), config.n_max)
        width = config.sampling.max_tokens
        self._eos = np.asarray(eos_ids)
        self._tokens = np.zeros((*shape, width), np.int32)
        self._logprob = np.zeros((*shape, width), np.float32)
        self._length, self._stage = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self._truncated = np.zeros(shape, bool)
        self._reward, self._verdict = np.zeros(shape, np.float32), np.zeros(shape, np.int8)

    def add(
        self,
        requests: list[tuple[int, int]],
        stage: np.ndarray,
        completions: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Completions of requests (p, sample), where prompt p is in stage[p]."""
        if not requests:
            return
        p, sample = np.transpose(requests)
        length = np.array([len(ids) for ids, _ in completions])
        tokens, logprob = map(np.concatenate, zip(*completions, strict=True))
        ends = np.cumsum(length)
        column = np.arange(ends[-1]) - np.repeat(ends - length, length)
        at = (*np.repeat([p, sample], length, axis=1), column)
        self._tokens[at], self._logprob[at] = tokens, logprob
        self._length[p, sample], self._stage[p, sample] = length, stage[p]
        self._truncated[p, sample] = ~np.isin(tokens[ends - 1], self._eos)

    def grade(self, graded: list[tuple[int, Grade]]) -> None:
        """Grades of requests, numbered p * n_max + sample."""
        at = [request for request, _ in graded]
        self._reward.reshape(-1)[at] = [grade.reward for _, grade in graded]
        self._verdict.reshape(-1)[at] = [int(grade.verdict) for _, grade in graded]

    def rollouts(self, sampled: np.ndarray) -> Rollouts:
        """Rows of all prompts, in canonical order."""
        prompt = np.repeat(np.arange(len(sampled), dtype=np.int32), sampled)
        starts = np.cumsum(sampled) - sampled
        sample = (np.arange(len(prompt)) - np.repeat(starts, sampled)).astype(np.int32)
        take = lambda x: x[prompt, sample]  # noqa: E731
        return Rollouts(
            prompt=prompt, sample=sample, stage=take(self._stage), tokens=take(self._tokens),
            logprob=take(self._logprob), length=take(self._length),
            truncated=take(self._truncated), reward=take(self._reward),
            verdict=take(self._verdict),
        )  # fmt: skip
