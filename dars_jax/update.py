"""E full-batch epochs as one compiled program.

The outer scan runs over optimizer steps: one per epoch, or one per mini-batch and epoch where the
baselines cut the batch.  Inside it a loop over micro-batches, whose bound is data, sums float32
gradients.  Weights and denominators are part of the batch, so there is nothing to average and any
cut of the same rows gives the same gradient.

In the first pass over a full batch policy and old policy are the same weights: its own forward
pass supplies the old log-probs, and no separate pass is run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dars_jax import loss as loss_lib
from dars_jax import model, sharding
from dars_jax.types import TrainState, UpdateBatch


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Static settings of an update.  Sizes are counts."""

    loss: loss_lib.LossConfig
    num_epochs: int
    num_minibatches: int
    loss_scale: float
    chunk: int  # tokens of each row whose logits exist at a time
    dtype: jnp.dtype
    remat: str


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping; the learning rate is constant after the warm-up."""

    learning_rate: float
    warmup_steps: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optimizer; with warm-up the first step already has rate learning_rate / steps."""
    rate = config.learning_rate
    schedule = rate
    if config.warmup_steps:
        schedule = optax.linear_schedule(
            rate / config.warmup_steps, rate, max(config.warmup_steps - 1, 1)
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, config.beta1, config.beta2, config.eps,
                    weight_decay=config.weight_decay),
    )  # fmt: skip


def state_shardings(
    config: model.ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Where every leaf of the TrainState lives; moments lie where their parameter lies."""
    params = sharding.param_shardings(config, mesh)
    everywhere = sharding.replicated(mesh)
    shapes = jax.eval_shape(optimizer.init, model.abstract_params(config))
    opt_state = optax.tree.map_params(
        optimizer, lambda _, s: s, shapes, params, transform_non_params=lambda _: everywhere
    )
    return TrainState(step=everywhere, params=params, opt_state=opt_state)


def init_state(
    params: Any, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """A fresh state around sharded parameters."""
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step=step, params=params, opt_state=opt_state)


def make_update(
    config: UpdateConfig,
    model_config: model.ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles `update(state, batch, reference) -> (state, metrics)`; the state is donated.

    `reference` are the parameters of the KL term, or None where kl_coef is 0.  Every metric is
    float32[E*J], one entry per optimizer step: loss, entropy, clip_fraction, grad_norm, kl,
    logprob_gap (mean), logprob_gap_max (nats, sampler against trainer), finite and applied (0 or
    1; a mini-batch without signal is finite and not applied).
    """
    shardings = state_shardings(model_config, optimizer, mesh)
    run = functools.partial(_update, config, model_config, optimizer, shardings)
    return jax.jit(
        run,
        in_shardings=(
            shardings,
            sharding.batch_shardings(mesh),
            shardings.params if config.loss.kl_coef else None,
        ),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=(0,),
    )


def _micro(batch: UpdateBatch, m: jax.Array) -> dict[str, jax.Array]:
    """Micro-batch m: every per-token array of the batch at [:, m]."""
    names = [f.name for f in dataclasses.fields(batch) if f.name not in ("bounds", "token_count")]
    return {
        name: jax.lax.dynamic_index_in_dim(getattr(batch, name), m, 1, keepdims=False)
        for name in names
    }


def _logprobs(
    params: model.Params, batch: UpdateBatch, config: UpdateConfig, model_config: model.ModelConfig
) -> jax.Array:
    """Log-probs of all targets -> float32[b,M,T]; micro-batches beyond the live ones stay 0."""

    def body(m: jax.Array, out: jax.Array) -> jax.Array:
        new = loss_lib.micro_logprob(
            params, _micro(batch, m), model_config=model_config,
            temperature=config.loss.temperature, chunk=config.chunk, dtype=config.dtype,
        )  # fmt: skip
        return jax.lax.dynamic_update_index_in_dim(out, new, m, 1)

    return jax.lax.fori_loop(0, batch.bounds[-1], body, jnp.zeros_like(batch.weight))


def _update(
    config: UpdateConfig,
    model_config: model.ModelConfig,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    state: TrainState,
    batch: UpdateBatch,
    reference: model.Params | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    kl = bool(config.loss.kl_coef)
    reference_logprob = _logprobs(reference, batch, config, model_config) if kl else None
    # Only the first of several mini-batches is on policy when its turn comes.
    own_old = config.num_minibatches == 1
    old = (
        jnp.zeros_like(batch.weight)
        if own_old
        else _logprobs(state.params, batch, config, model_config)
    )
    loss_of = functools.partial(
        loss_lib.micro_loss, model_config=model_config, config=config.loss, chunk=config.chunk,
        dtype=config.dtype, remat=config.remat,
    )  # fmt: skip

    def optimizer_step(carry: Any, xs: tuple[jax.Array, jax.Array]) -> Any:
        params, opt_state, old = carry
        epoch, j = xs
        tokens = jnp.maximum(batch.token_count[j], 1)

        def micro(m: jax.Array, acc: Any) -> Any:
            grads, sums, old = acc
            arrays = _micro(batch, m)
            arrays["old_logprob"] = jax.lax.dynamic_index_in_dim(old, m, 1, keepdims=False)
            arrays["first"] = jnp.logical_and(own_old, epoch == 0)
            arrays["entropy_weight"] = config.loss.entropy_coef / tokens
            if kl:
                arrays["reference_logprob"] = jax.lax.dynamic_index_in_dim(
                    reference_logprob, m, 1, keepdims=False
                )
            (_, (new, logprob)), g = jax.value_and_grad(loss_of, has_aux=True)(params, arrays)
            grads = jax.tree.map(lambda a, x: a + x.astype(jnp.float32), grads, g)
            if own_old:
                kept = jnp.where(arrays["first"], logprob, arrays["old_logprob"])
                old = jax.lax.dynamic_update_index_in_dim(old, kept, m, 1)
            return grads, sums + new, old

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        zeros = jax.lax.with_sharding_constraint(zeros, shardings.params)
        start = (zeros, loss_lib.Sums.zeros(), old)
        grads, sums, old = jax.lax.fori_loop(batch.bounds[j], batch.bounds[j + 1], micro, start)
        grads = jax.tree.map(lambda g: g * config.loss_scale, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
        apply = finite & (batch.token_count[j] > 0)
        updates, new_opt_state = optimizer.update(grads, opt_state, params)
        new_params = optax.apply_updates(params, updates)
        keep = functools.partial(jax.tree.map, lambda new, now: jnp.where(apply, new, now))
        params, opt_state = keep(new_params, params), keep(new_opt_state, opt_state)
        metrics = {
            "loss": sums.loss,
            "entropy": sums.entropy / tokens,
            "clip_fraction": sums.clipped / tokens,
            "kl": sums.kl / tokens,
            "logprob_gap": sums.gap / tokens,
            "logprob_gap_max": sums.gap_max,
            "grad_norm": norm,
            "finite": finite.astype(jnp.float32),
            "applied": apply.astype(jnp.float32),
        }
        return (params, opt_state, old), metrics

    epochs, minibatches = jnp.meshgrid(
        jnp.arange(config.num_epochs), jnp.arange(config.num_minibatches), indexing="ij"
    )
    (params, opt_state, _), metrics = jax.lax.scan(
        optimizer_step,
        (state.params, state.opt_state, old),
        (epochs.ravel(), minibatches.ravel()),
    )
    return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics
