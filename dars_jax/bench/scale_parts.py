"""Parts of a step one at a time, against their size.

Times are the least of several, which other programs disturbed least.
"""

import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dars_jax.bench import allocators, steps
from dars_jax.bench.work import MODELS, Work, load_policy, timed
from dars_jax.engine.session import Session
from dars_jax.learner import packing
from dars_jax.policy.decoder import ARCHITECTURES
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.rewards import load_grader
from dars_jax.rollout import simulation
from dars_jax.rollout.scheduler import Scheduler
from dars_jax.types import Prompts, Ragged, Rollouts, UpdateBatch

GROUP = 64  # rollouts of a prompt
LONGEST, MEAN, SIGMA = 3072, 900, 0.7  # tokens of an answer, lognormal
ROW_TOKENS, PROMPT_TOKENS, ROWS = 4096, 200, 256
REPLICA_SLOTS, REPLICA_PREFIXES, REPLICAS = 256, 64, 8
MATH = "math"
SUM = "math + 0.2 * dars_jax.tasks.word_problems:check"
WORKERS = 2
_SLOTS = 64  # of all replicas
_DISPATCH = 256  # answers that are submitted at a time
_BYTES = {"state": 12, "published": 2}  # of a parameter: weight and two moments, bfloat16


# Sampling ----------------------------------------------------------------------------------------


def slots(size: int, repeats: int, work: Work | None = None) -> dict[str, Any]:
    """Decoding 2,048 answers of 32 tokens with so many slots."""
    work = work or Work(prompts=128, samples=16, new_tokens=32)
    line = steps.rollout(load_policy("tiny"), work, size, 128, repeats)
    keys = ("ms_per_decode_step", "decode_steps", "occupancy", "matmul_share")
    speed = line["tokens"] / min(line["seconds"])
    return {"tokens_per_s": speed, **{key: line[key] for key in keys}}


def replicas(size: int, repeats: int, work: Work | None = None) -> dict[str, Any]:
    """The same work on so many simulated devices, looked at after every step and every 16.

    What a dispatch costs beside its decode steps is the difference.
    """
    work = work or Work(prompts=64, samples=8, new_tokens=32)
    policy = load_policy("tiny")
    programs = steps.make_programs(policy, work, _SLOTS)
    params = programs.publish(policy.params)
    found: dict[int, list[dict[str, Any]]] = {1: [], 16: []}
    for i in range(1 + repeats):  # in turn; the first compiles
        for every, costs in found.items():
            session = Session(programs, params, programs.config.prefixes)
            costs.append(steps.sample_all(session, work, every, i)[1])
    often, seldom = (min(x["ms_per_decode_step"] for x in costs[1:]) for costs in found.values())
    return {
        "devices": jax.device_count(), "slots_per_replica": _SLOTS // size,
        "decode_steps": found[16][0]["decode_steps"], "ms_per_decode_step": seldom,
        "ms_looked_at_each": often, "ms_per_dispatch": (often - seldom) * 16 / 15,
    }  # fmt: skip


_DECIDES = ("admit", "requests", "graded", "allocate")


def _clocked(total: Counter[str]) -> Callable[..., Scheduler]:
    """Makes a scheduler that adds to `total` the seconds of all that the stage loop asks of it."""

    def clocked(name: str, method: Callable) -> Callable:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            found = method(*args)
            total[name] += time.perf_counter() - begin  # type: ignore[assignment]
            total["dispatches"] += name == "allocate"
            return found

        return call

    def make(*args: Any) -> Scheduler:
        made = Scheduler(*args)
        for name in _DECIDES:
            setattr(made, name, clocked(name, getattr(made, name)))
        return made

    return make


def scheduler(size: int, repeats: int) -> dict[str, Any]:
    """The host's decisions of a step of so many prompts on 8 replicas, beside a counting engine."""
    settings = simulation.dars_hw(max_tokens=LONGEST, steps_per_dispatch=128, barrier=False)
    found = []
    for _ in range(1 + repeats):  # the first compiles the allocation
        found.append(Counter[str]())
        outcome = simulation.simulate(
            num_prompts=size, slots=REPLICA_SLOTS, replicas=REPLICAS, config=settings,
            prefixes=REPLICA_PREFIXES, mean_tokens=MEAN, make=_clocked(found[-1]),
        )  # fmt: skip
    total = min(found[1:], key=lambda t: sum(t.values()))
    dispatches = total.pop("dispatches")
    seconds = sum(total.values())
    return {
        "rollouts": outcome.rollouts, "dispatches": dispatches, "seconds": seconds,
        "us_per_rollout": 1e6 * seconds / outcome.rollouts,
        **{f"{name}_ms_per_dispatch": 1e3 * s / dispatches for name, s in sorted(total.items())},
    }  # fmt: skip


