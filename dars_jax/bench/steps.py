"""Sampling, updating, and both: the benchmarks that run a policy."""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax import objective
from dars_jax.bench.work import VOCAB, Policy, Work, matmul_seconds, measure, show
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.learner import loss, packing, update
from dars_jax.policy import sharding
from dars_jax.types import Prompts, Ragged, Rollouts, TrainState, UpdateBatch


def sample_all(
    session: Session, work: Work, steps_per_dispatch: int, step: int
) -> tuple[dict[tuple[int, int], Any], dict[str, Any]]:
    """All completions of the work list, and what they cost."""
    e = session.num_replicas
    session.prefill([(p % e, p // e, ids) for p, ids in enumerate(work.prompt_ids())])
    limits = work.lengths().reshape(work.prompts, work.samples)
    requests = [
        Request(p % e, (p // e) * work.samples + i, p // e, (0, step, 0, p, i), int(limits[p, i]))
        for p in range(work.prompts)
        for i in range(work.samples)
    ]
    session.enqueue(requests, SamplingConfig(max_tokens=work.new_tokens))
    done, steps, busy, capacity, dispatches = [], 0, 0, 0, 0
    begin = time.perf_counter()
    while True:
        session.start(steps_per_dispatch)
        progress = session.finish()
        done += progress.finished
        steps, busy = steps + progress.steps, busy + progress.busy
        capacity, dispatches = capacity + progress.capacity, dispatches + 1
        if progress.idle:
            break
    cost = {
        "decode_steps": steps, "occupancy": round(busy / capacity, 3), "dispatches": dispatches,
        "ms_per_decode_step": round(1e3 * (time.perf_counter() - begin) / steps, 3),
    }  # fmt: skip
    return session.drain(done), cost


def make_programs(policy: Policy, work: Work, slots: int) -> Programs:
    """An engine for the work list."""
    replicas = sharding.num_replicas(policy.mesh)
    prompts = -(-work.prompts // replicas)
    config = DecodeConfig(
        slots=-(-slots // replicas),
        prefixes=prompts,
        requests=prompts * work.samples,
        prompt_tokens=work.prompt_tokens,
        response_tokens=work.new_tokens,
        eos_ids=(policy.config.vocab_size,),  # never drawn: lengths are given
        filters=False,
        dtype=jnp.dtype(jnp.float32),
    )
    return Programs(config, policy.config, policy.mesh)


def rollout(
    policy: Policy, work: Work, slots: int, steps_per_dispatch: int, repeats: int, traced: str = ""
) -> dict[str, Any]:
    """The line of prefill and decoding of the whole work list; `traced` as in `measure`."""
    programs = make_programs(policy, work, slots)
    params = programs.publish(policy.params)
    tokens = int(work.lengths().sum())
    count = iter(range(10**6))
    least = [math.inf]  # ms of a decode step, of all runs

    def run() -> dict[str, Any]:
        session = Session(programs, params, programs.config.prefixes)
        _, cost = sample_all(session, work, steps_per_dispatch, next(count))
        least[0] = min(least[0], cost["ms_per_decode_step"])
        return {**cost, "ms_per_decode_step": least[0], "slots": slots}

    def bound() -> float:
        rows = min(slots, work.prompts * work.samples)
        decode = matmul_seconds(policy.config, rows) * tokens / rows
        prompt = work.prompts * work.prompt_tokens
        return decode + matmul_seconds(policy.config, prompt)

    return measure("rollout", policy, work, tokens, repeats, run, bound, traced)


def bench_rollout(policy: Policy, work: Work, args: argparse.Namespace) -> None:
    """Prefill and decoding of the whole work list."""
    show(rollout(policy, work, args.slots, args.steps_per_dispatch, args.repeats, args.programs))


def make_update(
    policy: Policy, work: Work, row_tokens: int, rows: int
) -> tuple[jax.stages.Wrapped, TrainState, Callable[[Rollouts, np.ndarray], UpdateBatch]]:
    """(update program, fresh state, function that packs rollouts with their advantages)."""
    loss_config = loss.LossConfig(1.0, 0.2, 0.2, 0.0, 0.0)
    settings = update.UpdateConfig(
        loss_config, num_epochs=1, num_minibatches=1, loss_scale=1.0, chunk=row_tokens,
        dtype=jnp.dtype(jnp.float32), remat="mlp",
    )  # fmt: skip
    optimizer = update.make_optimizer(update.OptimizerConfig(1e-6, 0, 0.9, 0.999, 1e-8, 0.01, 1.0))
    shardings = update.state_shardings(policy.config, optimizer, policy.mesh)
    copy = jax.tree.map(jnp.copy, policy.params)  # the update donates its state
    state = update.init_state(copy, optimizer, shardings)
    ids = tuple(work.prompt_ids())
    prompts = Prompts(ids, np.arange(work.prompts), (("",),) * work.prompts)
    capacity = packing.capacity(
        work.prompts, work.samples, work.prompt_tokens, work.new_tokens, row_tokens, 1
    )
    shape = packing.BatchShape(rows, -(-capacity // rows), row_tokens)

    def pack(rollouts: Rollouts, advantage: np.ndarray) -> UpdateBatch:
        kept = np.ones(len(rollouts), bool)
        weight = objective.token_weights(
            rollouts.length, kept, aggregation="dr_grpo", max_length=work.new_tokens
        )
        everyone = np.ones(work.prompts, bool)
        packed = packing.assemble(
            prompts, rollouts, advantage, np.asarray(weight), everyone,
            np.zeros(work.prompts, np.int32), 1, shape,
        )  # fmt: skip
        return sharding.put_batch(packed, policy.mesh)

    return update.make_update(settings, policy.config, optimizer, policy.mesh), state, pack


def _rollouts(work: Work, tokens: Ragged, logprob: Ragged) -> Rollouts:
    count = work.prompts * work.samples
    zeros = np.zeros(count, np.int32)
    return Rollouts(
        prompt=np.repeat(np.arange(work.prompts, dtype=np.int32), work.samples),
        sample=np.tile(np.arange(work.samples, dtype=np.int32), work.prompts),
        stage=zeros, tokens=tokens, logprob=logprob, length=work.lengths(),
        truncated=np.zeros(count, bool),
        reward=(np.random.default_rng(2).random(count) < 0.4).astype(np.float32),
        verdict=zeros.astype(np.int8),
    )  # fmt: skip


def _advantages(work: Work, rollouts: Rollouts) -> np.ndarray:
    return np.asarray(objective.group_advantages(rollouts.reward, rollouts.prompt, work.prompts))


def bench_update(policy: Policy, work: Work, args: argparse.Namespace) -> None:
    """One optimizer step over all rollouts, old log-probs included."""
    run_update, state, pack = make_update(policy, work, args.row_tokens, args.rows)
    count = work.prompts * work.samples
    ids = np.random.default_rng(3).integers(4, VOCAB, (count, work.new_tokens)).astype(np.int32)
    logprob = np.zeros(ids.shape, np.float32)
    rollouts = _rollouts(work, *(Ragged.of_rows(x, work.lengths()) for x in (ids, logprob)))
    advantage = _advantages(work, rollouts)
    box = [state]

    def run() -> dict[str, Any]:
        packed = pack(rollouts, advantage)
        box[0], _ = run_update(box[0], packed, None)
        jax.block_until_ready(box[0])
        return {"row_tokens": args.row_tokens, "micro_batch_rows": args.rows}

    tokens = int(work.lengths().sum()) + count * work.prompt_tokens
    bound = lambda: 3 * matmul_seconds(policy.config, 4096) * tokens / 4096  # noqa: E731
    show(measure("update", policy, work, tokens, args.repeats, run, bound, args.programs))


def bench_step(policy: Policy, work: Work, args: argparse.Namespace) -> None:
    """A whole GRPO step; counts generated tokens only."""
    programs = make_programs(policy, work, args.slots)
    run_update, state, pack = make_update(policy, work, args.row_tokens, args.rows)
    box = [state, programs.publish(policy.params), 0]

    def run() -> dict[str, Any]:
        state, params, step = box
        session = Session(programs, params, programs.config.prefixes)
        answers, cost = sample_all(session, work, args.steps_per_dispatch, step)
        e = session.num_replicas
        order = [answers[p % e, p // e * work.samples + sample]
                 for p in range(work.prompts) for sample in range(work.samples)]  # fmt: skip
        tokens, logprob = zip(*order, strict=True)
        rollouts = _rollouts(work, Ragged.join(tokens, np.int32), Ragged.join(logprob, np.float32))
        state, _ = run_update(state, pack(rollouts, _advantages(work, rollouts)), None)
        params = programs.publish(state.params)
        jax.block_until_ready(params)
        box[:] = state, params, step + 1
        return cost

    tokens = int(work.lengths().sum())
    all_tokens = tokens + work.prompts * work.samples * work.prompt_tokens

    def bound() -> float:
        rows = min(args.slots, work.prompts * work.samples)
        decode = matmul_seconds(policy.config, rows) * tokens / rows
        prompt = matmul_seconds(policy.config, work.prompts * work.prompt_tokens)
        return decode + prompt + 3 * matmul_seconds(policy.config, 4096) * all_tokens / 4096

    show(measure("step", policy, work, tokens, args.repeats, run, bound, args.programs))
