"""How fast is a step?  Each command prints JSON lines, steady state apart from compilation.

    python -m dars_jax.bench rollout --model tiny
    python -m dars_jax.bench update --model DIR --skewed
    python -m dars_jax.bench allocate
    python -m dars_jax.bench step --model tiny
    python -m dars_jax.bench simulate

--model is a Hugging Face directory, or "tiny" (4 layers, d 256) or "small" (8 layers, d 512) with
random weights.  The work is 32 prompts x 8 rollouts, 32 prompt tokens, 128 new ones; with --skewed
lengths are geometric with mean 40, at most 128.  `matmul_share` relates the speed to what this
machine would do if nothing but the model's matrix products ran, measured in the same run.
`simulate` runs the real scheduler over an engine that only counts: decode steps of a DARS-HW step
over the ideal, tokens / slots.  --devices splits the CPU, one engine replica each.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax import (
    allocator,
    batch,
    loss,
    model,
    objective,
    sharding,
    simulate,
    update,
    weights,
)  # fmt: skip
from dars_jax.programs import Programs
from dars_jax.session import Request, SamplingConfig, Session
from dars_jax.slots import DecodeConfig
from dars_jax.types import Prompts, Rollouts, TrainState, UpdateBatch

MODELS = {
    "tiny": model.ModelConfig(2048, 4, 256, 4, 2, 64, 688, 1e6, qkv_bias=True, tied_head=True),
    "small": model.ModelConfig(2048, 8, 512, 8, 4, 64, 1376, 1e6, qkv_bias=True, tied_head=True),
}
VOCAB = 2048


@dataclasses.dataclass(frozen=True)
class Work:
    """What is sampled and trained on."""

    prompts: int = 32
    samples: int = 8
    prompt_tokens: int = 32
    new_tokens: int = 128
    skewed: bool = False

    def lengths(self) -> np.ndarray:
        """int32[prompts * samples] completion lengths."""
        count = self.prompts * self.samples
        if not self.skewed:
            return np.full(count, self.new_tokens, np.int32)
        draw = np.random.default_rng(0).geometric(1 / 40, count)
        return np.minimum(draw, self.new_tokens).astype(np.int32)

    def prompt_ids(self) -> list[np.ndarray]:
        """`prompts` of int32[prompt_tokens]."""
        rng = np.random.default_rng(1)
        ids = rng.integers(4, VOCAB, (self.prompts, self.prompt_tokens)).astype(np.int32)
        return list(ids)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model on the mesh."""

    name: str
    config: model.ModelConfig
    mesh: jax.sharding.Mesh
    params: model.Params


def load_policy(name: str) -> Policy:
    """Random weights of a known size, or a directory's."""
    mesh = sharding.make_mesh(1, jax.device_count(), 1)
    if name in MODELS:
        config = MODELS[name]
        shardings = sharding.param_shardings(config, mesh)
        init = jax.jit(functools.partial(model.init_params, config), out_shardings=shardings)
        return Policy(name, config, mesh, init(jax.random.key(0)))
    config = weights.read_config(name)
    shardings = sharding.param_shardings(config, mesh)
    return Policy(Path(name).name, config, mesh, weights.load_params(name, config, shardings))


def matmul_seconds(config: model.ModelConfig, rows: int) -> float:
    """Wall seconds of one forward pass's weight products over `rows` tokens, float32."""
    d, f, q = config.d_model, config.d_ff, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    n = config.num_layers
    shapes = {(d, q + 2 * kv): n, (q, d): n, (d, f): 2 * n, (f, d): n, (d, config.vocab_size): 1}
    product = jax.jit(jnp.matmul)
    total = 0.0
    for (a, b), count in shapes.items():
        x, y = jnp.ones((rows, a)), jnp.ones((a, b))
        run = lambda x=x, y=y: product(x, y).block_until_ready()  # noqa: E731
        run()
        total += count * statistics.median(_time(run) for _ in range(5))
    return total


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    what: str, policy: Policy, work: Work, tokens: int, repeats: int,
    run: Callable[[], dict[str, Any]], bound: Callable[[], float],
) -> None:  # fmt: skip
    """Times `run` in rounds that alternate with the matmul-only `bound`, and prints a line."""
    first = _time(run)
    seconds, bounds, extra = [], [], {}
    for _ in range(repeats):
        bounds.append(bound())
        start = time.perf_counter()
        extra = run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    shares = [b / s for b, s in zip(bounds, seconds, strict=True)]
    line = {
        "what": what,
        "model": policy.name,
        "params": policy.config.num_params(),
        "tokens_per_s": round(tokens / median, 1),
        "matmul_share": round(statistics.median(shares), 3),
        "compile_s": round(max(first - median, 0), 2),
        "seconds": [round(s, 4) for s in seconds],
        "tokens": tokens,
        "work": dataclasses.asdict(work),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "flax", "numpy")},
        **extra,
    }
    print(json.dumps(line), flush=True)


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
    done, steps, busy, capacity = [], 0, 0, 0
    while True:
        session.start(steps_per_dispatch)
        progress = session.finish()
        done += progress.finished
        steps, busy = steps + progress.steps, busy + progress.busy
        capacity += progress.capacity
        if progress.idle:
            break
    cost = {"decode_steps": steps, "occupancy": round(busy / capacity, 3)}
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


