"""Updates of rows of 24 tokens: rollouts, ways to pack them, and the definition to compare with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dars_jax.learner import packing as batch_lib
from dars_jax.learner import update
from dars_jax.learner.loss import LossConfig
from dars_jax.policy import sharding
from dars_jax.types import Prompts, Ragged, Rollouts

LOSS = LossConfig(temperature=1.0, clip_low=0.2, clip_high=0.2, entropy_coef=0.0, kl_coef=0.0)
CONFIG = update.UpdateConfig(
    loss=LOSS, num_epochs=1, num_minibatches=1, loss_scale=1.0, chunk=12, dtype=jnp.float32,
    remat="none",
)  # fmt: skip
LONGEST = 7  # tokens of a completion
LENGTH = 12  # prompt of at most 5
SHAPE = batch_lib.BatchShape(rows=2, micro_batches=12, row_tokens=24)
SETTINGS = {"weight_decay": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-4}


def make_work():
    """Prompts, rollouts, and the advantage and weight of each rollout.  Ragged on purpose."""
    rng = np.random.default_rng(0)
    lengths = [[7, 1, 3, 7], [2, 2], [5, 6, 1, 1, 7, 4], [3], [7, 7, 6]]
    prompts = Prompts(
        tokens=tuple(rng.integers(0, 61, n).astype(np.int32) for n in (5, 1, 3, 4, 2)),
        uid=np.arange(5),
        answer=(("",),) * 5,
    )
    owner = np.repeat(np.arange(5), [len(x) for x in lengths]).astype(np.int32)
    n = len(owner)
    blank = np.zeros(n, np.int32)
    length = np.concatenate(lengths).astype(np.int32)
    tokens = rng.integers(0, 61, (n, LONGEST)).astype(np.int32)
    logprob = rng.normal(size=(n, LONGEST)).astype(np.float32)
    rollouts = Rollouts(
        prompt=owner, sample=blank, stage=blank,
        tokens=Ragged.of_rows(tokens, length), logprob=Ragged.of_rows(logprob, length),
        length=length, truncated=blank.astype(bool),
        reward=blank.astype(np.float32), verdict=blank.astype(np.int8),
    )  # fmt: skip
    advantage = rng.normal(size=n).astype(np.float32)
    weight = (rng.random(n) + 0.5).astype(np.float32) / n
    return prompts, rollouts, advantage, weight


def pack(work, shape=SHAPE, kept=None, minibatch=None, num_minibatches=1):
    prompts, rollouts, advantage, weight = work
    everyone = np.ones(len(prompts), bool)
    minibatch = np.zeros(len(prompts), int) if minibatch is None else np.array(minibatch)
    return batch_lib.assemble(
        prompts, rollouts, advantage, weight, everyone if kept is None else np.array(kept),
        minibatch, num_minibatches, shape,
    )  # fmt: skip


def each_its_own_prompt(work):
    """The same rollouts with no prompt shared, so that nothing is computed once for several."""
    prompts, rollouts, advantage, weight = work
    alone = Prompts(
        tokens=tuple(prompts.tokens[p] for p in rollouts.prompt),
        uid=np.arange(len(rollouts)),
        answer=(("",),) * len(rollouts),
    )
    order = np.arange(len(rollouts), dtype=np.int32)
    return alone, dataclasses.replace(rollouts, prompt=order), advantage, weight


@functools.cache
def compiled(config, model_config, kind):
    optimizer = {
        "gradient": optax.sgd(1.0),  # what changes is the gradient
        "adamw": optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, **SETTINGS)),
    }[kind]
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    return (
        optimizer,
        update.state_shardings(model_config, optimizer, mesh, config.entropy_target, config.lora),
        update.make_update(config, model_config, optimizer, mesh),
    )


def run(tiny, packed, config=CONFIG, kind="gradient", reference=None):
    """(state after one update of the tiny policy, metrics)."""
    optimizer, shardings, step = compiled(config, tiny.config, kind)
    params = jax.tree.map(jnp.copy, tiny.params)  # the state is donated
    state = update.init_state(params, optimizer, shardings)
    return step(state, jax.device_put(packed), reference)


def gradient(tiny, packed, **settings):
    state, _ = run(tiny, packed, **settings)
    return jax.tree.map(jnp.subtract, tiny.params, state.params)


def assert_close(got, want, tolerance=1e-5):
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
    assert scale > 1e-4
    for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(scale, 1), rtol=tolerance)


class PlainUpdate:
    """The update by its definition: one rollout per row, all logits, no packing, no fusion."""

    def __init__(self, tiny, reference_logits, work, loss):
        prompts, rollouts, self.advantage, self.weight = work
        self.loss_config, n = loss, len(rollouts)
        self.tokens = np.zeros((n, LENGTH), np.int32)
        self.target = np.zeros((n, LENGTH), np.int32)
        self.live = np.zeros((n, LENGTH), bool)
        for i in range(n):
            prompt = prompts.tokens[rollouts.prompt[i]]
            whole = [*prompt, *rollouts.tokens[i]]
            self.tokens[i, : len(whole)] = whole
            self.target[i, : len(whole) - 1] = whole[1:]
            self.live[i, len(prompt) - 1 : len(whole) - 1] = True
        self._forward = jax.vmap(lambda p, t: reference_logits(p, tiny.config, t), (None, 0))
        self.value_and_grad = jax.jit(jax.value_and_grad(self.loss))
        self.logprob = jax.jit(lambda params: self.distribution(params)[0])

    def distribution(self, params):
        logits = self._forward(params, self.tokens) / self.loss_config.temperature
        p = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(p, self.target[..., None], -1)[..., 0]
        return own, -jnp.sum(jnp.exp(p) * p, -1)

    def loss(self, params, old, rows, reference):
        c = self.loss_config
        logprob, entropy = self.distribution(params)
        live = self.live & rows[:, None]
        advantage = self.advantage[:, None]
        ratio = jnp.exp(logprob - old)
        clipped = jnp.minimum(jnp.maximum(ratio, 1 - c.clip_low), 1 + c.clip_high)
        per_token = -jnp.minimum(advantage * ratio, advantage * clipped)
        k = reference - logprob
        per_token += c.kl_coef * (jnp.exp(k) - 1 - k)
        policy = jnp.sum(jnp.where(live, self.weight[:, None] * per_token, 0))
        mean_entropy = jnp.sum(jnp.where(live, entropy, 0)) / jnp.sum(live)
        return policy - c.entropy_coef * mean_entropy


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
