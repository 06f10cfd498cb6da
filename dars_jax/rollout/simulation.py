"""How many decode steps does a DARS step take?  The real Scheduler over an engine that only counts.

    python -m dars_jax.bench simulate

Answer lengths are lognormal, prompts have a true accuracy each; both are drawn per prompt, so that
every policy of scheduling meets the same work.  The ideal is tokens / slots.  No policy can be done
before the ideal, nor before the longest chain of a prompt: its longest answer of every stage, one
after the other.
"""

import collections
import dataclasses
from collections.abc import Callable

import numpy as np

from dars_jax.engine.session import Request, SamplingConfig
from dars_jax.rollout.scheduler import RolloutConfig, Scheduler
from dars_jax.types import Prompts


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step cost.  Steps count every replica's longest, as they wait for each other."""

    rollouts: int
    tokens: int
    prefills: int  # calls, each of up to prefill_batch prompts on every replica
    decode_steps: int
    ideal_steps: float
    chain_steps: int  # the longest chain's; the first token of an answer comes with the prefill
    occupancy: float  # share of all slots of all steps that were busy
    dry: float  # share of the replicas' steps in which one had nothing to decode
    dry_rings: float  # likewise, in which a whole ring had not
    spare_rings: float  # likewise, if answers always lay together on as few rings as hold them
    ratio: float  # decode_steps / ideal_steps
    bound_ratio: float  # decode_steps / the larger of ideal_steps and chain_steps


class _Replica:
    """Slots and queue of one engine replica; `remaining` counts tokens still to be decoded."""

    def __init__(self, slots: int):
        self.remaining = np.zeros(slots, np.int64)
        self.owner = np.full(slots, -1, np.int64)
        self.queue = collections.deque[tuple[int, int]]()  # (request row, tokens), the next first

    def run(self, max_steps: int) -> tuple[int, int, list[int]]:
        """(steps, busy slots summed over them, rows finished) of one dispatch."""
        steps = busy = 0
        finished: list[int] = []
        while steps < max_steps:
            free = np.flatnonzero(self.remaining == 0)[: len(self.queue)]
            if len(free):
                taken = [self.queue.popleft() for _ in free]
                self.owner[free], self.remaining[free] = np.transpose(taken)
            active = self.remaining > 0
            count = int(active.sum())
            if not count:
                break
            # nothing changes until the shortest is done
            leap = min(int(self.remaining[active].min()), max_steps - steps)
            self.remaining[active] -= leap
            steps, busy = steps + leap, busy + leap * count
            finished += self.owner[active & (self.remaining == 0)].tolist()
        return steps, busy, finished


def simulate(
    *,
    num_prompts: int,
    slots: int,
    replicas: int,
    config: RolloutConfig,
    prefixes: int,
    prefill_batch: int = 4,
    mean_tokens: float = 900.0,
    ring: int = 1,
    seed: int = 0,
    make: Callable[..., Scheduler] = Scheduler,
) -> Outcome:
    """One step's rollouts.

    Args:
      slots: of every replica.
      ring: neighbouring replicas whose chips gather weights from each other in an update
        (mesh.fsdp); divides `replicas`.
      config: its steps_per_dispatch is also how long grades take to come back, twice at most.
      mean_tokens: of an answer, before the cap of config.sampling.max_tokens.
      make: makes the scheduler; one that also notes its time, for example.
    """
    rng = np.random.default_rng(seed)
    accuracy = rng.beta(0.5, 0.7, num_prompts)
    sigma = 0.7
    shape = (num_prompts, config.n_max)
    length = rng.lognormal(np.log(mean_tokens) - sigma**2 / 2, sigma, shape)
    length = np.clip(length.astype(np.int64), 2, config.sampling.max_tokens)
    correct = rng.random(shape) < accuracy[:, None]
    one = np.ones(1, np.int32)
    prompts = Prompts((one,) * num_prompts, np.arange(num_prompts), (("",),) * num_prompts)
    requests = -(-num_prompts // replicas) * config.n_max
    scheduler = make(prompts, config, replicas, prefixes, requests)
    engines = [_Replica(slots) for _ in range(replicas)]
    tokens = count = prefills = steps = busy = dry = dry_rings = spare = 0
    chain = np.zeros((num_prompts, config.num_stages), np.int64)
    fresh: list[tuple[int, int]] = []  # finished in the last dispatch: being graded in this one
    while True:
        new = np.bincount(scheduler.home[scheduler.admit()])
        prefills += -(-int(new.max(initial=0)) // prefill_batch)
        for request in scheduler.requests(seed, 0):
            p, sample = scheduler.locate(request.replica, request.row)
            _enqueue(engines, request, int(length[p, sample]))
            stage = scheduler.stage[p]
            chain[p, stage] = max(chain[p, stage], length[p, sample] - 1)
            tokens, count = tokens + int(length[p, sample]), count + 1
        outcomes = [engine.run(config.steps_per_dispatch) for engine in engines]
        worked = np.array([x[0] for x in outcomes])
        longest = int(worked.max())
        active = sum(x[1] for x in outcomes)
        steps, busy = steps + longest, busy + active
        needed = -(-active // max(slots * ring * longest, 1))  # rings, on average
        spare += longest * (replicas - ring * needed)
        dry += int((longest - worked).sum())
        dry_rings += ring * int((longest - worked.reshape(-1, ring).max(1)).sum())
        counts = np.zeros((num_prompts, 2), np.int32)
        for p, sample in fresh:
            counts[p] += (1, correct[p, sample])
        scheduler.graded(counts)
        fresh = [scheduler.locate(e, row) for e, x in enumerate(outcomes) for row in x[2]]
        scheduler.allocate()
        if scheduler.done and not fresh:
            break
    ideal, longest = tokens / (slots * replicas), int(chain.sum(1).max())
    every = steps * replicas
    return Outcome(
        rollouts=count, tokens=tokens, prefills=prefills, decode_steps=steps,
        ideal_steps=round(ideal, 1), chain_steps=longest, occupancy=round(busy / every / slots, 3),
        dry=round(dry / every, 4), dry_rings=round(dry_rings / every, 4),
        spare_rings=round(spare / every, 4),
        ratio=round(steps / ideal, 3), bound_ratio=round(steps / max(ideal, longest), 3),
    )  # fmt: skip


def _enqueue(engines: list[_Replica], request: Request, tokens: int) -> None:
    # the first token comes with the prefill
    engines[request.replica].queue.append((request.row, tokens - 1))


def dars_hw(max_tokens: int, steps_per_dispatch: int, barrier: bool) -> RolloutConfig:
    """The paper's DARS-HW: 8 pre-rollouts, up to 64, two stages."""
    return RolloutConfig(
        n_pre=8, n_max=64, schedule="hw", num_stages=2, use_std=False,
        sampling=SamplingConfig(max_tokens=max_tokens), steps_per_dispatch=steps_per_dispatch,
        barrier=barrier,
    )  # fmt: skip
