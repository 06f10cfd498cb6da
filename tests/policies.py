"""Policies without training: random weights, and checkpoints as training would leave them."""

import functools

import jax
import jax.numpy as jnp

from dars_jax.config import flatten
from dars_jax.learner import update
from dars_jax.policy import decoder, sharding, weights
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build
from dars_jax.tasks import countdown


def random(directory):
    """The embedded policy with random weights: made in a second, right about nothing."""
    config = decoder.ARCHITECTURES["countdown"]
    params = jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(0))
    weights.save_params(directory, params, config, source=None, dtype=jnp.float32)
    countdown.train_tokenizer(directory / "tokenizer.model")
    return directory


def checkpoint(config, workdir, steps, policy=None):
    """Checkpoints with parameters of step + 1 times the initial ones -> those of the last."""
    plan = build.make_plan(config)
    mesh = sharding.make_mesh(*plan.mesh_shape)
    optimizer = update.make_optimizer(plan.optimizer)
    shardings = update.state_shardings(plan.model, optimizer, mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", flatten(config), keep=5)
    for step in steps:
        params = weights.load_params(policy or config.policy.path, plan.model, shardings.params)
        params = jax.tree.map(lambda x, step=step: x * (step + 1), params)
        checkpoints.save(step, update.init_state(params, optimizer, shardings))
    checkpoints.close()
    return params
