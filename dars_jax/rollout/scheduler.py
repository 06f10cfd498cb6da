"""What to sample next for each prompt, and on which replica of the engine.

    waiting prompts ─► prefix store ─► requests ─► grades ─► top_up ─► more requests …

A prompt moves on by itself: as soon as its own rollouts are graded, its top-ups join a queue, while
other prompts are still in an earlier stage.  With `barrier` every stage waits for the last rollout
of the one before.  Both give the same tokens and grades on any number of replicas, since allocation
looks at one prompt only and a rollout's randomness is keyed by (seed, step, stage, prompt, sample).
Log-probs differ by rounding: programs for fewer slots add up in another order.  A budget is shared
out over all prompts: it needs the barrier.
"""

import collections
import dataclasses
import functools

import jax
import numpy as np

from dars_jax import allocator
from dars_jax.engine.session import Request, SamplingConfig
from dars_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Settings of a step's rollouts.  Sizes are counts."""

    n_pre: int
    n_max: int
    schedule: str  # "none", or one of allocator.SCHEDULES or allocator.BUDGETED
    num_stages: int
    use_std: bool
    sampling: SamplingConfig
    steps_per_dispatch: int
    barrier: bool = False  # always with a budget
    budget: float = 0.0  # top-ups per prompt, in all stages together; 0 is what prompts ask for
    max_errors: int = 0  # answers on which the reward failed, of one collection


@functools.partial(jax.jit, static_argnames="config")
def _allocate(
    correct: jax.Array, sampled: jax.Array, budget: jax.Array, *, config: RolloutConfig
) -> jax.Array:
    rule: str | allocator.Allocator = config.schedule
    if config.schedule in allocator.SCHEDULES:
        rule = allocator.Asks(functools.partial(
            allocator.top_up, schedule=config.schedule, use_std=config.use_std,
            round_size=config.n_pre,
        ))  # fmt: skip
    return allocator.allocate(
        rule, correct, sampled, n_max=config.n_max, budget=budget if config.budget else None
    )


