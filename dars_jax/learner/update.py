"""E full-batch epochs as one compiled program.

The outer scan runs over optimizer steps: one per epoch, or one per mini-batch and epoch where the
baselines cut the batch.  Inside it a loop over micro-batches, whose bound is data, sums float32
gradients.  Weights and denominators are part of the batch, so there is nothing to average and any
cut of the same rows gives the same gradient.

Gradients are computed in shard_map over the whole mesh, every device on rows of its own; the
collectives are written out in gradient.py.  The optimizer works on the shards.

With adapters (policy/lora.py) the state holds them alone, and the weights they stand beside are an
argument of their own.

In the first pass over a full batch policy and old policy are the same weights: its own forward
pass supplies the old log-probs, and no separate pass is run.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dars_jax import ratios
from dars_jax.learner import loss as loss_lib
from dars_jax.learner.gradient import Passes
from dars_jax.policy import decoder, lora, sharding
from dars_jax.policy.attention import packed_attention, splash_attention
from dars_jax.policy.lora import Lora
from dars_jax.types import TrainState, UpdateBatch

# What keeps the chip computing while weights and gradients of layers travel.
_TPU_OPTIONS = {
    # The one gather of a layer that nothing can hide runs an iteration ahead.
    "xla_tpu_enable_ici_ag_pipelining": "true",
    "xla_tpu_max_ag_pipelining_per_loop": "1",
}
# v6e gathers and scatters beside the computation, but only on its sparse cores.
_V6E_OPTIONS = {
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false",
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
}
# Elsewhere a product whose result is scattered at once is split into steps between which pieces
# travel, at the price of slower products and of sums of pieces: a tenth of a layer on v5e.
_OTHER_OPTIONS = {
    "xla_tpu_prefer_einsum_reduce_scatter": "true",
    "xla_tpu_decompose_einsum_reduce_scatter": "true",
}
# VMEM for the windows of a product, in KiB: with less it waits for the memory.  Half of v5p's ("TPU
# v5") and v6e's; a quarter of v5e's ("TPU v5 lite"), with half of it compiling takes much longer.
_WINDOWS = {"TPU v6": "65536", "TPU v5": "32768"}

ATTENTION = {"xla": packed_attention, "splash": splash_attention}


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
    gather: str = "epoch"  # when weights become whole, see gradient.py
    attention: str = "xla"  # a key of ATTENTION
    entropy_target: float = 0.0  # nats; 0 keeps the coefficient of the loss
    entropy_step: float = 0.0  # by which the coefficient then changes
    gap_limit: float = math.inf  # mean nats, sampler to trainer; above it nothing is applied
    lora: Lora | None = None  # what learns in place of the weights


# What is kept of past gradients, and its bytes per parameter.  A second moment in bfloat16 is no
# choice: a step takes at most 1 - beta2 of it away, which at 0.999 rounds to nothing, so it would
# never fall.
MOMENTS = {"float32": 8, "bfloat16": 6, "factored": 2}
# Axes shorter than this are not factored, as in Adafactor: layers, heads, norms.
_FACTORED_FROM = 128


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
    moments: str = "float32"  # a key of MOMENTS


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optimizer; with warm-up the first step already has rate learning_rate / steps.

    "factored" is Adafactor (arXiv 1804.04235) with Adam's decay and first moment, without its
    steps relative to the size of weights: gradients are divided by the root of row means times
    column means, of matrices whose axes have _FACTORED_FROM entries, and then averaged.
    """
    rate = config.learning_rate
    schedule = rate
    if config.warmup_steps:
        schedule = optax.linear_schedule(
            rate / config.warmup_steps, rate, max(config.warmup_steps - 1, 1)
        )
    clip = optax.clip_by_global_norm(config.clip_norm)
    first = None if config.moments == "float32" else jnp.bfloat16
    if config.moments != "factored":
        return optax.chain(
            clip,
            optax.adamw(schedule, config.beta1, config.beta2, config.eps, mu_dtype=first,
                        weight_decay=config.weight_decay),
        )  # fmt: skip
    return optax.chain(
        clip,
        optax.scale_by_factored_rms(
            decay_rate=config.beta2,
            decay_rate_fn=_decay,
            min_dim_size_to_factor=_FACTORED_FROM,
            epsilon=max(config.eps**2, 1e-30),  # of squares; below, float32 would have 0
        ),
        optax.ema(config.beta1, accumulator_dtype=first),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def _decay(step: jax.Array, beta: float) -> jax.Array:
    """The rate with which a running mean is at every step what Adam's is after its correction."""
    return 1 - (1 - beta) / (1 - beta ** (step.astype(jnp.float32) + 1))


def state_shardings(
    config: decoder.ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    entropy_target: float = 0.0,
    adapters: Lora | None = None,
) -> TrainState:
    """Where every leaf of the TrainState lives.

    Moments lie where their parameter lies; factors of one, which are small, lie everywhere.
    """
    params = sharding.param_shardings(config, mesh)
    if adapters:
        params = sharding.adapter_shardings(config, adapters, mesh)
    everywhere: Any = sharding.replicated(mesh)
    sizes = lora.learning(config, adapters)
    shapes = jax.eval_shape(optimizer.init, sizes)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda moment, param, where: where if moment.shape == param.shape else everywhere,
        shapes, sizes, params, transform_non_params=lambda _: everywhere,
    )  # fmt: skip
    return TrainState(everywhere, params, opt_state, everywhere if entropy_target else None)


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    entropy_coef: float = 0.0,
) -> TrainState:
    """A fresh state around what learns; entropy_coef is the first with a target."""
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    entropy = None
    if shardings.entropy is not None:
        entropy = jax.device_put(np.array([entropy_coef, 0], np.float32), shardings.entropy)
    return TrainState(step, params, opt_state, entropy)