def bench_rollout(policy: Policy, work: Work, args: argparse.Namespace) -> None:
    """Prefill and decoding of the whole work list."""
    programs = make_programs(policy, work, args.slots)
    params = programs.publish(policy.params)
    tokens = int(work.lengths().sum())
    count = iter(range(10**6))

    def run() -> dict[str, Any]:
        session = Session(programs, params, work.prompts)
        _, cost = sample_all(session, work, args.steps_per_dispatch, next(count))
        return {**cost, "slots": args.slots}

    def bound() -> float:
        rows = min(args.slots, work.prompts * work.samples)
        decode = matmul_seconds(policy.config, rows) * tokens / rows
        prompt = work.prompts * work.prompt_tokens
        return decode + matmul_seconds(policy.config, prompt)

    measure("rollout", policy, work, tokens, args.repeats, run, bound)


def make_update(
    policy: Policy, work: Work, row_tokens: int, rows: int
) -> tuple[Callable[..., Any], TrainState, Callable[[Rollouts, np.ndarray], UpdateBatch]]:
    """(update program, fresh state, function that packs rollouts with their advantages)."""
    loss_config = loss.LossConfig(1.0, 0.2, 0.2, 0.0, 0.0)
    settings = update.UpdateConfig(
        loss_config, num_epochs=1, num_minibatches=1, loss_scale=1.0, chunk=row_tokens,
        dtype=jnp.dtype(jnp.float32), remat="none",
    )  # fmt: skip
    optimizer = update.make_optimizer(update.OptimizerConfig(1e-6, 0, 0.9, 0.999, 1e-8, 0.01, 1.0))
    shardings = update.state_shardings(policy.config, optimizer, policy.mesh)
    copy = jax.tree.map(jnp.copy, policy.params)  # the update donates its state
    state = update.init_state(copy, optimizer, shardings)
    ids = tuple(work.prompt_ids())
    prompts = Prompts(ids, np.arange(work.prompts), (("",),) * work.prompts)
    capacity = batch.capacity(
        work.prompts, work.samples, work.prompt_tokens, work.new_tokens, row_tokens, 1
    )
    shape = batch.BatchShape(rows, -(-capacity // rows), row_tokens)

    def pack(rollouts: Rollouts, advantage: np.ndarray) -> UpdateBatch:
        kept = np.ones(len(rollouts), bool)
        weight = objective.token_weights(
            rollouts.length, kept, aggregation="dr_grpo", max_length=work.new_tokens
        )
        everyone = np.ones(work.prompts, bool)
        packed = batch.assemble(
            prompts, rollouts, advantage, np.asarray(weight), everyone,
            np.zeros(work.prompts, np.int32), 1, shape,
        )  # fmt: skip
        return sharding.put_batch(packed, policy.mesh)

    return update.make_update(settings, policy.config, optimizer, policy.mesh), state, pack


def _rollouts(work: Work, tokens: np.ndarray, logprob: np.ndarray) -> Rollouts:
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
    rollouts = _rollouts(work, ids, np.zeros(ids.shape, np.float32))
    advantage = _advantages(work, rollouts)
    box = [state]

    def run() -> dict[str, Any]:
        packed = pack(rollouts, advantage)
        box[0], _ = run_update(box[0], packed, None)
        jax.block_until_ready(box[0])
        return {"row_tokens": args.row_tokens, "micro_batch_rows": args.rows}

    tokens = int(work.lengths().sum()) + count * work.prompt_tokens
    bound = lambda: 3 * matmul_seconds(policy.config, 4096) * tokens / 4096  # noqa: E731
    measure("update", policy, work, tokens, args.repeats, run, bound)


def bench_step(policy: Policy, work: Work, args: argparse.Namespace) -> None:
    """A whole GRPO step; counts generated tokens only."""
    programs = make_programs(policy, work, args.slots)
    run_update, state, pack = make_update(policy, work, args.row_tokens, args.rows)
    box = [state, programs.publish(policy.params), 0]

    def run() -> dict[str, Any]:
        state, params, step = box
        session = Session(programs, params, work.prompts)
        answers, cost = sample_all(session, work, args.steps_per_dispatch, step)
        shape = (work.prompts * work.samples, work.new_tokens)
        tokens, logprob = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        e = session.num_replicas
        for (replica, row), (ids, values) in answers.items():
            p, sample = (row // work.samples) * e + replica, row % work.samples
            tokens[p * work.samples + sample, : len(ids)] = ids
            logprob[p * work.samples + sample, : len(ids)] = values
        rollouts = _rollouts(work, tokens, logprob)
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

    measure("step", policy, work, tokens, args.repeats, run, bound)


def bench_allocate(args: argparse.Namespace) -> None:
    """Top-ups for 3072 prompts, counts already on the device."""
    correct = jax.device_put(np.random.default_rng(0).integers(0, 9, 3072).astype(np.int32))
    allocate = jax.jit(functools.partial(allocator.top_up, schedule="hw", n_max=64))
    run = lambda: allocate(correct, 8).block_until_ready()  # noqa: E731
    first = _time(run)
    seconds = [_time(run) for _ in range(max(args.repeats, 50))]
    line = {"what": "allocate", "prompts": 3072, "compile_s": round(first, 3),
            "seconds_median": statistics.median(seconds)}  # fmt: skip
    print(json.dumps(line), flush=True)


def bench_simulate(_: argparse.Namespace) -> None:
    """Decode steps over the ideal, streaming and with a barrier, for small and large steps."""
    sizes = ((128, 512, 1), (3072, 2048, 1), (3072, 256, 8), (3072, 12288, 1), (3072, 192, 64))
    for prompts, slots, replicas in sizes:
        for barrier in (False, True):
            config = simulate.dars_hw(max_tokens=3072, steps_per_dispatch=128, barrier=barrier)
            outcome = simulate.simulate(
                num_prompts=prompts, slots=slots, replicas=replicas, config=config,
                prefixes=prompts // replicas,
            )  # fmt: skip
            line = {"what": "simulate", "prompts": prompts, "slots": slots, "replicas": replicas,
                    "barrier": barrier, **dataclasses.asdict(outcome)}  # fmt: skip
            print(json.dumps(line), flush=True)


_COMMANDS = {
    "rollout": bench_rollout, "update": bench_update, "step": bench_step,
    "allocate": bench_allocate, "simulate": bench_simulate,
}  # fmt: skip


def main() -> None:
    """Parses the command line and runs one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*_COMMANDS])
    parser.add_argument("--model", default="tiny", help="directory, tiny or small")
    parser.add_argument("--skewed", action="store_true", help="geometric lengths, mean 40")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--slots", type=int, default=256, help="decode slots, all replicas")
    parser.add_argument("--steps_per_dispatch", type=int, default=128)
    parser.add_argument("--row_tokens", type=int, default=288, help="length of a packed row")
    parser.add_argument("--rows", type=int, default=8, help="rows of a micro-batch")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices of the CPU")
    args = parser.parse_args()
    if args.devices > 1:  # read when jax starts its backend, which it has not yet
        flag = f"--xla_force_host_platform_device_count={args.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    run = _COMMANDS[args.what]
    if args.what in ("allocate", "simulate"):
        run(args)
        return
    if args.model not in MODELS and not Path(args.model).is_dir():
        parser.error(f"--model {args.model}: neither a directory nor one of {', '.join(MODELS)}")
    run(load_policy(args.model), Work(skewed=args.skewed), args)


if __name__ == "__main__":
    main()