def decide(size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of every allocator's decision within a budget."""
    line = {}
    for (name, way), run in allocators.decisions(size).items():
        if way.endswith("budget"):
            run()
            line[f"{name}_ms"] = 1e3 * min(timed(run) for _ in range(repeats))
    return line


# The batch ---------------------------------------------------------------------------------------


def made_up(count: int) -> tuple[Prompts, Rollouts]:
    """Graded groups of 64 answers with lognormal lengths."""
    rng = np.random.default_rng(0)
    prompts = -(-count // GROUP)
    ids = tuple(rng.integers(4, 1000, (prompts, PROMPT_TOKENS)).astype(np.int32))
    drawn = rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, count)
    length = np.clip(drawn, 2, LONGEST).astype(np.int32)
    start = np.cumsum(length, dtype=np.int64) - length
    tokens = Ragged(np.repeat(np.arange(1, count + 1, dtype=np.int32), length), start, length)
    logprob = Ragged(np.full(len(tokens.flat), -1.0, np.float32), start, length)
    owner, sample = np.divmod(np.arange(count, dtype=np.int32), GROUP)
    zeros = np.zeros(count, np.int32)
    return Prompts(ids, np.arange(prompts), (("",),) * prompts), Rollouts(
        prompt=owner, sample=sample, stage=zeros, tokens=tokens, logprob=logprob, length=length,
        truncated=length == LONGEST, reward=rng.integers(0, 2, count).astype(np.float32),
        verdict=zeros.astype(np.int8),
    )  # fmt: skip


def assembled(prompts: Prompts, rollouts: Rollouts) -> UpdateBatch:
    """The batch of a full-batch update."""
    count = len(prompts)
    rows = packing.capacity(count, GROUP, PROMPT_TOKENS, LONGEST, ROW_TOKENS, 1)
    shape = packing.BatchShape(ROWS, -(-rows // ROWS), ROW_TOKENS)
    ones = np.ones(len(rollouts), np.float32)
    return packing.assemble(
        prompts, rollouts, ones, ones, np.ones(count, bool), np.zeros(count, np.int32), 1, shape
    )


def peak_bytes() -> int:
    """Most that this process ever had in memory; Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def assemble(size: int, repeats: int) -> dict[str, Any]:
    """Packing of so many rollouts."""
    prompts, rollouts = made_up(size)
    before = peak_bytes()
    found = []  # seconds of wall clock, of our code, of the kernel
    for _ in range(repeats):
        batch = None  # a run holds one at a time
        begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        batch = assembled(prompts, rollouts)
        now, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begin
        found.append((wall, now.ru_utime - used.ru_utime, now.ru_stime - used.ru_stime))
    assert batch is not None
    tokens, (least, user, kernel) = int(batch.token_count.sum()), min(found)
    arrays = [x for x in jax.tree.leaves(batch) if x.ndim == 3]
    live = sum(x[:, : int(batch.bounds[-1])].nbytes for x in arrays)
    return {
        "tokens": tokens, "seconds": least, "us_per_rollout": 1e6 * least / size,
        "ns_per_token": 1e9 * least / tokens, "own_cpu_ns_per_token": 1e9 * user / tokens,
        "kernel_cpu_ns_per_token": 1e9 * kernel / tokens,
        "rollouts_bytes": 8 * int(rollouts.length.sum()),
        "batch_bytes": live, "peak_bytes": peak_bytes(), "added_bytes": peak_bytes() - before,
        "added_bytes_per_token": (peak_bytes() - before) / tokens,
    }  # fmt: skip


# Grading -----------------------------------------------------------------------------------------


def answers(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(response, gold): of eight three are spelled like the gold or a plain number, one a repeat.

    The other four are worth a worker's look: equal or not, as fractions, roots and powers.
    """
    rng = np.random.default_rng(seed)
    for i in range(count):
        if i % GROUP == 0:
            a, b = (int(x) for x in rng.integers(2, 10**6, 2))
        n = i % GROUP + 2
        said = (
            rf"\frac{{{a}}}{{{b}}}", f"{a + n}", rf"\frac{{{a * n}}}{{{b * n}}}",
            rf"\sqrt{{{n}}}+\frac{{{a}}}{{{b}}}", rf"\frac{{{a}}}{{{b + n}}}",
            rf"\frac{{{a}}}{{{b}}}", rf"2^{{{n % 9}}}\cdot\frac{{{a}}}{{{b}}}", r"\sqrt{2}+1",
        )[i % 8]  # fmt: skip
        yield rf"The answer is \boxed{{{said}}}.", rf"\frac{{{a}}}{{{b}}}"


def graded_seconds(name: str, count: int) -> tuple[float, dict[str, int]]:
    """Wall seconds of so many answers in the way of the stage loop, and what was counted."""
    with load_grader(name, num_workers=WORKERS) as grader:
        warm, golds = zip(*answers(4 * GROUP, seed=1), strict=True)
        grader.grade(warm, golds)
        grader.counters()
        done, begin = 0, time.perf_counter()
        for number, (response, gold) in enumerate(answers(count)):
            grader.submit(number, response, gold)
            if number % _DISPATCH == 0:
                done += len(grader.collect(wait=False))
        done += len(grader.collect(wait=True))
        seconds = time.perf_counter() - begin
        if done != count:
            raise RuntimeError(f"{done} of {count} answers were graded by {name}")
        return seconds, grader.counters()


def grade(size: int, repeats: int) -> dict[str, Any]:
    """Answers per second of the math grader alone and of a sum, once."""
    math_s, counts = graded_seconds(MATH, size)
    sum_s, _ = graded_seconds(SUM, size)
    return {
        "correct": counts["correct"], "fast_path": counts["fast_path"],
        "cache_hits": counts["cache_hits"], "worker_items": counts["worker_items"],
        "math_s": math_s, "math_answers_per_s": size / math_s,
        "worker_items_per_s": counts["worker_items"] / math_s,
        "sum_s": sum_s, "sum_answers_per_s": size / sum_s,
    }  # fmt: skip


# State -------------------------------------------------------------------------------------------


def _noise(x: jax.Array) -> jax.Array:
    """Numbers as of a run: the zeros of fresh moments would take no room on disk."""
    if x.dtype != np.float32:
        return x
    return jax.device_put(np.random.default_rng(x.size).normal(size=x.shape), x.sharding).astype(
        x.dtype
    )


def checkpoint(size: str, repeats: int) -> dict[str, Any]:
    """Saving, restoring and publishing the state of a policy; by arithmetic where it is large."""
    if size not in MODELS:
        count = ARCHITECTURES[size].num_params()
        return {"params": count, **{f"{k}_bytes": n * count for k, n in _BYTES.items()}}
    policy, work = load_policy(size), Work(prompts=1, samples=1)
    programs = steps.make_programs(policy, work, 8)
    _, fresh, _ = steps.make_update(policy, work, 288, 8)
    state = jax.tree.map(_noise, fresh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    publish = lambda: jax.block_until_ready(programs.publish(state.params))  # noqa: E731
    params = publish()
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = Checkpoints(Path(directory), {}, keep=1)
        for i in range(repeats):
            begin = time.perf_counter()
            checkpoints.save(i, state)
            held = time.perf_counter()
            checkpoints.wait()
            whole = time.perf_counter()
            restored = checkpoints.restore(i, state, shardings)
            jax.block_until_ready(restored)
            seconds.append((held - begin, whole - begin, time.perf_counter() - whole))
        files = sum(p.stat().st_size for p in Path(directory).rglob("*") if p.is_file())
        checkpoints.close()
    held_s, save_s, restore_s = np.min(seconds, axis=0).tolist()
    publish_s = min(timed(publish) for _ in range(repeats))
    in_state, published = (sum(x.nbytes for x in jax.tree.leaves(t)) for t in (state, params))
    return {
        "params": policy.config.num_params(), "state_bytes": in_state, "disk_bytes": files,
        "held_s": held_s, "save_s": save_s, "save_gb_per_s": in_state / save_s / 1e9,
        "restore_s": restore_s, "restore_gb_per_s": in_state / restore_s / 1e9,
        "published_bytes": published, "publish_s": publish_s,
        "publish_gb_per_s": published / publish_s / 1e9,
    }  # fmt: skip