class Scheduler:
    """Decides what to sample next, and where.  Holds counts, touches no array of the device.

    Prompt p starts on replica p % E, where its n_max request rows are kept free.  Top-ups go to
    the replica with least left to do if they would be done earlier there; the prompt is then
    prefilled again.  Rollouts of a prompt that are not graded yet are always on one replica.
    """

    def __init__(
        self,
        prompts: Prompts,
        config: RolloutConfig,
        num_replicas: int,
        num_prefixes: int,
        num_requests: int,
    ):
        """`num_prefixes` and `num_requests` are rows of every replica: prompts and completions."""
        count = len(prompts)
        self._prompts, self._config, self._replicas = prompts, config, num_replicas
        self.sampled = np.zeros(count, np.int32)  # graded so far
        self.correct = np.zeros(count, np.int32)
        self.outside = np.zeros(count, np.int32)  # graded without a reward: in no accuracy
        self.outstanding = np.zeros(count, np.int32)  # asked for, not graded yet
        self.stage = np.zeros(count, np.int32)
        self.home = np.arange(count) % num_replicas  # where the outstanding are
        self._wanted = np.full(count, config.n_pre, np.int32)  # decided, not asked for yet
        self._undecided = np.zeros(count, bool)  # stage complete, allocation not done
        self._prefix = np.full(count, -1, np.int32)
        self._free = [list(range(num_prefixes))[::-1] for _ in range(num_replicas)]
        # wants rollouts, has no prefix; by replica, so that nobody is asked who must wait anyway
        self._waiting = [collections.deque[int](range(e, count, num_replicas))
                         for e in range(num_replicas)]  # fmt: skip
        self._moved: list[int] = []  # wants rollouts, has a prefix row that is not filled yet
        self._ready: collections.deque[int] = collections.deque()  # wants rollouts, has a prefix
        self._used = np.zeros(num_replicas, np.int32)  # request rows
        self._room = num_requests - config.n_max * np.bincount(self.home, minlength=num_replicas)
        self._holds = np.zeros((num_replicas, num_requests, 2), np.int32)  # (prompt, sample)
        self.planned = count * config.n_pre
        self.moves = 0

    @property
    def done(self) -> bool:
        """Nothing left to ask for, to wait for or to decide."""
        queued = any(self._waiting) or self._moved or self._ready
        return not (queued or self.outstanding.any())

    def admit(self) -> list[int]:
        """Gives free prefix rows to waiting prompts -> whom to prefill before `requests`."""
        admitted, self._moved = self._moved, []
        idle = self._idle() if any(self._waiting) else []
        for replica, waiting in enumerate(self._waiting):
            free = self._free[replica]
            while waiting and (free or idle[replica]):
                if not free:
                    self._release(idle[replica].popleft())
                p = waiting.popleft()
                self._prefix[p] = free.pop()
                admitted.append(p)
        self._ready.extend(admitted)
        return admitted

    def _idle(self) -> list[collections.deque[int]]:
        """Of each replica, whose prefix may go: they only wait for the others of their stage."""
        idle = [collections.deque[int]() for _ in self._free]
        for p in np.flatnonzero(self._undecided & (self._prefix >= 0)).tolist():
            idle[self.home[p]].append(p)
        return idle

    def _release(self, p: int | np.integer) -> None:
        if self._prefix[p] >= 0:
            self._free[self.home[p]].append(int(self._prefix[p]))
            self._prefix[p] = -1

    def prefix(self, p: int) -> tuple[int, int, np.ndarray]:
        """(replica, prefix row, tokens) of an admitted prompt."""
        return int(self.home[p]), int(self._prefix[p]), self._prompts.tokens[p]

    def requests(self, seed: int, step: int) -> list[Request]:
        """Requests of all prompts that want rollouts and have a prefix."""
        requests = []
        limit = self._config.sampling.max_tokens
        while self._ready:
            p = self._ready.popleft()
            uid, stage = int(self._prompts.uid[p]), int(self.stage[p])
            replica, prefix = int(self.home[p]), int(self._prefix[p])
            for sample in range(self.sampled[p], self.sampled[p] + self._wanted[p]):
                row = int(self._used[replica])
                self._used[replica] += 1
                self._holds[replica, row] = p, sample
                stream = (seed, step, stage, uid, sample)
                requests.append(Request(replica, row, prefix, stream, limit))
            self.outstanding[p], self._wanted[p] = self._wanted[p], 0
        return requests

    def locate(self, replica: int, row: int) -> tuple[int, int]:
        """(prompt, sample) of a request row."""
        p, sample = self._holds[replica, row].tolist()
        return p, sample

    def graded(self, counts: np.ndarray, outside: np.ndarray | int = 0) -> None:
        """Counts rollouts that were graded.

        Args:
          counts: int32[P,2], how many and how many of them right.
          outside: int32[P], how many of them have no reward.
        """
        count, correct = counts.T
        self.sampled += count
        self.correct += correct
        self.outside += outside
        self.outstanding -= count
        self._undecided |= (count > 0) & (self.outstanding == 0)

    def allocate(self) -> None:
        """Decides for every prompt whose stage is complete: more rollouts, or finished."""
        ready = self._undecided
        config = self._config
        if not ready.any() or (config.barrier and not self.done):
            return
        more = np.zeros_like(self.sampled)
        if config.schedule != "none":
            budget = config.budget * len(ready) / max(config.num_stages - 1, 1)  # of this stage
            # who has finished takes no part in sharing
            sampled = np.where(ready, self.sampled - self.outside, 0)
            counts = jax.device_put((self.correct, sampled, np.int32(round(budget))))
            more = jax.device_get(_allocate(*counts, config=config))
            more = np.minimum(more, config.n_max - self.sampled)  # rows that are left
        again = ready & (more > 0) & (self.stage + 1 < config.num_stages)
        for p in np.flatnonzero(ready & ~again):
            self._release(p)
            self._room[self.home[p]] += config.n_max - self.sampled[p]
        load = np.bincount(self.home, self.outstanding + self._wanted, minlength=self._replicas)
        for p in np.flatnonzero(again):
            self.stage[p] += 1
            self.planned += int(more[p])
            self._place(p, more[p], load)
            self._wanted[p] = more[p]
            load[self.home[p]] += more[p]
        self._undecided[:] = False

    def _place(self, p: int | np.integer, more: int, load: np.ndarray) -> None:
        """Queues a prompt for its top-ups, here or elsewhere; load float[E] is without them."""
        here, rows = self.home[p], self._config.n_max - self.sampled[p]
        able = (self._room >= rows) & np.array([bool(free) for free in self._free])
        there = int(np.argmin(np.where(able, load, np.inf)))
        if able[there] and load[there] + more < load[here]:
            self._release(p)
            self._room[here] += rows
            self._room[there] -= rows
            self.home[p], self._prefix[p] = there, self._free[there].pop()
            self._moved.append(int(p))
            self.moves += 1
        else:
            (self._ready if self._prefix[p] >= 0 else self._waiting[here]).append(int(p))
