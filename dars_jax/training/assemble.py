"""From graded rollouts to the packed batch of an update: advantages, token weights, rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax import objective
from dars_jax.learner import packing
from dars_jax.policy import sharding
from dars_jax.rewards import Verdict
from dars_jax.rollout import exchange
from dars_jax.setup import build
from dars_jax.types import Prompts, Rollouts, UpdateBatch


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_prompts",
        "num_minibatches",
        "advantage",
        "k",
        "beta",
        "aggregation",
        "max_length",
        "overlong",
        "buffer",
    ),
)
def _score(
    reward: jax.Array,
    prompt: jax.Array,
    length: jax.Array,
    truncated: jax.Array,
    mask: jax.Array,
    minibatch: jax.Array,
    *,
    num_prompts: int,
    num_minibatches: int,
    advantage: str,
    k: int,
    beta: float,
    aggregation: str,
    max_length: int,
    overlong: str,
    buffer: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """float32[N] rewards -> (advantage float32[N], token weight float32[N], kept bool[P]).

    A truncated answer that is masked stays in its group, whose accuracy decided on top-ups.
    """
    scored, in_loss = reward, mask
    if overlong == "soft":
        scored += objective.overlong_penalty(length, max_length=max_length, buffer=buffer)
    if overlong == "mask":
        in_loss &= ~truncated
    advantages = objective.group_advantages(
        scored, prompt, num_prompts, advantage=advantage, k=k, beta=beta, mask=mask
    )
    kept = objective.has_signal(reward, prompt, num_prompts, mask)
    weight = jnp.zeros_like(reward)
    for j in range(num_minibatches):
        mine = in_loss & kept[prompt] & (minibatch[prompt] == j)
        weight += objective.token_weights(
            length, mine, aggregation=aggregation, max_length=max_length
        )
    return advantages, weight, kept


def assemble(
    parts: build.Parts, prompts: Prompts, rollouts: Rollouts
) -> tuple[UpdateBatch, np.ndarray, np.ndarray]:
    """Graded rollouts -> (batch on the host, advantage float32[N], kept bool[P]).

    Each process gets the rows of its own devices.  All call it together.

    Advantages of Pass@k, and what they keep, follow the verdicts, as allocation does.

    Raises:
      ValueError: more prompts than rollout.num_prompts.
    """
    plan, n = parts.plan, len(rollouts)
    u, o, most = plan.config.learner, plan.config.objective, plan.config.rollout.num_prompts
    if len(prompts) > most:
        raise ValueError(f"{len(prompts)} prompts, but rollout.num_prompts = {most}: raise it")
    reward = rollouts.reward
    if o.advantage in objective.OF_K:
        reward = (rollouts.verdict == Verdict.CORRECT).astype(np.float32)
    size = most * plan.rollout.n_max  # fixed, whatever the number of rollouts
    pad = lambda x: np.pad(x, (0, size - n))  # noqa: E731
    minibatch = (np.arange(most) * u.num_minibatches // max(len(prompts), 1)).astype(np.int32)
    arrays = (pad(reward), pad(rollouts.prompt), pad(rollouts.length),
              pad(rollouts.truncated),
              np.arange(size) < n, minibatch)  # fmt: skip
    scores = _score(
        *jax.device_put(arrays), num_prompts=most, num_minibatches=u.num_minibatches,
        advantage=o.advantage, k=o.k, beta=o.beta, aggregation=u.aggregation,
        max_length=plan.rollout.sampling.max_tokens, overlong=o.overlong,
        buffer=o.overlong_buffer,
    )  # fmt: skip
    advantage, weight, kept = jax.device_get(scores)
    kept = kept[: len(prompts)]
    packed = _packed(
        parts, prompts, rollouts, advantage[:n], weight[:n], kept, minibatch[: len(prompts)]
    )
    return packed, advantage[:n], kept


def _packed(
    parts: build.Parts,
    prompts: Prompts,
    rollouts: Rollouts,
    advantage: np.ndarray,
    weight: np.ndarray,
    kept: np.ndarray,
    minibatch: np.ndarray,
) -> UpdateBatch:
    """The rows of this process's devices; rollouts travel to the process whose rows they are in."""
    shape, num_minibatches = parts.plan.batch, parts.plan.config.learner.num_minibatches
    layout = packing.arrange(prompts, rollouts, weight, kept, minibatch, num_minibatches, shape)
    process = sharding.row_process(parts.mesh, shape.rows)
    row = layout.row_of(len(rollouts))
    rollouts = exchange.send(rollouts, np.where(row < 0, -1, process[row]))
    mine = np.flatnonzero(process == jax.process_index())
    return packing.lay_out(layout, prompts, rollouts, advantage, weight, mine)


def probe(parts: build.Parts, prompts: Prompts, rollouts: Rollouts) -> UpdateBatch:
    """One micro-batch, of rollouts of as many prompts as fit, that is compared and teaches nothing.

    An engine with other weights often answers so badly that no group has a signal.
    """
    plan, n = parts.plan, len(rollouts)
    shape, j = plan.batch, plan.config.learner.num_minibatches
    order = np.lexsort((rollouts.prompt, rollouts.sample))
    size = np.array([len(t) for t in prompts.tokens])[rollouts.prompt] + rollouts.length
    room = (shape.rows - 1) * shape.row_tokens // 2  # best-fit leaves one row half empty at most
    chosen = order[: max(int(np.sum(np.cumsum(size[order]) <= room)), 1)]
    weight = np.zeros(n, np.float32)
    weight[chosen] = 1 / len(chosen)
    packed = _packed(
        parts, prompts, rollouts, np.zeros(n, np.float32), weight, np.ones(len(prompts), bool),
        np.zeros(len(prompts), np.int32),
    )  # fmt: skip
    return dataclasses.replace(packed, token_count=np.zeros(j, np.float32))