def make_update(
    config: UpdateConfig,
    model_config: decoder.ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Compiles `update(state, batch, initial) -> (state, metrics)`; the state is donated.

    `initial` are the parameters of the initial policy: of the KL term, and with adapters the frozen
    weights; None where neither asks for them.  Every metric is
    float32[E*J], one entry per optimizer step: loss, entropy, clip_fraction, grad_norm, kl, with a
    correction bounded_fraction, with an entropy target entropy_coef, finite and applied (0 or 1; a
    mini-batch without signal is finite and not applied); and what `ratios.gap` says of the whole
    batch, before any update.

    Where that gap is above gap_limit, the sampler had other weights than the state: `strange` is
    1, nothing is applied, and the state that comes back is the one that was given, to its step.
    """
    shardings = state_shardings(model_config, optimizer, mesh, config.entropy_target, config.lora)
    initial = sharding.param_shardings(model_config, mesh)
    whole = lora.joined(initial, shardings.params) if config.lora else initial
    passes = Passes(
        model=model_config, attention=ATTENTION[config.attention], loss=config.loss,
        specs=jax.tree.map(lambda s: s.spec, whole), gather=config.gather,
        chunk=config.chunk, dtype=config.dtype, remat=config.remat,
    )  # fmt: skip
    run = functools.partial(_update, config, optimizer, mesh, passes)
    return jax.jit(
        run,
        in_shardings=(
            shardings,
            sharding.batch_shardings(mesh),
            initial if config.loss.kl_coef or config.lora else None,
        ),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=(0,),
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )


def compiler_options(device: jax.Device) -> dict[str, str] | None:
    """The compiler's settings for the update on a kind of device; None leaves them alone."""
    if device.platform != "tpu":
        return None
    kind = device.device_kind
    options = _TPU_OPTIONS | (_V6E_OPTIONS if kind.startswith("TPU v6") else _OTHER_OPTIONS)
    window = next((kib for start, kib in _WINDOWS.items() if kind.startswith(start)), None)
    return options | ({"xla_tpu_scoped_vmem_limit_kib": window} if window else {})


def _micro(batch: UpdateBatch, m: jax.Array) -> dict[str, jax.Array]:
    """Micro-batch m: every per-token array of the batch at [:, m]."""
    names = [f.name for f in dataclasses.fields(batch) if f.name not in ("bounds", "token_count")]
    return {
        name: jax.lax.dynamic_index_in_dim(getattr(batch, name), m, 1, keepdims=False)
        for name in names
    }


def _logprobs(passes: Passes, params: decoder.Params, batch: UpdateBatch) -> jax.Array:
    """Log-probs of all targets -> float32[b,M,T]; micro-batches beyond the live ones stay 0."""
    weights = passes.collect(params)

    def body(m: jax.Array, out: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(out, passes.logprob(weights, _micro(batch, m)), m, 1)

    return lax.fori_loop(0, batch.bounds[-1], body, jnp.zeros_like(batch.weight))


def _gradient(
    config: UpdateConfig,
    passes: Passes,
    params: decoder.Params,
    batch: UpdateBatch,
    old: jax.Array,
    reference: jax.Array | None,
    epoch: jax.Array,
    j: jax.Array,
    entropy_coef: jax.Array | None,
) -> tuple[decoder.Params, loss_lib.Sums, jax.Array]:
    """Gradient of mini-batch j -> (shards of the gradient, Sums of all devices, old log-probs)."""
    weights = passes.collect(params)
    own_old = config.num_minibatches == 1
    first = jnp.logical_and(own_old, epoch == 0)
    tokens = jnp.maximum(batch.token_count[j], 1)
    coef = config.loss.entropy_coef if entropy_coef is None else entropy_coef

    def micro(m: jax.Array, carry: Any) -> Any:
        total, sums, old = carry
        arrays = _micro(batch, m) | {
            "old_logprob": lax.dynamic_index_in_dim(old, m, 1, keepdims=False),
            "first": first,
            "entropy_weight": coef / tokens,
        }
        if reference is not None:
            arrays["reference_logprob"] = lax.dynamic_index_in_dim(reference, m, 1, keepdims=False)
        total, new, logprob = passes.add_gradient(weights, total, arrays)
        if own_old:
            kept = jnp.where(first, logprob, arrays["old_logprob"])
            old = lax.dynamic_update_index_in_dim(old, kept, m, 1)
        return total, sums + new, old

    start = (passes.zeros(weights), loss_lib.Sums.zeros(), old)
    total, sums, old = lax.fori_loop(batch.bounds[j], batch.bounds[j + 1], micro, start)
    grads = jax.tree.map(lambda g: g * config.loss_scale, passes.distribute(total))
    return grads, lax.psum(sums, sharding.MESH_AXES), old


def _update(
    config: UpdateConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    passes: Passes,
    state: TrainState,
    batch: UpdateBatch,
    initial: decoder.Params | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    rows, whole = PartitionSpec(sharding.MESH_AXES), PartitionSpec()
    batch_specs = jax.tree.map(lambda s: s.spec, sharding.batch_shardings(mesh))
    on_mesh = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)

    def logprobs(weights: Any) -> jax.Array:
        run = functools.partial(_logprobs, passes)
        specs = passes.specs_of(weights)
        return on_mesh(run, in_specs=(specs, batch_specs), out_specs=rows)(weights, batch)

    gradient = on_mesh(
        functools.partial(_gradient, config, passes),
        in_specs=(passes.specs, batch_specs, rows, rows, whole, whole, whole),
        out_specs=(passes.specs_of(state.params), whole, rows),
    )
    reference_logprob = logprobs(initial) if config.loss.kl_coef else None
    # Only the first of several mini-batches is on policy when its turn comes.
    own_old = config.num_minibatches == 1
    weights_of = functools.partial(lora.whole, config.lora, initial)
    old = jnp.zeros_like(batch.weight) if own_old else logprobs(weights_of(state.params))

    def optimizer_step(carry: Any, xs: tuple[jax.Array, jax.Array]) -> Any:
        params, opt_state, entropy, old = carry
        epoch, j = xs
        coef = None
        if entropy is not None:
            coef = jnp.where(entropy[1] <= config.entropy_target, entropy[0], 0.0)
        grads, sums, old = gradient(
            weights_of(params), batch, old, reference_logprob, epoch, j, coef
        )
        if config.lora:
            grads = lora.scaled(grads, config.lora.scale)
        norm = optax.tree.norm(grads)
        # Moments that are no numbers would make weights that are none.  A sum of what is read
        # anyway needs no copy of the updates.
        moments = sum(jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(opt_state))
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss) & jnp.isfinite(moments)
        # By now `old` is complete, and it stays the same in all steps that follow.
        gap = ratios.gap(old, batch.sampler_logprob, batch.weight > 0)
        strange = finite & ~(gap["logprob_gap"] <= config.gap_limit)
        apply = finite & ~strange & (batch.token_count[j] > 0)
        updates, new_opt_state = optimizer.update(grads, opt_state, params)
        new_params = optax.apply_updates(params, updates)
        keep = functools.partial(jax.tree.map, lambda new, now: jnp.where(apply, new, now))
        params, opt_state = keep(new_params, params), keep(new_opt_state, opt_state)
        tokens = jnp.maximum(batch.token_count[j], 1)
        metrics = {
            "loss": sums.loss,
            "entropy": sums.entropy / tokens,
            "clip_fraction": sums.clipped / tokens,
            "kl": sums.kl / tokens,
            "grad_norm": norm,
            "finite": finite.astype(jnp.float32),
            "applied": apply.astype(jnp.float32),
            "strange": strange.astype(jnp.float32),
            **gap,
        }
        if config.loss.correction != "none":
            metrics["bounded_fraction"] = sums.bounded / tokens
        if entropy is not None:
            metrics["entropy_coef"] = coef
            after = ratios.entropy_control(
                entropy[0], metrics["entropy"], target=config.entropy_target,
                step=config.entropy_step,
            )  # fmt: skip
            entropy = keep(jnp.stack([after, metrics["entropy"]]), entropy)
        return (params, opt_state, entropy, old), metrics

    epochs, minibatches = jnp.meshgrid(
        jnp.arange(config.num_epochs), jnp.arange(config.num_minibatches), indexing="ij"
    )
    (params, opt_state, entropy, _), metrics = jax.lax.scan(
        optimizer_step,
        (state.params, state.opt_state, state.entropy, old),
        (epochs.ravel(), minibatches.ravel()),
    )
    done = jnp.where(jnp.any(metrics["strange"] > 0), 0, 1).astype(jnp.int32)
    return TrainState(state.step + done, params, opt_state, entropy), metrics
